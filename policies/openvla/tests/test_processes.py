"""Several processes."""

import os
import subprocess
import sys

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


LOST = """
import os, signal
import srpo_sdk as srpo
from crew import Crew

class Echo:
    name = "echo"
    def __init__(self, config):
        self.config = config
    def obey(self, method, args):
        return getattr(self, method)(*args)
    def say(self, x):
        return x * self.config.rank

if __name__ == "__main__":
    crew = Crew(Echo(srpo.PolicyConfig({}, rank=0)))
    crew.start(3)
    crew.ready()
    print(crew.all("say", 3), crew.share("say", [1, 2, 3, 4]))
    os.kill(crew.processes[0].pid, signal.SIGKILL)
    crew.all("say", 4)
    print("went on")
"""


def test_a_process_that_is_lost_ends_all(tmp_path):
    """The host sees one process die, with its last words, and starts it again."""
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=own, timeout=900)
    assert done.returncode == 70, done.stderr
    assert done.stdout.startswith("[0, 3, 6] [[], [2], [3, 3]]")
    assert "policy echo: process 1 of 3 was killed by SIGKILL" in done.stderr and "went on" not in done.stdout
