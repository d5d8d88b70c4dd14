"""Noise equals the benchmark's if the generators have the same state, and does not use global state."""

import sys

import numpy as np
import pytest

import noise
import package_tree


@pytest.fixture(scope="module")
def benchmark():
    """The unmodified noise functions of the benchmark's wrapper."""
    before = list(sys.path)
    sys.path.insert(0, str(package_tree.make(package_tree.libero_assets())))
    from liberoplus.liberoplus.envs import env_wrapper

    yield env_wrapper
    sys.path[:] = before


def image_of_shapes(size: int) -> np.ndarray:
    """Return uint8 [size, size, 3]: smooth shapes with edges and some grain."""
    row, column = np.mgrid[0:size, 0:size] / size
    image = np.stack([row, column, np.sin(9 * row) * np.cos(7 * column) / 2 + 0.5], axis=-1)
    image[size // 4 : size // 2, size // 3 : size // 2] = (0.9, 0.1, 0.2)
    image += np.random.RandomState(0).normal(0, 0.02, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


FUNCTIONS = ("motion_blur", "gaussian_blur", "zoom_blur", "fog", "glass_blur")
# In this release its glass supports images of 224 pixels only, and its fog 256.
CASES = [(kind, strength) for kind in range(4) for strength in range(10)] + [(4, 0), (4, 4), (4, 9)]


@pytest.mark.parametrize("kind, strength", CASES)
def test_equal_to_the_benchmark(benchmark, kind, strength):
    from PIL import Image

    frame = image_of_shapes(224 if kind == 4 else 256)
    seed = noise.frame_seed(2**63 + 5, 17)
    np.random.seed(seed)
    theirs = getattr(benchmark, FUNCTIONS[kind])(Image.fromarray(frame), severity=strength + 1).astype(np.uint8)
    ours = noise.apply(frame, 10 * kind + strength + 1, np.random.RandomState(seed))
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, theirs)
    assert not np.array_equal(ours, frame)


@pytest.mark.parametrize("number", [5, 15, 25, 35, 45])
def test_only_seed_and_step_matter(number):
    frame = image_of_shapes(128)
    before = np.random.get_state()
    first = noise.apply(frame, number, noise.generator(2**64 - 1, 8))
    assert all(np.array_equal(a, b) for a, b in zip(before, np.random.get_state())), "the global generator was used"
    np.random.seed(99)
    np.random.uniform(size=7)
    assert np.array_equal(first, noise.apply(frame, number, noise.generator(2**64 - 1, 8)))
    if number in (5, 35, 45):  # kinds with random numbers
        assert not np.array_equal(first, noise.apply(frame, number, noise.generator(2**64 - 1, 9)))
        assert not np.array_equal(first, noise.apply(frame, number, noise.generator(2**63, 8)))


def test_any_square_size():
    for size in (64, 100, 300):
        frame = image_of_shapes(size)
        for number in (1, 11, 21, 31, 41):
            assert noise.apply(frame, number, noise.generator(0, 0)).shape == frame.shape
    with pytest.raises(ValueError, match="square"):
        noise.apply(frame[:40], 31, noise.generator(0, 0))
