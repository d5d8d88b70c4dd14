"""The plugin as the host runs it: process, stdout, home folder and termination."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paths import PLUGIN, SDK

sys.path.insert(0, str(SDK / "tests"))
host = pytest.importorskip("host", reason="the SDK's host for tests is missing")

TASK = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
RENDER = host.env_pb2.Render(observe=["agentview"], record="agentview", record_every=8)


def start(**options):
    environment = {"MUJOCO_GL": "egl", "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]} | {
        "NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"]
    }
    return host.Plugin(PLUGIN / "plugin.py", env=environment, wait=60.0, **options)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_an_episode_through_the_protocol():
    plugin = start(arena=host.HostArena(16 << 20))
    try:
        plugin.configure(lanes=1)
        tasks = list(plugin.stream("Env.Tasks", host.env_pb2.TasksRequest(), timeout=60))
        assert len(tasks) == 130
        first = plugin.call("Env.Reset", timeout=300, lane=0, task=TASK, seed=1, render=RENDER)
        assert first.observation.images and host.array(first.observation.proprio).shape == (8,)
        reply = plugin.call(
            "Env.Step", timeout=120, lane=0, actions=host.tensor(np.zeros((8, 7), np.float32)), render=RENDER
        )
        assert reply.steps_done == 8 and not reply.success
        expert = host.env_pb2.Expert(steps=4)
        assert plugin.call("Env.Step", timeout=120, lane=0, expert=expert).episode_steps == 12
        home = Path(plugin.folder)
        assert {p.name for p in home.iterdir() if not p.is_socket()} == {"stderr"}
        os.close(plugin.lifeline)
        assert plugin.gone_within(2.0), plugin.errors()
        assert plugin.rest_of_stdout() == b""
    finally:
        plugin.stop()


def test_it_ends_with_its_host_while_loading():
    plugin = start()
    try:
        plugin.configure(lanes=1)
        request = host.env_pb2.ResetRequest(lane=0, task=TASK, seed=1)
        pending = plugin.method("Env.Reset").future(request, timeout=300)
        time.sleep(3.0)  # imports and loading take longer
        assert not pending.done()
        os.close(plugin.lifeline)
        assert plugin.gone_within(2.0)
        pending.cancel()
    finally:
        plugin.stop()
