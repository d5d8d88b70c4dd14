"""A lane that plays several variants in one scene: variants do not affect each other, and noise is deterministic."""

import numpy as np
import pytest
import srpo_sdk as srpo

from libero_sim.lane import CAMERAS
from libero_sim.testing import rollout
from plus_env import LiberoPlus

SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
PLAIN = f"libero_object/language/{SOUP}_language_2_view_0_0_100_0_0_initstate_0"
CAMERA = f"libero_object/camera/{SOUP}_view_6_15_100_0_0_initstate_0"
ROBOT = f"libero_object/robot/{SOUP}_view_0_0_100_0_0_initstate_11"
FOG = f"libero_object/noise/{SOUP}_view_0_0_100_0_0_initstate_0_noise_38"


@pytest.fixture(scope="module")
def lane():
    settings = LiberoPlus.info.resolve({"wait_steps": 0, "keep_scenes": 1})
    env = LiberoPlus(srpo.EnvConfig(settings=settings, cameras=dict.fromkeys(CAMERAS, (96, 96))))
    yield env
    env.close()


def play(lane, task, seed=3):
    return rollout.by_lane(lane, task, 0, rollout.random_actions(6), list(CAMERAS), 3, seed=seed)


def test_variants_of_a_task_share_a_scene_and_nothing_else(lane):
    first = {task: play(lane, task) for task in (PLAIN, CAMERA, ROBOT, FOG)}
    assert len(lane._scenes) == 1
    for task in (ROBOT, FOG, PLAIN, CAMERA, PLAIN):
        again = play(lane, task)
        for name in ("qpos", "qvel", "proprio", "agentview", "wrist"):
            assert np.array_equal(again[name], first[task][name]), f"{name} of {task} has changed"
    plain = first[PLAIN]
    assert np.array_equal(first[CAMERA]["qpos"], plain["qpos"]), "a camera variant changes no state"
    assert np.array_equal(first[CAMERA]["wrist"], plain["wrist"])
    assert not np.array_equal(first[CAMERA]["agentview"], plain["agentview"])
    assert np.array_equal(first[FOG]["qpos"], plain["qpos"])
    assert np.array_equal(first[FOG]["wrist"], plain["wrist"]), "only one camera has noise"
    assert not np.array_equal(first[FOG]["agentview"], plain["agentview"])
    assert not np.array_equal(first[ROBOT]["qpos"][0], plain["qpos"][0])


def test_the_arm_starts_as_the_variant_defines(lane):
    lane.reset(ROBOT, 0, seed=0)
    arm = lane._scene.data.qpos[:7].copy()
    wanted = np.array(lane._scene._robot.init_qpos)
    assert np.array_equal(arm, wanted)
    lane.settings["robot_start"] = "overwritten"
    try:
        lane.reset(ROBOT, 0, seed=0)
        state = lane.find(ROBOT).start_states()[0]
        assert np.array_equal(lane._scene.data.qpos[:7], state[1:8])
        assert np.abs(arm - state[1:8]).max() > 0.01
    finally:
        lane.settings["robot_start"] = "perturbed"
    lane.reset(PLAIN, 0, seed=0)
    assert np.array_equal(lane._scene.data.qpos[:7], lane.find(PLAIN).start_states()[0][1:8])


def test_a_noisy_frame_is_the_same_for_every_reader(lane):
    lane.reset(FOG, 0, seed=9)
    first = lane.render("agentview")
    np.random.seed(1)
    assert np.array_equal(first, lane.render("agentview"))
    lane.step(np.zeros(7, np.float32))
    assert not np.array_equal(first, lane.render("agentview"))
    lane.reset(FOG, 0, seed=9)
    assert np.array_equal(first, lane.render("agentview"))
    lane.reset(FOG, 0, seed=10)
    assert not np.array_equal(first, lane.render("agentview"))


def test_noise_needs_square_frames(lane):
    sizes = dict(lane.config.cameras)
    lane.reset(FOG, 0, seed=9)
    lane.config.cameras["agentview"] = (64, 96)
    try:
        with pytest.raises(srpo.Error, match="square"):
            lane.render("agentview")
    finally:
        lane.config.cameras.update(sizes)


def test_the_expert_plays_variants_of_libero_object(lane):
    lane.reset(CAMERA, 0, seed=0)
    assert lane.expert().shape == (7,)
    assert lane.step(lane.expert()).progress is not None
