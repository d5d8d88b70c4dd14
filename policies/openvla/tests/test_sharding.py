"""Weights divided among processes, beyond what process_checks.py has of them."""

import os
import subprocess
import sys

import pytest
import srpo_sdk as srpo
from subject import LR, policy, update

from vla import sharding
from vla.testing.process_checks import APART, apart, record, together


def test_weights_and_gradients_are_divided(tmp_path):
    """LoRA in float32 on a bfloat16 network, and a mini-batch in which one process has nothing of its own to do."""
    settings = {"lora_rank": 4, "dtype": "bfloat16", "lr": LR}
    two, one = together(tmp_path, 2, shard="weights", **settings), policy(**settings)
    try:
        for _ in range(sharding._CLEAR_EVERY + 1):  # as a long evaluation asks
            two.crew.all("whole")
        for x, y in zip(record(two), record(one)):
            assert (x.actions == y.actions).all() and (x.log_probs == y.log_probs).all()
        # After more steps bfloat16 rounds some activations the other way, with shard = "optimiser" alike.
        a, b = (p.update(update(mini_batch=5, epochs=1), lambda _: None) for p in (two, one))
        for name in ("loss", "kl", "grad_norm", "entropy", "first_ratio"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-3, abs=1e-5), name
        assert apart(two, one) <= APART
        two.crew.all("divided")
        here = sum(sharding.local(p).numel() for p in two.network.model.parameters())
        assert here / two.network.parameters == pytest.approx(0.5, abs=0.05)
    finally:
        two.close()


def test_shards_are_not_compiled():
    with pytest.raises(srpo.Error, match='compile with shard = "weights"') as e:
        policy(world={"world_size": 2}, shard="weights", compile=True)
    assert e.value.kind == "unsupported" and e.value.place and e.value.hint
    assert policy(shard="weights").network.shards is None


FAILED = """
import sys
from vla.testing.process_checks import together
from subject import record, update

if __name__ == "__main__":
    p = together(sys.argv[1], 2, shard="weights")
    record(p)
    run = p.crew._run

    def spoiled(method, given):
        if method == "ppo":
            given[1] = (*given[1][:2], "hot", given[1][3])
        return run(method, given)

    p.crew._run = spoiled
    p.update(update(), lambda _: None)
    print("went on")
"""


def test_what_fails_in_a_pass_of_shards_ends_all(tmp_path):
    """Nobody waits for ever."""
    script = tmp_path / "failed.py"
    script.write_text(FAILED)
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=own, timeout=900)
    assert done.returncode == 70, done.stderr
    assert "process 1 of 2 failed while the others waited: TypeError" in done.stderr and "went on" not in done.stdout
