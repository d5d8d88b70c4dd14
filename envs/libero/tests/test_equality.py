"""States, success and pixels are bit-identical to LIBERO's environment, with and without each acceleration."""

import numpy as np
import pytest

import libero_rollout
from libero_sim.testing import rollout

CAMERAS = ["agentview", "wrist"]
SIZE = 128
STEPS = 100
OBJECT = "libero_object/pick_up_the_alphabet_soup_and_place_it_in_the_basket"
GOAL = "libero_goal/turn_on_the_stove"
DRAWER = "libero_10/KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it"
EVERY = 25


@pytest.fixture(scope="module")
def lane():
    env = libero_rollout.lane(SIZE, keep_scenes=1)
    yield env
    env.close()


@pytest.mark.parametrize("task", [OBJECT, GOAL, DRAWER])
def test_equal_to_the_unmodified_environment(lane, task):
    """Compare fast steps after a soft reset with a new environment, twice. Every task also changes the scene."""
    actions = rollout.random_actions(STEPS)
    reference = libero_rollout.by_reference(task, 3, actions, CAMERAS, SIZE)
    for _ in range(2):
        ours = rollout.by_lane(lane, task, 3, actions, CAMERAS, EVERY)
        assert lane._scene.fast, "the fast step did not bind"
        assert rollout.differences(ours, reference, CAMERAS) == []
        # Move away and close the gripper before the second time.
        rollout.by_lane(lane, task, 5, np.ones((12, 7), np.float32), [], 1)


def test_slow_steps_are_equal_too():
    actions = rollout.random_actions(20, seed=3)
    slow, fast = libero_rollout.lane(SIZE, fast=False), libero_rollout.lane(SIZE)
    try:
        ours = rollout.by_lane(slow, OBJECT, 1, actions, ["agentview"], 10)
        assert not slow._scene.fast
        theirs = rollout.by_lane(fast, OBJECT, 1, actions, ["agentview"], 10)
        for name in ("qpos", "qvel", "proprio", "agentview"):
            assert np.array_equal(ours[name], theirs[name]), name
    finally:
        slow.close()
        fast.close()


def test_a_binding_that_fails_falls_back(monkeypatch, capfd):
    from libero_sim import fast_step

    def broken(domain):
        raise OSError("no such symbol")

    monkeypatch.setattr(fast_step, "_require_supported", broken)
    env = libero_rollout.lane(SIZE)
    try:
        env.reset(OBJECT, 0, seed=0)
        assert not env._scene.fast
        assert "no such symbol" in capfd.readouterr().err
        env.step(np.zeros(7, np.float32))
    finally:
        env.close()
