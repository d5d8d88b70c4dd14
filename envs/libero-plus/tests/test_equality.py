"""States, success, proprio and pixels of each dimension are bit-identical to the benchmark's environment.

One process plays all variants.
"""

import numpy as np
import pytest
import srpo_sdk as srpo

from libero_sim.lane import CAMERAS
from libero_sim.testing import rollout
from paths import TESTS
from plus_env import LiberoPlus

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
STEPS, WAIT, SIZE, SEED = 12, 3, 256, 2**40 + 3
EVERY = 6


@pytest.fixture(scope="module")
def lane():
    settings = LiberoPlus.info.resolve({"wait_steps": WAIT, "keep_scenes": 1})
    env = LiberoPlus(srpo.EnvConfig(settings=settings, cameras=dict.fromkeys(CAMERAS, (SIZE, SIZE))))
    yield env
    env.close()


def by_reference(variant, actions, keep_arm):
    job = {
        "variant": variant,
        "start_state": 0,
        "actions": actions.astype(np.float64).tolist(),
        "cameras": list(CAMERAS.values()),
        "size": SIZE,
        "wait_steps": WAIT,
        "keep_arm": keep_arm,
        "seed": SEED,
    }
    return rollout.in_process(TESTS / "reference.py", job)


# Every case changes something that the next one must not inherit.
CASES = {
    "camera": f"libero_object/camera/{SOUP}_view_6_15_100_0_0_initstate_0",
    "robot": f"libero_object/robot/{SOUP}_view_0_0_100_0_0_initstate_11",
    "robot overwritten": f"libero_object/robot/{SOUP}_view_0_0_100_0_0_initstate_11",
    "motion": f"libero_object/noise/{SOUP}_view_0_0_100_0_0_initstate_0_noise_2",
    "fog": f"libero_object/noise/{SOUP}_view_0_0_100_0_0_initstate_0_noise_35",
    "language": f"libero_object/language/{SOUP}_language_2_view_0_0_100_0_0_initstate_0",
    "layout": f"libero_object/layout/{SOUP}_level1_sample1",
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_benchmarks_own_environment(lane, case):
    keep_arm = case == "robot"
    lane.settings["robot_start"] = "perturbed" if keep_arm else "overwritten"
    actions = rollout.random_actions(STEPS)
    reference = by_reference(CASES[case], actions, keep_arm)
    ours = rollout.by_lane(lane, CASES[case], 0, actions, list(CAMERAS), EVERY, seed=SEED)
    assert lane._scene.fast, "the fast step did not bind"
    assert rollout.differences(ours, reference, list(CAMERAS)) == []
    if case == "language":
        task = next(t for t in LiberoPlus.tasks(lane.settings) if t.id == CASES[case])
        assert task.instruction == str(reference["instruction"])
    rollout.by_lane(lane, CASES["robot"], 0, np.ones((4, 7), np.float32), [], 1)  # move away and close the gripper
