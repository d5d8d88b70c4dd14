"""Several processes."""

import pytest
import srpo_sdk as srpo
import torch
from process_checks import *  # noqa: F403
from subject import policy


def test_more_processes_than_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(srpo.Error, match="processes = 4, and there are 1 GPUs from device cuda:1 on") as e:
        policy(processes=4, device="cuda:1")
    assert e.value.kind == "unavailable" and "one process a GPU" in e.value.hint
