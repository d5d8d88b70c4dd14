"""Encoders: batches, bad clips, windows."""

import grpc
import numpy as np
import pytest

from host import PLUGINS, HostArena, Plugin, PluginError, array, tensor


@pytest.fixture(scope="module")
def looker():
    plugin = Plugin(PLUGINS / "looker.py", arena=HostArena())
    plugin.configure()
    yield plugin
    plugin.stop()


def clip(value=1, frames=2, height=4, width=6):
    return np.full((frames, height, width, 3), value, np.uint8)


def encode(plugin, *clips, arena=None):
    put = arena.put if arena else tensor
    return array(plugin.call("Encoder.Encode", clips=[put(c) for c in clips]).embeddings)


def test_describe(looker):
    spec = looker.call("Encoder.DescribeEncoder")
    assert (spec.dimension, spec.frames, spec.batch, spec.frame_wise, spec.model) == (4, 0, 3, False, "eyes")


def test_clips_of_any_size_are_encoded_in_batches_of_the_specs_size(looker):
    clips = [clip(i, frames=i + 1, height=4 + i) for i in range(7)]
    want = [[i, i, i, i + 1] for i in range(7)]
    assert encode(looker, *clips).tolist() == want
    assert encode(looker, *clips, arena=looker.arena).tolist() == want
    assert encode(looker).shape == (0, 4)


def test_a_bad_clip_fails_alone_in_any_batch(looker):
    for clips in ([clip(1), clip(13), clip(2), clip(15), clip(3)], [clip(13)], [clip(15)]):
        rows = encode(looker, *clips)
        for c, row in zip(clips, rows):
            v = c[0, 0, 0, 0]
            assert np.isnan(row).all() if v in (13, 15) else row.tolist() == [v, v, v, 2]
    assert "an unlucky clip" in looker.errors()


def test_another_exception_of_the_encoder_fails_the_call(looker):
    with pytest.raises(PluginError, match="the GPU is gone") as e:
        encode(looker, clip(1), clip(14))
    assert e.value.kind == "internal"


def test_malformed_clips_are_refused(looker):
    for bad in (clip()[0], clip().astype(np.float32), clip(frames=0), np.zeros((2, 4, 6, 4), np.uint8)):
        with pytest.raises(PluginError, match="want uint8") as e:
            encode(looker, clip(), bad)
        assert e.value.kind == "invalid" and e.value.code == grpc.StatusCode.INVALID_ARGUMENT


def windows(plugin, c, ends):
    return array(plugin.call("Encoder.EncodeWindows", clip=tensor(c), ends=ends).embeddings)


def test_windows_equal_the_clip_cut_at_their_ends(looker):
    c = np.random.default_rng(0).integers(20, 200, (9, 4, 6, 3), dtype=np.uint8)
    ends = [1, 5, 9, 2, 9]
    np.testing.assert_array_equal(windows(looker, c, ends), encode(looker, *[c[:e] for e in ends]))
    assert windows(looker, c, []).shape == (0, 4)
    for end in (0, 10):
        with pytest.raises(PluginError, match=f"ends at {end}"):
            windows(looker, c, [end])


def test_encode_windows_is_used_and_checked(start):
    plugin = start("looker", arguments=["own windows"])
    plugin.configure()
    with pytest.raises(PluginError, match=r"encode_windows\(\) gave shape \[1, 5\], want \[1, 4\]"):
        windows(plugin, clip(), [1])
