"""Decodes videos for srpo: requests on stdin, frames on stdout.

A request is one line of JSON: {"path", "max_frames", "max_bytes", "least_frames", "least_side"}, where "path" is a
video, or {"path", "pictures": [NAME, ...], ...}, where "path" is a folder and the pictures are its frames. The reply
is one line of JSON and the pixels:

    {"frames": N, "height": H, "width": W, "seen": M, "stride": K}   then N*H*W*3 bytes, uint8 RGB, row by row
    {"problem": "why it cannot be decoded"}                          then nothing

A frame counts as long as it is shown: the video is a sequence of M ticks of equal length, and each tick has the frame
that is shown then. A tick is the usual time between two frames (see tick_length), so a video with a constant frame
rate has one tick per frame. Otherwise "stored" is the number of stored frames and "rate" the number of ticks per
second. If there are more than max_frames ticks, or more than max_bytes of pixels, every K-th tick is returned, where K
is a power of two, and the last one. If fewer than least_frames would remain, the size of the frames is halved instead,
as long as the shorter side keeps least_side pixels; "full_height" and "full_width" are then the size of the video. The
program ends when stdin is closed, also while it decodes a video.
"""

import collections
import json
import math
import os
import queue
import sys
import threading


class Unusable(Exception):
    """A video that cannot be used. The message is the reason."""


