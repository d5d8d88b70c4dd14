"""Tests that hold for pi0 and pi0-fast. The plugin's tests/cases.py defines which of them is tested."""

import dataclasses

import numpy as np
import pytest
import srpo_sdk as srpo
from cases import policy

from vla import lora
from vla_lerobot.testing.cases import demonstration, equal, item, record, update


def test_saved_folder_is_a_checkpoint(tmp_path):
    """A saved folder can be given as a checkpoint. With merged adapters it acts the same up to rounding."""
    p = policy(lora_rank=4)
    record(p)
    p.update(update(), lambda _: None)
    p.save(str(tmp_path))
    q = policy(checkpoint=str(tmp_path))
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0] for z in (p, q))
    np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)
    assert not list(lora.adapters(q.network.trunk))


def test_more_records_than_record_mb():
    p = policy(record_mb=1)
    record(p)
    assert p.recorded_bytes > 6 * 64 * 64 * 3
    p.recorded_bytes += 1 << 20
    with pytest.raises(srpo.Error, match="record_mb = 1") as e:
        record(p)
    assert e.value.kind == "exhausted"


def test_invalid_demonstrations():
    p, q = policy(), policy()
    d = demonstration()

    def refused(message, **change):
        bad = srpo.Demonstration(**{**vars(d), **change})
        with pytest.raises(srpo.Error, match=message) as e:
            p.imitate(srpo.Imitate(1, 5, 2), iter([bad]), lambda *_: None)
        return e.value

    refused("no successful demonstration, 1 failed", success=False)
    assert refused(r"actions are \[12, 3\]", actions=d.actions[:, :3]).place == "demonstration demo0"
    refused("no image from camera 'agentview'", images={})
    refused("no proprio", proprio=None)
    p.settings["demo_mb"] = 0
    refused("more than demo_mb = 0")
    p.settings["demo_mb"] = 9
    with pytest.raises(ZeroDivisionError):
        p.imitate(srpo.Imitate(1, 5, 2), iter([d]), lambda *_: 1 / 0)
    assert equal(p, q) and not p.network.has_data_statistics


def test_weighted_demonstrations():
    """Weights multiply the loss. Failed demonstrations with weights are used."""
    d = demonstration()

    def first_loss(factor):
        losses = []
        weighted = dataclasses.replace(d, success=False, weights=np.full(12, factor, np.float32))
        policy().imitate(srpo.Imitate(1, 5, 1), iter([weighted]), lambda _, loss: losses.append(loss))
        return losses[0]

    assert first_loss(0.5) == pytest.approx(first_loss(1.0) / 2, rel=1e-5)
    with pytest.raises(srpo.Error, match="all weights are 0"):
        first_loss(0.0)
