"""Tests that hold for pi0 and pi0-fast alike; both test_shared.py are made of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import srpo_sdk as srpo
from cases import policy
from pi_cases import demonstration, equal, item, record, update

import lora
import optimiser


def test_a_failed_update_leaves_everything(monkeypatch):
    p, q = policy(), policy()
    record(p)
    calls = []

    def stop(share):
        calls.append(share)
        if len(calls) == 8:
            raise srpo.Error("canceled", "enough")

    with pytest.raises(srpo.Error, match="enough"):
        p.update(update(), stop)
    assert equal(p, q) and not p.optimiser.adam.state
    monkeypatch.setattr(optimiser.Optimiser, "step", lambda self, lr: float("nan"))
    with pytest.raises(srpo.Error, match="not finite"):
        p.update(update(), lambda _: None)
    monkeypatch.undo()
    s = p.update(update(), lambda _: None)
    assert s.first_ratio == pytest.approx(1, abs=1e-5)


def test_imitation_is_deterministic():
    made = []
    for _ in range(2):
        p = policy()
        p.imitate(srpo.Imitate(1, 5, 2), iter([demonstration()]), lambda *_: None)
        made.append(p)
    assert equal(*made)


def test_saved_folder_is_a_checkpoint(tmp_path):
    """What Save writes can be given as a checkpoint, adapters merged, and acts the same to rounding."""
    p = policy(lora_rank=4)
    record(p)
    p.update(update(), lambda _: None)
    p.save(str(tmp_path))
    q = policy(checkpoint=str(tmp_path))
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0] for z in (p, q))
    np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)
    assert not list(lora.adapters(q.network.trunk))


def test_load_from_another_training_takes_the_weights(tmp_path):
    p, q = policy(), policy(lora_rank=4)
    record(p)
    p.update(update(), lambda _: None)
    p.save(str(tmp_path))
    q.load(str(tmp_path))
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0] for z in (p, q))
    np.testing.assert_allclose(a.actions, b.actions, atol=1e-5)


def test_records_beyond_their_room():
    p = policy(record_mb=1)
    record(p)
    assert p.recorded > 6 * 64 * 64 * 3
    p.recorded += 1 << 20
    with pytest.raises(srpo.Error, match="record_mb = 1") as e:
        record(p)
    assert e.value.kind == "exhausted"


def test_updates_that_cannot_be():
    p = policy()
    with pytest.raises(srpo.Error, match="nothing was recorded"):
        p.update(update(), lambda _: None)
    record(p)
    with pytest.raises(srpo.Error, match="no executed step"):
        p.update(update(steps=0), lambda _: None)
    with pytest.raises(srpo.Error, match="clip_dual"):
        p.update(update(clip_dual=0.5), lambda _: None)
    with pytest.raises(srpo.Error, match="clip_low is nan"):
        p.update(update(clip_low=float("nan")), lambda _: None)


def test_a_failed_update_that_cannot_be_undone_is_not_acted_on():
    p = policy(rollback_mb=0)
    record(p)
    with pytest.raises(ZeroDivisionError):
        p.update(update(), lambda _: 1 / 0)
    with pytest.raises(srpo.Error, match="failed half way") as e:
        p.act([item(0)], srpo.Sampling())
    assert "--resume" in e.value.hint


def test_demonstrations_that_cannot_be():
    p, q = policy(), policy()
    d = demonstration()

    def refused(message, **change):
        bad = srpo.Demonstration(**{**vars(d), **change})
        with pytest.raises(srpo.Error, match=message) as e:
            p.imitate(srpo.Imitate(1, 5, 2), iter([bad]), lambda *_: None)
        return e.value

    refused("no successful demonstration, 1 failed", success=False)
    assert refused(r"actions are \[12, 3\]", actions=d.actions[:, :3]).place == "demonstration demo0"
    refused("no picture from camera 'agentview'", images={})
    refused("no proprio", proprio=None)
    p.settings["demo_mb"] = 0
    refused("more than demo_mb = 0")
    p.settings["demo_mb"] = 9
    with pytest.raises(ZeroDivisionError):
        p.imitate(srpo.Imitate(1, 5, 2), iter([d]), lambda *_: 1 / 0)
    assert equal(p, q) and not p.network.measured


def test_weighted_demonstrations():
    """Weights are a factor on the loss; a failed demonstration that has them is learned from."""
    d = demonstration()

    def first_loss(factor):
        losses = []
        weighted = SimpleNamespace(**{**vars(d), "success": False, "weights": np.full(12, factor, np.float32)})
        policy().imitate(srpo.Imitate(1, 5, 1), iter([weighted]), lambda _, loss: losses.append(loss))
        return losses[0]

    assert first_loss(0.5) == pytest.approx(first_loss(1.0) / 2, rel=1e-5)
    with pytest.raises(srpo.Error, match="all weights are 0"):
        first_loss(0.0)
