"""The task table is complete and fast, and does not import a simulator."""

import fnmatch
import subprocess
import sys
import time

import srpo_sdk as srpo

from libero_env import Libero
from paths import PATH

MAX_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}


def test_all_suites_with_their_protocol():
    began = time.perf_counter()
    tasks = list(Libero.tasks(Libero.info.resolve()))
    assert time.perf_counter() - began < 5
    counts = {suite: sum(t.suite == suite for t in tasks) for suite in MAX_STEPS}
    assert counts == {"libero_spatial": 10, "libero_object": 10, "libero_goal": 10, "libero_10": 10, "libero_90": 90}
    assert len({t.id for t in tasks}) == 130
    for task in tasks:
        assert task.start_states == 50
        assert task.max_steps == MAX_STEPS[task.suite]
        assert task.id.startswith(task.suite + "/")
        assert task.tags["suite"] == task.suite


def test_one_task_by_glob_and_its_instruction():
    tasks = list(Libero.tasks(Libero.info.resolve()))
    found = [t for t in tasks if fnmatch.fnmatch(t.id, "libero_object/*bbq*")]
    assert [t.instruction for t in found] == ["pick up the bbq sauce and place it in the basket"]
    kitchen = next(t for t in tasks if "KITCHEN_SCENE10" in t.id)
    assert kitchen.instruction[0].islower() and "SCENE" not in kitchen.instruction


def test_max_steps_can_be_set():
    assert {t.max_steps for t in Libero.tasks(Libero.info.resolve({"max_steps": 512}))} == {512}


def test_listing_imports_no_simulator():
    code = (
        "import srpo_sdk, sys; from libero_env import Libero;"
        "s = Libero.info.resolve(); Libero.describe(s).check(); list(Libero.tasks(s));"
        "loaded = {'mujoco', 'robosuite', 'numba', 'matplotlib'} & set(sys.modules); assert not loaded, loaded"
    )
    path = {"PYTHONPATH": PATH, "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=path)


def test_unknown_tasks_and_start_states_are_refused():
    lane = Libero(srpo.EnvConfig(settings=Libero.info.resolve(), cameras={}))
    for task, start in (("libero_object/nothing", 0), (next(iter(Libero.tasks({}))).id, 50)):
        try:
            lane.reset(task, start, seed=0)
        except srpo.Error as error:
            assert error.kind == "not found" and error.hint
        else:
            raise AssertionError("accepted")
