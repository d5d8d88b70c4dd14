"""Writes the same clip in many forms into a folder, for the tests: python make_shown.py FOLDER.

The clip has 16 frames of 48 x 32 pixels at 10 per second: a square that moves in the first 6 frames and then rests.
"""

import pathlib
import struct
import sys
from fractions import Fraction

import av
import numpy as np
from PIL import Image

folder = pathlib.Path(sys.argv[1])
STILL = 6  # the first frame that equals all later ones


def scene(t, height=32, width=48):
    frame = np.full((height, width, 3), (40, 60, 80), np.uint8)
    left = 2 * min(t, STILL)
    frame[8:16, left : left + 8] = (200, 80, 40)
    return frame


def encode(container, stream, times, draw=scene, time_base=Fraction(1, 10)):
    for t in times:
        frame = av.VideoFrame.from_ndarray(draw(t), format="rgb24")
        frame.pts, frame.time_base = t, time_base
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def add_stream(container, codec="libx264", rate=10, size=(48, 32)):
    stream = container.add_stream(codec, rate=rate)
    stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
    stream.codec_context.time_base = Fraction(1, rate)
    stream.bit_rate = 4_000_000
    return stream


def film(name, times=range(16), codec="libx264", draw=scene, rate=10, **options):
    with av.open(str(folder / name), "w", **options) as c:
        stream = add_stream(c, codec, rate, draw(0).shape[1::-1])
        encode(c, stream, times, draw, Fraction(1, rate))


CHANGES = [*range(STILL + 1), 15]

# A constant frame rate in every container.
for name, codec in {
    "h264.mp4": "libx264", "h264.ts": "libx264", "h264.m2ts": "libx264", "h264.flv": "libx264", "h264.3gp": "libx264",
    "h264.mkv": "libx264", "h264.avi": "libx264", "mpeg4.avi": "mpeg4", "vp8.webm": "libvpx", "vp8.ogv": "libvpx",
    "wmv.wmv": "wmv2",
}.items():  # fmt: skip
    film(name, codec=codec, **({"format": "mpegts"} if name.endswith("ts") else {}))
film("mpeg2.mpeg", codec="mpeg2video", rate=25)
# Frames only where something changes.
for name in ("changes.mp4", "changes.mkv", "changes.ts"):
    film(name, CHANGES)
film("changes.webm", CHANGES, codec="libvpx")

pictures = [Image.fromarray(scene(t)) for t in range(STILL + 1)]
durations = [100] * STILL + [1000]
for name, options in {"changes.gif": {}, "changes.webp": {"lossless": True}, "changes.apng": {"format": "PNG"}}.items():
    pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=durations, **options)
# An APNG whose first picture is for programs without animations.
hidden = Image.fromarray(np.full((32, 48, 3), 255, np.uint8))
hidden.save(
    folder / "hidden.apng", format="PNG", save_all=True, append_images=pictures, default_image=True, duration=durations
)

# A display matrix, in all eight forms. The stored picture is the shown one before its transformation.
MATRICES = {
    "none": (1, 0, 0, 1), "hflip": (-1, 0, 0, 1), "turn180": (-1, 0, 0, -1), "vflip": (1, 0, 0, -1),
    "transpose": (0, 1, 1, 0), "clockwise": (0, 1, -1, 0), "transverse": (0, -1, -1, 0),
    "counterclockwise": (0, -1, 1, 0),
}  # fmt: skip
STORED = {
    "none": lambda f: f, "hflip": np.fliplr, "turn180": lambda f: np.rot90(f, 2), "vflip": np.flipud,
    "transpose": lambda f: f.swapaxes(0, 1), "clockwise": lambda f: np.rot90(f, 1),
    "transverse": lambda f: np.rot90(f.swapaxes(0, 1), 2), "counterclockwise": lambda f: np.rot90(f, -1),
}  # fmt: skip
for k, (name, (a, b, c, d)) in enumerate(MATRICES.items(), 1):
    path = folder / f"matrix-{name}.mp4"
    film(path.name, draw=lambda t, turn=STORED[name]: np.ascontiguousarray(turn(scene(t))))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    # The same orientations in EXIF, which are numbered in this order.
    (folder / f"exif-{name}").mkdir()
    for kind in ("jpg", "png", "webp"):
        into = folder / f"exif-{name}" / kind
        into.mkdir()
        for t in range(16):
            exif = Image.Exif()
            exif[0x0112] = k
            picture = Image.fromarray(np.ascontiguousarray(STORED[name](scene(t))))
            options = {"webp": {"lossless": True}, "jpg": {"quality": 98}}.get(kind, {})
            picture.save(into / f"{t}.{kind}", exif=exif, **options)

# Several video streams: a small preview before the film, and a large cover.
with av.open(str(folder / "preview.mkv"), "w") as c:
    small, large = add_stream(c, size=(24, 16)), add_stream(c)
    for stream, step in ((small, 2), (large, 1)):
        stream.disposition = 0
        for t in range(16):
            frame = np.ascontiguousarray(scene(t)[::step, ::step] // step)
            frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 10)
            c.mux(stream.encode(frame))
        c.mux(stream.encode())
for name, has_film in {"cover.mp4": True, "only-cover.mp4": False}.items():
    with av.open(str(folder / name), "w") as c:
        cover = add_stream(c, "png", size=(960, 640))
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = add_stream(c) if has_film else None
        picture = av.VideoFrame.from_ndarray(np.full((640, 960, 3), 255, np.uint8), format="rgb24")
        picture.pts = 0
        c.mux(cover.encode(picture))
        if stream:
            encode(c, stream, range(16))

# A transport stream whose clock jumps by an hour in the middle, and a video with uneven timestamps.
for name, jump in (("part1.ts", 0), ("part2.ts", 36000)):
    with av.open(str(folder / name), "w", format="mpegts") as c:
        stream = add_stream(c)
        half = range(8) if not jump else range(8, 16)
        for t in half:
            frame = av.VideoFrame.from_ndarray(scene(t), format="rgb24")
            frame.pts, frame.time_base = t + jump, Fraction(1, 10)
            c.mux(stream.encode(frame))
        c.mux(stream.encode())
(folder / "jump.ts").write_bytes((folder / "part1.ts").read_bytes() + (folder / "part2.ts").read_bytes())
jitter = [0, 3, -2, 4, 1, -4, 2, 0, 3, -3, 4, -1, 0, 2, -2, 0]
with av.open(str(folder / "jitter.mkv"), "w") as c:
    stream = add_stream(c)
    stream.codec_context.time_base = Fraction(1, 300)
    for t in range(16):
        frame = av.VideoFrame.from_ndarray(scene(t), format="rgb24")
        frame.pts, frame.time_base = 30 * t + jitter[t], Fraction(1, 300)
        c.mux(stream.encode(frame))
    c.mux(stream.encode())
