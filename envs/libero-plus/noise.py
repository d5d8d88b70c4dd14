"""The sensor noise of LIBERO-Plus: five kinds with ten strengths each, with the benchmark's parameters.

The benchmark draws from NumPy's global generator, so its noise depends on earlier draws. Here every frame has a
separate generator that is seeded with the episode's seed and the step. The noise of a frame is therefore the same for
every reader. If the global generator has the same state, the benchmark's functions give the same pixels
(tests/test_noise.py).

Frames are uint8 [size, size, 3] in the simulator's orientation (rows from the bottom), as in the benchmark.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np

MOTION = ((5, 2), (8, 3), (10, 4), (12, 5), (15, 6), (18, 8), (20, 10), (25, 12), (30, 15), (35, 20))  # radius, sigma
ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03), (1.36, 0.01), (1.41, 0.01), (1.46, 0.02),
        (1.51, 0.02), (1.56, 0.03))  # end, step  # fmt: skip
FOG = ((0.5, 3), (1.0, 2.8), (1.5, 2.5), (2.0, 2.2), (2.5, 2.0), (3.0, 1.8), (3.5, 1.6), (4.0, 1.5), (4.5, 1.4),
       (5.0, 1.3))  # density, decay of detail  # fmt: skip
GLASS = ((0.5, 1, 3), (0.7, 1, 3), (0.9, 2, 3), (1.0, 2, 2), (1.1, 3, 2), (1.3, 3, 2), (1.5, 4, 2), (1.8, 4, 2),
         (2.2, 5, 1), (2.5, 5, 1))  # sigma, reach, rounds  # fmt: skip
FOG_FIELD = 256  # pixels; larger frames get the next power of two


def generator(seed: int, step: int) -> np.random.RandomState:
    """Return the generator for the frame after ``step`` steps of the episode with this seed (0 to 2^64 - 1)."""
    return np.random.RandomState(frame_seed(seed, step))


def frame_seed(seed: int, step: int) -> int:
    """Return the seed of ``generator``, 0 to 2^32 - 1."""
    return int(np.random.SeedSequence([seed & 0xFFFFFFFF, seed >> 32, step]).generate_state(1)[0])


def apply(frame: np.ndarray, noise: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the frame with noise number 1 to 50, uint8 [size, size, 3].

    Raises:
        ValueError: the frame is not square.
    """
    if frame.shape[0] != frame.shape[1]:
        raise ValueError(f"noise needs square frames, not {frame.shape[1]} x {frame.shape[0]} pixels")
    kind, strength = divmod(noise - 1, 10)
    return (_motion, _gaussian, _zoom, _fog, _glass)[kind](frame, strength, rng)


def _motion(frame: np.ndarray, strength: int, rng: np.random.RandomState) -> np.ndarray:
    import cv2
    from PIL import Image as Picture
    from wand.image import Image

    radius, sigma = MOTION[strength]
    png = io.BytesIO()
    Picture.fromarray(frame).save(png, format="PNG")
    with Image(blob=png.getvalue()) as image:
        image.motion_blur(radius=radius, sigma=sigma, angle=rng.uniform(-45, 45))
        blurred = cv2.imdecode(np.frombuffer(image.make_blob(), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(blurred[..., ::-1])


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    from skimage.filters import gaussian

    return gaussian(image, sigma=sigma, channel_axis=-1)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _gaussian(frame: np.ndarray, strength: int, rng: np.random.RandomState) -> np.ndarray:
    return _to_bytes(_blurred(frame / 255.0, strength + 1))


def _zoom(frame: np.ndarray, strength: int, rng: np.random.RandomState) -> np.ndarray:
    from scipy.ndimage import zoom

    end, step = ZOOM[strength]
    factors = np.arange(1, end, step)
    image = (frame / 255.0).astype(np.float32)
    height = image.shape[0]
    total = np.zeros_like(image)
    for factor in factors:
        cut = int(np.ceil(height / float(factor)))
        top = (height - cut) // 2
        larger = zoom(image[top : top + cut, top : top + cut], (factor, factor, 1), order=1)
        trim = (larger.shape[0] - height) // 2
        total += larger[trim : trim + height, trim : trim + height]
    return _to_bytes((image + total) / (len(factors) + 1))


def _fog(frame: np.ndarray, strength: int, rng: np.random.RandomState) -> np.ndarray:
    density, fade = FOG[strength]
    image = frame / 255.0
    size = FOG_FIELD
    while size < len(image):
        size *= 2
    brightest = image.max()
    image = image + density * _clouds(size, fade, rng)[: len(image), : len(image), None]
    return _to_bytes(image * brightest / (brightest + density))


def _clouds(size: int, fade: float, rng: np.random.RandomState) -> np.ndarray:
    """Return float64 [size, size] in 0 to 1: a height map by the diamond-square algorithm on a torus."""
    field = np.zeros((size, size))
    step, wobble = size, 100.0

    def centred(total):
        return total / 4 + wobble * rng.uniform(-wobble, wobble, total.shape)

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        across = corners + np.roll(corners, -1, axis=0)
        field[half::step, half::step] = centred(across + np.roll(across, -1, axis=1))
        centres = field[half::step, half::step]
        corners = field[::step, ::step]
        down = centres + np.roll(centres, 1, axis=0)
        field[::step, half::step] = centred(down + (corners + np.roll(corners, -1, axis=1)))
        right = centres + np.roll(centres, 1, axis=1)
        field[half::step, ::step] = centred(right + (corners + np.roll(corners, -1, axis=0)))
        step //= 2
        wobble /= fade
    field -= field.min()
    return field / field.max()


def _glass(frame: np.ndarray, strength: int, rng: np.random.RandomState) -> np.ndarray:
    sigma, reach, rounds = GLASS[strength]
    image = np.uint8(_blurred(frame / 255.0, sigma) * 255)
    for _ in range(rounds):
        moves = rng.randint(-reach, reach, size=(max(0, len(image) - 2 * reach) ** 2, 2))
        _shuffle()(image, reach, moves)
    return _to_bytes(_blurred(image / 255.0, sigma))


@cache
def _shuffle():
    """Return the shuffle of ``_glass``, compiled at the first call because it is sequential over all pixels."""
    from numba import njit

    @njit(cache=True)
    def shuffle(image, reach, moves):
        """Give each pixel, from the last to the first, the present colour of a nearby pixel."""
        k = 0
        for row in range(len(image) - reach, reach, -1):
            for column in range(len(image) - reach, reach, -1):
                for channel in range(3):
                    image[row, column, channel] = image[row + moves[k, 1], column + moves[k, 0], channel]
                k += 1

    return shuffle
