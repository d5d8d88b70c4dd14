"""A lane in use: task changes, memory, errors, the expert, and written files."""

import os
import subprocess
import sys

import numpy as np
import pytest

import libero_rollout
import suites
from libero_sim import render
from libero_sim.testing import rollout
from paths import PATH, TESTS

SOUP = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
STOVE = "libero_goal/turn_on_the_stove"


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_changing_tasks_keeps_frames_right_and_memory_bounded():
    """Frames stay the same and memory stops growing when one process closes scenes and loads them again."""
    env = libero_rollout.lane(64, keep_scenes=1, wait_steps=0)
    try:
        first, after = {}, []
        for round_ in range(3):
            for task in (SOUP, STOVE):
                env.reset(task, 0, seed=round_)
                frame = env.render("agentview")
                assert frame.std() > 10, "an empty frame"
                assert np.array_equal(frame, first.setdefault(task, frame))
            after.append(resident_mb())
        assert after[-1] < after[-2] + 100, after
    finally:
        env.close()


def test_fifty_resets_of_mixed_tasks_do_not_leak():
    env = libero_rollout.lane(64, keep_scenes=2, wait_steps=1)
    try:
        tasks = (SOUP, STOVE)
        for index in range(50):
            env.reset(tasks[index % 2], index, seed=index)
            if index % 10 < 2:
                env.render("agentview")
            if index == 9:
                early = resident_mb()
        assert resident_mb() < early + 30
    finally:
        env.close()


def test_two_kept_scenes_do_not_disturb_each_other():
    env = libero_rollout.lane(64, keep_scenes=2)
    try:
        actions = rollout.random_actions(12)
        alone = rollout.by_lane(env, SOUP, 2, actions, ["agentview"], 6)
        rollout.by_lane(env, STOVE, 0, actions, ["agentview"], 6)
        again = rollout.by_lane(env, SOUP, 2, actions, ["agentview"], 6)
        for name in ("qpos", "qvel", "agentview"):
            assert np.array_equal(alone[name], again[name]), name
    finally:
        env.close()


@pytest.mark.parametrize("task", [t.id for t in suites.entries() if t.suite == "libero_object"])
def test_expert_succeeds_with_progress(task):
    env = libero_rollout.lane(64)
    try:
        env.reset(task, 1, seed=0)
        progress = []
        for _ in range(280):
            action = env.expert()
            assert action is not None and np.all(np.abs(action) <= 1)
            step = env.step(action)
            progress.append(step.progress)
            if step.success:
                break
        assert step.success and step.terminated
        assert progress[0] < 0.25 and progress[-1] == 1.0
        assert all(0 <= p <= 1 for p in progress)
        assert any(0.4 <= p < 0.9 for p in progress), "never grasped"
    finally:
        env.close()


@pytest.mark.parametrize("failure", ["miss", "drop", "wrong", "stall"])
def test_expert_fails_on_purpose(failure):
    env = libero_rollout.lane(64)
    try:
        env.reset(SOUP, 2, seed=0)
        basket = env._pick_place.basket_position()
        neighbour = env._pick_place.neighbour()
        progress = []
        for _ in range(180):
            action = env.failing_expert(failure)
            assert action is not None and np.all(np.abs(action) <= 1)
            step = env.step(action)
            assert not step.success
            progress.append(step.progress)
        put = env._scene.data.xpos[env._scene.domain.obj_body_id[neighbour]]
        reached = {
            "miss": max(progress) < 0.25,
            "drop": 0.5 < max(progress) < 0.9 and progress[-1] < 0.25,
            "wrong": max(progress) < 0.4 and np.linalg.norm((put - basket)[:2]) < 0.1,
            "stall": progress[-1] >= 0.5 and max(progress) < 0.6,
        }
        assert reached[failure], (max(progress), progress[-1])
        # The next episode's expert does not fail.
        env.reset(SOUP, 2, seed=0)
        assert env._failing is None
    finally:
        env.close()


def test_no_expert_and_no_progress_outside_libero_object():
    env = libero_rollout.lane(64, wait_steps=0)
    try:
        env.reset(STOVE, 0, seed=0)
        assert env.expert() is None and env.failing_expert("miss") is None
        assert env.step(np.zeros(7, np.float32)).progress is None
        assert env.proprio().shape == (8,) and env.proprio().dtype == np.float32
        assert env.render("wrist").shape == (64, 64, 3)
    finally:
        env.close()


def test_nothing_is_written_to_the_home_folder(tmp_path):
    code = (
        "import srpo_sdk, libero_rollout; e = libero_rollout.lane(64, wait_steps=0);"
        f"e.reset({SOUP!r}, 0, seed=0); e.render('agentview'); e.close()"
    )
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "MUJOCO_GL": "egl",
        "PYTHONPATH": f"{TESTS}:{PATH}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "SRPO_CACHE": str(cache),
        "NUMBA_CACHE_DIR": os.environ["NUMBA_CACHE_DIR"],  # compilation is slow
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    assert list(home.rglob("*")) == []
    assert "GLError" not in done.stderr.decode() and "EGLError" not in done.stderr.decode()
    assert (cache / "srpo-libero" / "matplotlib").is_dir()
    assert suites.package_root().is_dir()


def test_simplified_meshes_change_pixels_but_not_physics():
    """mesh_cell_mm gives fewer triangles, a similar image and the same states."""
    actions = rollout.random_actions(8)
    lanes = [libero_rollout.lane(128, wait_steps=0, mesh_cell_mm=cell) for cell in (0.0, 4.0)]
    try:
        fine, simple = (rollout.by_lane(env, SOUP, 0, actions, ["agentview"], 8) for env in lanes)
        model = lanes[0]._scene.model
        drawn = render.simplify(model, 0.004)
    finally:
        for env in lanes:
            env.close()
    for name in ("qpos", "qvel", "proprio"):
        np.testing.assert_array_equal(fine[name], simple[name])
    error = np.mean((fine["agentview"].astype(float) - simple["agentview"]) ** 2)
    assert 0 < error < 255**2 / 10**2.7, "at least 27 dB"
    assert drawn.mesh_facenum.sum() < 0.5 * model.mesh_facenum.sum()
    for mesh in range(model.nmesh):  # the corners of a triangle are three different vertices of its mesh
        begin = drawn.mesh_faceadr[mesh]
        faces = drawn.mesh_face[begin : begin + drawn.mesh_facenum[mesh]]
        assert faces.min(initial=0) >= 0 and faces.max(initial=0) < model.mesh_vertnum[mesh]
        assert np.all(faces[:, 0] != faces[:, 1]) and np.all(faces[:, 1] != faces[:, 2])
