"""Compares the image statistics of write.py with those of numpy over all pixels."""

import sys

import numpy as np

sys.path.insert(0, "lerobot")
import write

rng = np.random.default_rng(0)
for top, shape in ((256, (5, 7, 9, 3)), (3, (2, 4, 5, 3)), (256, (1, 1, 1, 3)), (1, (2, 2, 2, 3))):
    pictures = rng.integers(0, top, shape, dtype=np.uint8)
    got = write.picture_statistics(pictures)
    want = write.statistics(pictures.reshape(-1, 3))
    assert got.keys() == want.keys()
    assert got.pop("count") == [len(pictures)]
    for name, values in got.items():
        assert values.shape == (3, 1, 1), name
        np.testing.assert_allclose(255 * values.reshape(3), want[name], rtol=0, atol=1e-9, err_msg=name)
