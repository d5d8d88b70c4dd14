"""Weights that are sharded among processes, in addition to vla/testing/process_checks.py."""

import os
import subprocess
import sys

import pytest
import srpo_sdk as srpo
from subject import LR, policy, update

from vla import ranks, sharding
from vla.testing.process_checks import TOLERANCE, largest_difference, record, start_ranks


def test_weights_and_gradients_are_sharded(tmp_path):
    """With LoRA in float32 on a bfloat16 network, and a mini-batch in which one process has only padding."""
    settings = {"lora_rank": 4, "dtype": "bfloat16", "lr": LR}
    two, one = start_ranks(tmp_path, 2, shard="weights", **settings), policy(**settings)
    try:
        for _ in range(sharding._RESHARD_EVERY + 1):  # as in a long evaluation
            two.ranks.call_all("gather_weights")
        for x, y in zip(record(two), record(one)):
            assert (x.actions == y.actions).all() and (x.log_probs == y.log_probs).all()
        # With more steps bfloat16 rounds some activations differently, also with shard = "optimiser".
        a, b = (p.update(update(mini_batch=5, epochs=1), lambda _: None) for p in (two, one))
        for name in ("loss", "kl", "grad_norm", "entropy", "first_ratio"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-3, abs=1e-5), name
        assert largest_difference(two, one) <= TOLERANCE
        two.ranks.call_all("shard_weights")
        local = sum(sharding.local(p).numel() for p in two.network.model.parameters())
        assert local / two.network.parameters == pytest.approx(0.5, abs=0.05)
    finally:
        two.close()


def test_sharded_weights_cannot_be_compiled():
    with pytest.raises(srpo.Error, match='compile with shard = "weights"') as e:
        policy(world={"world_size": 2}, shard="weights", compile=True)
    assert e.value.kind == "unsupported" and e.value.place and e.value.hint
    assert policy(shard="weights").network.sharded is None


SCRIPT = """
import sys
from vla.testing.process_checks import start_ranks, with_a_wrong_argument
from subject import record, update

if __name__ == "__main__":
    p = start_ranks(sys.argv[1], 2, shard="weights")
    record(p)
    p.ranks._call = with_a_wrong_argument(p.ranks._call)
    p.update(update(), lambda _: None)
    print("continued")
"""


def test_a_failure_in_a_pass_of_sharded_weights_ends_all_processes(tmp_path):
    """No process waits without end."""
    script = tmp_path / "failing.py"
    script.write_text(SCRIPT)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, env=environ, timeout=900)
    assert done.returncode == ranks.EXIT_STATUS, done.stderr
    assert "process 1 of 2 failed while the others waited: TypeError" in done.stderr
    assert "continued" not in done.stdout
