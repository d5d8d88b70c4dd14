"""Several processes, on gloo: what they do together equals what one does alone, for any `Learner`; see subject.py."""

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

# Sums of gradients in another order; where a gradient is next to nothing, AdamW's first steps make much of that.
APART = 0.02 * LR


def together(folder: Path, size: int, **settings):
    """Rank 0 of so many processes, which meet in the folder; the others end with this one, as the host sees to."""
    worlds = [{"rank": rank, "world_size": size, "rendezvous": str(folder)} for rank in range(size)]
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_another, args=(world, settings), daemon=True) for world in worlds[1:]]
    for p in others:
        p.start()
    threading.Thread(target=_end_with, args=([p.sentinel for p in others],), daemon=True).start()
    return policy(world=worlds[0], **settings)


def _end_with(sentinels: list) -> None:
    connection.wait(sentinels)
    time.sleep(5)  # for the words of this one, where it notices by itself
    if threading.main_thread().is_alive():
        os._exit(70)


def _another(world: dict, settings: dict) -> None:
    p = policy(world=world, **settings)
    connection.wait([multiprocessing.parent_process().sentinel])
    p.close()


@pytest.fixture(scope="module", params=KINDS)
def crew(request, tmp_path_factory):
    """(settings, a policy of two processes, the folder that it was saved in at the beginning)."""
    p = together(tmp_path_factory.mktemp("met"), 2, **KINDS[request.param])
    first = tmp_path_factory.mktemp("first")
    p.save(str(first))
    yield KINDS[request.param], p, first
    p.close()


@pytest.fixture
def both(crew):
    """The policy of two processes as it was at the beginning, and one of one process."""
    settings, two, first = crew
    two.load(str(first))
    return two, policy(**settings)


def apart(a, b) -> float:
    """The largest difference of a parameter. Biases of keys are left out: attention does not depend on them, so their
    gradient is rounding alone, which AdamW makes much of as of any other. In `qkv.bias` they are the middle third.
    """
    a.crew.all("whole")
    mine, theirs = parameters(a), parameters(b)
    most = 0.0
    for n, x in mine.items():
        if n.endswith("k_proj.bias"):
            continue
        d = (x - theirs[n]).detach().abs()
        if n.endswith("qkv.bias"):
            d = d.reshape(3, -1)[[0, 2]]
        most = max(most, float(d.max()))
    return most


def files(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def saved(p, folder) -> dict[str, bytes]:
    folder.mkdir()
    p.save(str(folder))
    return files(folder)


def record(p) -> list[srpo.ActResult]:
    sampling = srpo.Sampling(temperature=update().temperature, record=True)
    return [x for step in (0, 8) for x in p.act([item(i, step) for i in range(3)], sampling)]


def learned(p, n: int) -> srpo.Statistics:
    record(p)
    return p.update(update(n), lambda _: None)


def test_two_processes_act_and_update_as_one(both):
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
    assert apart(two, one) <= APART


def test_a_saved_folder_does_not_depend_on_how_many_saved_it(both, tmp_path):
    two, one = both
    learned(two, 1)
    by_two = saved(two, tmp_path / "two")
    one.load(str(tmp_path / "two"))
    by_one = saved(one, tmp_path / "one")
    assert by_one == by_two
    two.load(str(tmp_path / "one"))
    assert saved(two, tmp_path / "again") == by_two
    learned(two, 2)
    learned(one, 2)
    assert apart(two, one) <= APART
    assert set(saved(two, tmp_path / "last")) == set(by_two)


def test_a_cancelled_update_is_undone_in_all(both, tmp_path):
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
    assert learned(two, 1).first_ratio == pytest.approx(1, abs=1e-5)


def test_what_fails_in_any_process_is_undone_in_all(both, tmp_path, monkeypatch):
    two, _ = both
    if two.crew.lockstep:
        pytest.skip("the others wait for it, so it ends all of them")
    before = saved(two, tmp_path / "before")
    record(two)
    run = two.crew._run

    def spoiled(method, given):
        if method == "ppo":
            given[1] = (*given[1][:2], "hot", given[1][3])
        return run(method, given)

    with monkeypatch.context() as m:
        m.setattr(two.crew, "_run", spoiled)
        with pytest.raises(srpo.Error, match="process 1: TypeError"):
            two.update(update(kl=0.0), lambda _: None)
    assert saved(two, tmp_path / "failed") == before
    assert learned(two, 1).first_ratio == pytest.approx(1, abs=1e-5)


def test_a_folder_that_no_process_can_use_changes_nothing(both, tmp_path):
    two, _ = both
    learned(two, 1)
    before = saved(two, tmp_path / "before")
    place = tmp_path / "before" / "srpo_state" / "state.safetensors"
    tensors = load_file(place)
    save_file({n: t for n, t in tensors.items() if n != next(k for k in tensors if k.startswith("v."))}, place)
    with pytest.raises(srpo.Error, match="does not fit together"):
        two.load(str(tmp_path / "before"))
    assert saved(two, tmp_path / "after") == before


def test_imitation_by_two(both):
    results = []
    for p in both:
        p.imitate(srpo.Imitate(1, 5, 3), iter([demonstration()]), lambda *_: None)
        results.append(p.act([item(i) for i in range(2)], srpo.Sampling(greedy=True)))
        assert p.start is None
    two, one = both
    assert apart(two, one) <= 3e-2 * p._or("imitate_lr", 5e-4, 1e-3)
    for x, y in zip(*results):
        np.testing.assert_allclose(x.log_probs, y.log_probs, atol=1e-3)
