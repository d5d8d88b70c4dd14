"""Tests that several processes, connected by gloo, give the results of one process, for any `Learner`.

The plugin's tests/subject.py defines which policy is tested.
"""

import multiprocessing
import os
import threading
import time
from multiprocessing import connection
from pathlib import Path

import numpy as np
import pytest
import srpo_sdk as srpo
from safetensors.torch import load_file, save_file
from subject import KINDS, LR, demonstration, item, parameters, policy, update

from vla import ranks

# Gradients are summed in another order. Where a gradient is almost 0, AdamW's first steps amplify the difference.
TOLERANCE = 0.02 * LR


def start_ranks(folder: Path, size: int, **settings):
    """Returns rank 0 of `size` processes that meet in the folder. All processes end together, as with the host."""
    worlds = [{"rank": rank, "world_size": size, "rendezvous": str(folder)} for rank in range(size)]
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_run_rank, args=(world, settings), daemon=True) for world in worlds[1:]]
    for p in others:
        p.start()
    threading.Thread(target=_end_with, args=([p.sentinel for p in others],), daemon=True).start()
    return policy(world=worlds[0], **settings)


def _end_with(sentinels: list) -> None:
    connection.wait(sentinels)
    time.sleep(5)  # for the message of this process, if it notices the failure itself
    if threading.main_thread().is_alive():
        os._exit(ranks.EXIT_STATUS)


def _run_rank(world: dict, settings: dict) -> None:
    p = policy(world=world, **settings)
    connection.wait([multiprocessing.parent_process().sentinel])
    p.close()


@pytest.fixture(scope="module", params=KINDS)
def two_ranks(request, tmp_path_factory):
    """(settings, a policy of two processes, the folder with its initial state)."""
    p = start_ranks(tmp_path_factory.mktemp("rendezvous"), 2, **KINDS[request.param])
    initial = tmp_path_factory.mktemp("initial")
    p.save(str(initial))
    yield KINDS[request.param], p, initial
    p.close()


@pytest.fixture
def both(two_ranks):
    """A policy of two processes in its initial state, and one of one process."""
    settings, two, initial = two_ranks
    two.load(str(initial))
    return two, policy(**settings)


def largest_difference(a, b) -> float:
    """The largest difference between the parameters of two policies, without the biases of attention keys.

    Attention does not depend on these, so that their gradient is rounding error, which AdamW scales like any other
    gradient. In `qkv.bias` they are the middle third.
    """
    a.ranks.call_all("gather_weights")
    x, y = parameters(a), parameters(b)
    largest = 0.0
    for n in x:
        if n.endswith("k_proj.bias"):
            continue
        d = (x[n] - y[n]).detach().abs()
        if n.endswith("qkv.bias"):
            d = d.reshape(3, -1)[[0, 2]]
        largest = max(largest, float(d.max()))
    return largest


def files(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def saved(p, folder) -> dict[str, bytes]:
    folder.mkdir()
    p.save(str(folder))
    return files(folder)


def record(p) -> list[srpo.ActResult]:
    sampling = srpo.Sampling(temperature=update().temperature, record=True)
    return [x for step in (0, 8) for x in p.act([item(i, step) for i in range(3)], sampling)]


def updated(p, n: int) -> srpo.Statistics:
    record(p)
    return p.update(update(n), lambda _: None)


def with_a_wrong_argument(call):
    """`RankGroup._call` that sends rank 1 a string as the temperature of `ppo_gradient`."""

    def wrapper(method, arguments):
        if method == "ppo_gradient":
            arguments[1] = (*arguments[1][:2], "hot", arguments[1][3])
        return call(method, arguments)

    return wrapper


def test_two_processes_act_and_update_like_one(both):
    two, one = both
    for x, y in zip(record(two), record(one)):
        np.testing.assert_array_equal(x.actions, y.actions)
        np.testing.assert_array_equal(x.log_probs, y.log_probs)
    shares = []
    a, b = two.update(update(), shares.append), one.update(update(), lambda _: None)
    assert shares == sorted(shares) and shares[-1] == 1
    for name in ("loss", "kl", "grad_norm", "entropy", "first_ratio"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-4, abs=1e-6), name
    assert (a.samples, a.extra["steps"]) == (b.samples, b.extra["steps"])
    assert largest_difference(two, one) <= TOLERANCE


def test_a_saved_folder_does_not_depend_on_the_number_of_processes(both, tmp_path):
    two, one = both
    updated(two, 1)
    by_two = saved(two, tmp_path / "two")
    one.load(str(tmp_path / "two"))
    by_one = saved(one, tmp_path / "one")
    assert by_one == by_two
    two.load(str(tmp_path / "one"))
    assert saved(two, tmp_path / "again") == by_two
    updated(two, 2)
    updated(one, 2)
    assert largest_difference(two, one) <= TOLERANCE
    assert set(saved(two, tmp_path / "last")) == set(by_two)


def test_a_cancelled_update_is_undone_on_all_ranks(both, tmp_path):
    two, _ = both
    before = saved(two, tmp_path / "before")
    calls = []

    def stop(share):
        calls.append(share)
        if len(calls) == 4:
            raise srpo.Error("canceled", "enough")

    record(two)
    with pytest.raises(srpo.Error, match="enough"):
        two.update(update(kl=0.0), stop)
    assert saved(two, tmp_path / "cancelled") == before
    assert updated(two, 1).first_ratio == pytest.approx(1, abs=1e-5)


def test_a_failure_on_any_rank_is_undone_on_all(both, tmp_path, monkeypatch):
    two, _ = both
    if two.ranks.lockstep:
        pytest.skip("in lockstep a failure ends all processes")
    before = saved(two, tmp_path / "before")
    record(two)
    with monkeypatch.context() as m:
        m.setattr(two.ranks, "_call", with_a_wrong_argument(two.ranks._call))
        with pytest.raises(srpo.Error, match="process 1: TypeError"):
            two.update(update(kl=0.0), lambda _: None)
    assert saved(two, tmp_path / "failed") == before
    assert updated(two, 1).first_ratio == pytest.approx(1, abs=1e-5)


def test_a_failed_load_changes_nothing_on_any_rank(both, tmp_path):
    two, _ = both
    updated(two, 1)
    before = saved(two, tmp_path / "before")
    path = tmp_path / "before" / "srpo_state" / "state.safetensors"
    tensors = load_file(path)
    save_file({n: t for n, t in tensors.items() if n != next(k for k in tensors if k.startswith("v."))}, path)
    with pytest.raises(srpo.Error, match="do not fit together"):
        two.load(str(tmp_path / "before"))
    assert saved(two, tmp_path / "after") == before


def test_two_processes_imitate_like_one(both):
    results = []
    for p in both:
        p.imitate(srpo.Imitate(1, 5, 3), iter([demonstration()]), lambda *_: None)
        results.append(p.act([item(i) for i in range(2)], srpo.Sampling(greedy=True)))
        assert p.reference is None
    two, one = both
    assert largest_difference(two, one) <= 3e-2 * p._setting("imitate_lr", 5e-4, 1e-3)
    for x, y in zip(*results):
        np.testing.assert_allclose(x.log_probs, y.log_probs, atol=1e-3)
