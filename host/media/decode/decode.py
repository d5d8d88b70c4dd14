"""Decodes videos for srpo: requests on stdin, frames on stdout.

A request is one line of JSON: {"path", "max_frames", "max_bytes", "least_frames", "least_side"}. The reply is one line
of JSON and the pixels:

    {"frames": N, "height": H, "width": W, "seen": M, "stride": K}   then N*H*W*3 bytes, uint8 RGB, row by row
    {"problem": "why it cannot be decoded"}                          then nothing

The video has M frames. If there are more than max_frames, or more than max_bytes of pixels, every K-th frame is
returned, where K is a power of two, and the last frame. If fewer than least_frames would remain, the size of the frames
is halved instead, as long as the shorter side keeps least_side pixels; "full_height" and "full_width" are then the size
of the video. The program ends when stdin is closed, also while it decodes a video.
"""

import json
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
        self.kept, self.stride, self.seen, self.last = [], 1, 0, None
        self.shape, self.halvings = None, 0

    def add(self, frame):
        """Adds the next frame, uint8 [H, W, 3]. Raises Unusable if it is too large or of another size than before."""
        if self.shape is not None and frame.shape != self.shape:
            (h, w, _), (h0, w0, _) = frame.shape, self.shape
            raise Unusable(f"its size changes: frame {self.seen + 1} is {w} x {h} pixels, earlier ones {w0} x {h0}")
        if frame.nbytes > self.max_bytes:
            raise Unusable(f"its frames are too large: {frame.shape[1]} x {frame.shape[0]} pixels")
        self.shape = frame.shape
        for _ in range(self.halvings):
            frame = halve(frame)
        if self.seen % self.stride == 0:
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
            if self.seen % self.stride == 0:
                self.kept.append(frame)
        self.last = frame
        self.seen += 1

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


def read_image(path, thinner):
    """Adds the frames of an animated image: webp, apng or avif."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        for n in range(getattr(image, "n_frames", 1)):
            image.seek(n)
            rgba = image.convert("RGBA")
            black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
            thinner.add(np.asarray(Image.alpha_composite(black, rgba).convert("RGB")))


def read_video(path, thinner):
    """Adds the frames of a video that FFmpeg can read."""
    import av
    import numpy as np

    with av.open(path) as container:
        if not container.streams.video:
            raise Unusable("it contains no video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            turns = round(getattr(frame, "rotation", 0) / 90) % 4  # as stored by phones
            thinner.add(np.rot90(pixels, turns) if turns else pixels)


def decode(request):
    """Returns the Thinner and the kept frames of a request. Raises Unusable."""
    thinner = Thinner(*(request[k] for k in ("max_frames", "max_bytes", "least_frames", "least_side")))
    path = request["path"]
    try:
        (read_image if path.lower().endswith((".webp", ".png", ".apng", ".avif")) else read_video)(path, thinner)
    except Unusable:
        raise
    except MemoryError:
        raise Unusable("not enough memory to decode it") from None
    except Exception as e:  # the libraries raise many types for broken files
        message = " ".join(str(getattr(e, "strerror", None) or e).split())
        place = f" after frame {thinner.seen}" if thinner.seen else ""
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
            if thinner.halvings:
                head["full_height"], head["full_width"], _ = thinner.shape
            out.write(json.dumps({**head, "stride": thinner.stride}).encode() + b"\n")
            for frame in frames:
                out.write(frame.tobytes())
        out.flush()


if __name__ == "__main__":
    main()
