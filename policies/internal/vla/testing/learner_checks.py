"""Tests that hold for every `Learner` with any network: failing updates, saving and loading.

The plugin's tests/subject.py defines which policy is tested.
"""

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from safetensors.torch import load_file, save_file
from subject import RESUMED, demonstration, equal, item, policy, record, update

from vla import optimiser, training_state


def test_a_failed_update_is_undone(monkeypatch):
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


@pytest.mark.parametrize("settings", RESUMED, ids=str)
def test_every_ratio_is_one_before_the_first_step(settings):
    """Not only their mean: acting and learning compute the same log-probability for each term."""
    p = policy(**settings)
    record(p)
    s = p.update(update(epochs=1, mini_batch=100), lambda _: None)
    assert s.extra["steps"] == 1
    assert s.extra["ratio_max"] == pytest.approx(1, abs=1e-5) and s.first_ratio == pytest.approx(1, abs=1e-5)
    assert s.clip_fraction == 0


def test_a_policy_refuses_to_act_after_a_failed_update_without_a_snapshot():
    p = policy(rollback_mb=0)
    record(p)
    with pytest.raises(ZeroDivisionError):
        p.update(update(), lambda _: 1 / 0)
    with pytest.raises(srpo.Error, match="failed half way") as e:
        p.act([item(0)], srpo.Sampling())
    assert "--resume" in e.value.hint


def test_invalid_updates():
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


def test_imitation_is_deterministic():
    trained = []
    for _ in range(2):
        p = policy()
        p.imitate(srpo.Imitate(1, 5, 2), iter([demonstration()]), lambda *_: None)
        trained.append(p)
    assert equal(*trained)


@pytest.mark.parametrize("settings", RESUMED, ids=str)
def test_the_next_update_after_load_is_identical(settings, tmp_path):
    p, q = policy(**settings), policy(**settings)
    record(p)
    p.update(update(1), lambda _: None)
    p.save(str(tmp_path))
    q.load(str(tmp_path))
    for x in (p, q):
        record(x)
    a, b = p.update(update(2), lambda _: None), q.update(update(2), lambda _: None)
    assert vars(a) == vars(b)
    assert equal(p, q)
    x, y = (z.act([item(0)], srpo.Sampling(temperature=1.2))[0] for z in (p, q))
    np.testing.assert_array_equal(x.actions, y.actions)
    np.testing.assert_array_equal(x.log_probs, y.log_probs)


@pytest.mark.parametrize("settings", RESUMED, ids=str)
def test_begin_run_resets_the_training_state(settings, tmp_path):
    """A new run measures KL to the loaded weights, with a new optimiser. Its own checkpoints restore exactly that."""

    def updated(q, n):
        record(q)
        return q.update(update(n, epochs=1, mini_batch=100), lambda _: None)

    p, continued, begun, reloaded = (policy(**settings) for _ in range(4))
    for n in (1, 2):
        record(p)
        p.update(update(n), lambda _: None)
    (tmp_path / "one").mkdir()
    p.save(str(tmp_path / "one"))
    continued.load(str(tmp_path / "one"))
    begun.load(str(tmp_path / "one"))
    begun.begin_run()
    assert equal(begun, p) and continued.optimiser_steps() and not begun.optimiser_steps()
    (tmp_path / "two").mkdir()
    begun.save(str(tmp_path / "two"))
    reloaded.load(str(tmp_path / "two"))
    assert updated(continued, 3).kl > 0 == updated(begun, 3).kl
    assert set(begun.optimiser_steps().values()) == {1} and not equal(begun, continued)
    assert updated(reloaded, 3).kl == 0 and equal(reloaded, begun)


def test_a_state_in_several_files(tmp_path, monkeypatch):
    p, q = policy(), policy()
    record(p)
    p.update(update(1), lambda _: None)
    monkeypatch.setattr(training_state, "_MAX_FILE_BYTES", 1 << 19)
    p.save(str(tmp_path))
    files = sorted((tmp_path / "srpo_state").glob("state-*.safetensors"))
    assert len(files) > 2 and not (tmp_path / "srpo_state" / "state.safetensors").exists()
    q.load(str(tmp_path))
    for x in (p, q):
        record(x)
        x.update(update(2), lambda _: None)
    assert equal(p, q)
    files[1].unlink()
    with pytest.raises(srpo.Error, match="cannot be read") as e:
        q.load(str(tmp_path))
    assert e.value.kind == "corrupt" and e.value.place == str(files[1])


def test_relative_folders_start_at_the_users_working_folder(tmp_path, monkeypatch):
    """Not at the plugin's own folder, in which it runs."""
    (tmp_path / "saved").mkdir()
    policy().save(str(tmp_path / "saved"))
    monkeypatch.setenv("SRPO_WORKING_FOLDER", str(tmp_path))
    assert policy(checkpoint="saved").network.source.folder == str(tmp_path / "saved")
    with pytest.raises(srpo.Error, match=f"no folder '{tmp_path}/elsewhere'"):
        policy(checkpoint="elsewhere")


def test_load_with_other_trainable_parameters_takes_the_weights(tmp_path):
    p, q = policy(), policy(lora_rank=4)
    record(p)
    p.update(update(), lambda _: None)
    p.save(str(tmp_path))
    q.load(str(tmp_path))
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0] for z in (p, q))
    np.testing.assert_allclose(a.actions, b.actions, atol=1e-4)


def test_a_folder_without_a_training_state(tmp_path):
    with pytest.raises(srpo.Error, match="not a folder that this policy was saved in") as e:
        policy().load(str(tmp_path / "nothing"))
    assert e.value.kind == "not found" and ".checkpoint" in e.value.hint


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}], ids=str)
def test_a_failed_load_changes_nothing(settings, tmp_path, monkeypatch):
    p, q, fresh = (policy(**settings) for _ in range(3))
    record(p)
    p.update(update(1), lambda _: None)
    p.save(str(tmp_path))
    path = tmp_path / "srpo_state" / "state.safetensors"
    tensors, content = load_file(path), path.read_bytes()

    def refused(kind, message):
        with pytest.raises(srpo.Error, match=message) as e:
            q.load(str(tmp_path))
        assert e.value.kind == kind and e.value.place and e.value.hint
        assert equal(q, fresh) and not equal(q, p) and q.reference is None and not q.optimiser.adam.state
        q.act([item(0)], srpo.Sampling())

    for prefix in ("v.", "start."):
        name = next(n for n in tensors if n.startswith(prefix))
        save_file({n: t for n, t in tensors.items() if n != name}, path)
        refused("corrupt", f"do not fit together: {name} is missing")
    save_file({**tensors, name: torch.zeros(2)}, path)
    refused("corrupt", rf"{name} is \[2\], want")
    path.write_bytes(content[:-3])
    refused("corrupt", "cannot be read")
    path.write_bytes(content)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as m:
        m.setattr(training_state, "reference", out_of_memory)
        refused("exhausted", "out of memory while loading")
    q.load(str(tmp_path))
    assert equal(q, p)