class Thinner:
    """Keeps evenly spaced frames of a stream of unknown length in bounded memory.

    max_bytes is the maximum size of the kept frames together; least_side is in pixels.
    """

    def __init__(self, max_frames, max_bytes, least_frames, least_side):
        self.max_frames, self.max_bytes = max_frames, max_bytes
        self.least_frames, self.least_side = least_frames, least_side
        self.restart()

    def restart(self):
        """Forgets all frames."""
        self.kept, self.stride, self.seen, self.last = [], 1, 0, None
        self.shape, self.halvings = None, 0
        self.stored, self.timing = 0, None

    def add(self, frame, ticks=1):
        """Adds the next frame, uint8 [H, W, 3], which is shown for a number of ticks.

        Raises Unusable if it is too large or of another size than before.
        """
        if self.shape is not None and frame.shape != self.shape:
            (h, w, _), (h0, w0, _) = frame.shape, self.shape
            raise Unusable(f"its size changes: frame {self.stored + 1} is {w} x {h} pixels, earlier ones {w0} x {h0}")
        if frame.nbytes > self.max_bytes:
            raise Unusable(f"its frames are too large: {frame.shape[1]} x {frame.shape[0]} pixels")
        self.shape = frame.shape
        self.stored += 1
        if ticks == 0:
            return
        for _ in range(self.halvings):
            frame = halve(frame)
        end = self.seen + ticks
        while (at := -(-self.seen // self.stride) * self.stride) < end:
            frame = self.make_room(frame)
            if at % self.stride == 0:
                self.kept.append(frame)
            self.seen = at + 1
        self.last, self.seen = frame, end

    def make_room(self, frame):
        """Leaves out or halves kept frames until another one fits. Returns the frame, halved as they are."""
        while len(self.kept) >= 2:
            full = (len(self.kept) + 1) * frame.nbytes > self.max_bytes
            if full and len(self.kept) < 2 * self.least_frames and min(frame.shape[:2]) >= 2 * self.least_side:
                self.kept = [halve(f) for f in self.kept]
                frame = halve(frame)
                self.halvings += 1
                continue
            if not full and len(self.kept) < self.max_frames:
                break
            self.kept = self.kept[::2]
            self.stride *= 2
        return frame

    def result(self):
        """Returns the kept frames, a list of uint8 [H, W, 3]."""
        if self.seen == 0:
            raise Unusable("the video is empty: it has no frame")
        if (self.seen - 1) % self.stride:
            self.kept.append(self.last)
        return self.kept


def halve(frame):
    """Averages 2 x 2 pixels of uint8 [H, W, 3]. An odd last row or column is dropped."""
    import numpy as np

    f = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2].astype(np.uint16)
    return ((f[::2, ::2] + f[1::2, ::2] + f[::2, 1::2] + f[1::2, 1::2] + 2) // 4).astype(np.uint8)


def tick_length(delays):
    """Returns the usual time between two frames, in the units of the delays: the mean of the shortest common delays.

    It is the mean delay of a video with a constant frame rate, also if its timestamps are rounded or jitter. The
    shortest twentieth of the delays is not common. tickLength in ticks.go computes the same.
    """
    delays = sorted(delays)
    tick = delays[len(delays) // 20]
    for _ in range(20):
        near = [d for d in delays if tick / 1.5 <= d <= tick * 1.5]
        tick, before = sum(near) / len(near), tick
        if tick == before:
            break
    return tick


def count_ticks(delays):
    """Returns the number of ticks for which each frame is shown, and the length of a tick.

    A frame that is shown much shorter than a tick may have none; the last frame has at least one. countTicks in
    ticks.go computes the same.
    """
    tick = tick_length(delays)
    ticks, now, at = [], 0, 0
    for d in delays:
        now += d
        end = math.floor(now / tick + 0.5 + 1e-9)
        ticks.append(end - at)
        at = end
    ticks[-1] = max(1, ticks[-1])
    return ticks, tick


def upright(picture, orientation):
    """Turns and flips a picture as its EXIF orientation says, 1 to 8."""
    from PIL import Image

    how = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return picture if how is None else picture.transpose(how)


def pixels_of(image, orientation):
    """Returns the current frame of an image over black, turned as it is shown: uint8 [H, W, 3]."""
    import numpy as np
    from PIL import Image

    rgba = image.convert("RGBA")
    black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    return np.asarray(upright(Image.alpha_composite(black, rgba).convert("RGB"), orientation))


EXIF_ORIENTATION = 0x0112


def read_image(path, thinner):
    """Adds the frames of an animated image: webp, apng or avif."""
    from PIL import Image

    with Image.open(path) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION, 1)
        frames = range(getattr(image, "n_frames", 1))
        if getattr(image, "default_image", False) and len(frames) > 1:
            frames = frames[1:]  # an APNG can have a picture for programs that show no animations
        if len(frames) == 1:
            thinner.add(pixels_of(image, orientation))
            return
        delays = []
        for n in frames:
            image.seek(n)
            image.load()
            delay = image.info.get("duration", 0)
            delays.append(delay if delay > 10 else 100)  # milliseconds, as browsers show it
        ticks, tick = count_ticks(delays)
        for n, shown in zip(frames, ticks):
            image.seek(n)
            thinner.add(pixels_of(image, orientation), shown)
        thinner.timing = (ticks, tick / 1000)


def read_pictures(folder, names, thinner):
    """Adds pictures of a folder, one frame each."""
    from PIL import Image

    for k, name in enumerate(names):
        if thinner.seen % thinner.stride and k < len(names) - 1:
            thinner.seen += 1
            continue
        try:
            with Image.open(os.path.join(folder, name)) as image:
                thinner.add(pixels_of(image, image.getexif().get(EXIF_ORIENTATION, 1)))
        except (Unusable, MemoryError):
            raise
        except Exception as e:  # as in decode
            raise Unusable(f"{name} does not decode: {' '.join(str(e).split()) or type(e).__name__}") from None


AVFMT_TS_DISCONT = 0x0200  # of a format whose timestamps may jump
LONGEST_JUMP = 10  # seconds; a longer one in such a format is no pause. ffmpeg has the same limit.


def choose_stream(container):
    """Returns the index of the video stream that ffmpeg takes, and (pts, duration) of its packets in file order.

    ffmpeg takes the stream with the most pixels; a stream that is marked as default has an advantage, and a cover or a
    stream without data is taken last.
    """
    from av.stream import Disposition

    streams = container.streams.video
    if not streams:
        raise Unusable("it contains no video")
    packets = {s.index: [] for s in streams}
    for packet in container.demux(list(streams)):
        if packet.size and not packet.is_discard:
            packets[packet.stream_index].append((packet.pts, packet.duration or 0))

    def score(s):
        if Disposition.attached_pic in s.disposition:
            return 1
        size = s.codec_context.width * s.codec_context.height
        return size + 5_000_000 * (Disposition.default in s.disposition) + 100_000_000 * bool(packets[s.index])

    best = max(streams, key=score)
    if score(best) == 1:
        raise Unusable("it contains only a cover picture and no video")
    return best.index, packets[best.index]


def show_times(stored, time_base, may_jump):
    """Returns the numbers of ticks by pts, in a queue because a pts can occur twice, and count_ticks' result.

    stored has (pts, duration) of every frame. The result is None if the timestamps are missing.
    """
    if not stored or any(pts is None for pts, _ in stored):
        return None
    parts, highest = [[]], None  # parts of the file without a jump
    for pts, duration in stored:
        if may_jump and highest is not None and abs(pts - highest) * time_base > LONGEST_JUMP:
            parts.append([])
            highest = None
        parts[-1].append((pts, duration))
        highest = pts if highest is None else max(highest, pts)
    order, delays = [], []
    for part in parts:
        part.sort()
        order += [pts for pts, _ in part]
        delays += [(b - a) * time_base for (a, _), (b, _) in zip(part, part[1:])]
        delays.append(part[-1][1] * time_base)
    known = [d for d in delays if d > 0]
    if not known:
        return None
    usual = tick_length(known)
    ticks, tick = count_ticks([d if d > 0 else usual for d in delays])
    shown = collections.defaultdict(collections.deque)
    for pts, n in zip(order, ticks):
        shown[pts].append(n)
    return shown, ticks, tick


def read_video(path, thinner):
    """Adds the frames of a video that FFmpeg can read."""
    import av

    with av.open(path) as container:
        index, packets = choose_stream(container)
        time_base = float(container.streams[index].time_base or 0)
        may_jump = bool(int(container.format.flags) & AVFMT_TS_DISCONT)
    times = show_times(packets, time_base, may_jump)
    decoded = add_frames(path, index, times, thinner)
    if sorted(p for p, _ in packets if p is not None) != sorted(p for p, _ in decoded if p is not None):
        # Packets without a frame of their own, such as VP8's hidden ones, or without a time.
        times = show_times(decoded, time_base, may_jump)
        thinner.restart()
        add_frames(path, index, times, thinner)
    if times:
        thinner.timing = times[1:]


def add_frames(path, index, times, thinner):
    """Decodes a stream and adds its frames. Returns the frames' (pts, duration)."""
    import av
    from av.sidedata.sidedata import Type

    decoded = []
    with av.open(path) as container:
        stream = container.streams[index]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            decoded.append((frame.pts, frame.duration or 0))
            shown = times and times[0].get(frame.pts)
            pixels = frame.to_ndarray(format="rgb24")
            matrix = frame.side_data.get(Type.DISPLAYMATRIX)
            if matrix is not None:
                pixels = apply_matrix(pixels, memoryview(bytes(matrix)).cast("i").tolist())
            thinner.add(pixels, shown.popleft() if shown else 1)
    return decoded


def apply_matrix(pixels, matrix):
    """Turns and flips uint8 [H, W, 3] as a display matrix says, to the nearest right angle.

    The matrix is [a, b, u, c, d, v, x, y, w]: the pixel at (p, q) is shown at (a*p + c*q, b*p + d*q). Phones turn with
    it, front cameras also mirror.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    if across < 0:
        pixels = pixels[:, ::-1]
    if down < 0:
        pixels = pixels[::-1]
    return pixels


def decode(request):
    """Returns the Thinner and the kept frames of a request. Raises Unusable."""
    thinner = Thinner(*(request[k] for k in ("max_frames", "max_bytes", "least_frames", "least_side")))
    path = request["path"]
    try:
        if "pictures" in request:
            read_pictures(path, request["pictures"], thinner)
        else:
            is_image = path.lower().endswith((".webp", ".png", ".apng", ".avif"))
            (read_image if is_image else read_video)(path, thinner)
    except Unusable:
        raise
    except MemoryError:
        raise Unusable("not enough memory to decode it") from None
    except Exception as e:  # the libraries raise many types for broken files
        message = " ".join(str(getattr(e, "strerror", None) or e).split())
        place = f" after frame {thinner.stored}" if thinner.stored else ""
        raise Unusable(f"it does not decode{place}: {message or type(e).__name__}") from None
    return thinner, thinner.result()


def main():
    out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    os.dup2(2, 1)  # replies go to a copy of stdout; what libraries print goes to stderr
    requests = queue.Queue()

    def read():
        for line in sys.stdin.buffer:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        request = json.loads(requests.get())
        try:
            thinner, frames = decode(request)
        except Unusable as e:
            out.write(json.dumps({"problem": str(e)}).encode() + b"\n")
        else:
            height, width, _ = frames[0].shape
            head = {"frames": len(frames), "height": height, "width": width, "seen": thinner.seen}
            if thinner.timing and any(n != 1 for n in thinner.timing[0]):
                head["stored"], head["rate"] = len(thinner.timing[0]), 1 / thinner.timing[1]
            if thinner.halvings:
                head["full_height"], head["full_width"], _ = thinner.shape
            out.write(json.dumps({**head, "stride": thinner.stride}).encode() + b"\n")
            for frame in frames:
                out.write(frame.tobytes())
        out.flush()


if __name__ == "__main__":
    main()
