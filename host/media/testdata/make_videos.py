"""Write the videos of the tests, 16 frames of a square that moves, and broken ones made of them.

    pip install av pillow numpy
    python make_videos.py
"""

import pathlib

import av
import numpy as np
from PIL import Image

here = pathlib.Path(__file__).parent


def frames(n=16, height=32, width=48):
    out = np.full((n, height, width, 3), (40, 60, 80), np.uint8)
    for t in range(n):
        out[t, 8:16, 2 * t : 2 * t + 8] = (200, 80, 40)
    return out


def film(name, pictures, codec="h264"):
    with av.open(str(here / name), "w") as c:
        s = c.add_stream(codec, rate=10)
        s.height, s.width, s.pix_fmt = pictures.shape[1], pictures.shape[2], "yuv420p"
        for p in pictures:
            c.mux(s.encode(av.VideoFrame.from_ndarray(p, format="rgb24")))
        c.mux(s.encode())


moving = frames()
film("square.mp4", moving)
film("black.mp4", np.zeros_like(moving))
whole = (here / "square.mp4").read_bytes()
(here / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
pictures = [Image.fromarray(p) for p in moving]
pictures[0].save(here / "square.webp", save_all=True, append_images=pictures[1:], duration=100, lossless=True)
pictures[0].save(here / "square.gif", save_all=True, append_images=pictures[1:], duration=100)
webp = (here / "square.webp").read_bytes()
(here / "truncated.webp").write_bytes(webp[: len(webp) // 2])
