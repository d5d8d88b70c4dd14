"""Several processes, on gloo: what they do together equals what one does alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import srpo_sdk as srpo
from test_policy import demonstration, item, policy, update

PLUGIN = Path(__file__).resolve().parents[1]
# Sums of gradients in another order; where a gradient is next to nothing, AdamW's first steps make much of that.
LR = 1e-4
APART = 0.02 * LR
KINDS = {"whole": {"lr": LR}, "adapters": {"lr": LR, "lora_rank": 4, "offload_optimizer": True}}


@pytest.fixture(scope="module", params=KINDS)
def crew(request, tmp_path_factory):
    """(settings, a policy of two processes, the folder that it was saved in at the beginning)."""
    p = policy(processes=2, **KINDS[request.param])
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
    """The largest difference of a parameter."""
    theirs = dict(b.network.model.named_parameters())
    return max(float((x - theirs[n]).abs().max()) for n, x in a.network.model.named_parameters())


def files(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def saved(p, folder) -> dict[str, bytes]:
    folder.mkdir()
    p.save(str(folder))
    return files(folder)


def record(p) -> list[srpo.ActResult]:
    sampling = srpo.Sampling(temperature=1.6, record=True)
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
    assert 0 < apart(one, policy()) if not two.choice.rank else True
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


def test_what_fails_in_any_process_is_undone_in_all(both, tmp_path):
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
    for kept in two.records.values():
        kept[1].sample.ids = kept[1].sample.ids + (10**9,)  # which no table of embeddings has
    with pytest.raises(srpo.Error):
        two.update(update(kl=0.0), lambda _: None)
    assert saved(two, tmp_path / "failed") == before
    assert learned(two, 1).first_ratio == pytest.approx(1, abs=1e-5)


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


LOST = """
import os, signal, sys
sys.path[:0] = {path}
import srpo_sdk
from test_policy import item, policy
if __name__ == "__main__":
    p = policy(processes=2)
    os.kill(p.crew.processes[0].pid, signal.SIGKILL)
    p.act([item(i) for i in range(4)], srpo_sdk.Sampling())
    print("went on")
"""


def test_a_process_that_is_lost_ends_all(tmp_path):
    """The host sees one process die, with its last words, and starts it again."""
    script = tmp_path / "lost.py"
    path = [str(PLUGIN / "tests"), str(PLUGIN.parents[1] / "sdk" / "python"), str(PLUGIN)]
    script.write_text(LOST.format(path=path))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env={**os.environ}, timeout=600)
    assert done.returncode == 70, done.stderr
    assert "process 1 of 2 was killed by SIGKILL" in done.stderr and "went on" not in done.stdout


def test_more_processes_than_devices(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(srpo.Error, match="processes = 4, and there are 1 GPUs from device cuda:1 on") as e:
        policy(processes=4, device="cuda:1")
    assert e.value.kind == "unavailable" and "one process a GPU" in e.value.hint
