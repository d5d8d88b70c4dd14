"""Several processes, one per device."""

import pytest
import srpo_sdk as srpo
import torch
from subject import policy

from vla.testing.process_checks import *  # noqa: F403


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(srpo.Error, match="4 processes, but 1 GPUs from device cuda:1 on") as e:
        policy(world={"world_size": 4}, device="cuda:1")
    assert e.value.kind == "unavailable" and "host.policy_processes = 1" in e.value.hint
