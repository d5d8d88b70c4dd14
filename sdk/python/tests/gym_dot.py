"""A gymnasium environment for the tests, registered as Dot-v0: a dot on a line reaches its right end."""

import gymnasium
import numpy as np
from gymnasium import spaces

import srpo_sdk as srpo
from srpo_sdk.gymnasium import GymEnv


class Dot(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    action_space = spaces.Box(-0.5, 0.5, (2, 1), np.float64)

    def __init__(self, render_mode=None, success_key="is_success", observe=None):
        self.render_mode, self.success_key = render_mode, success_key
        box = {"goal": spaces.Box(-1, 1, (1,)), "state": spaces.Box(-9, 9, (2,))}
        self.observation_space = {
            None: spaces.Dict({**box, "wrist": spaces.Dict({"rgb": spaces.Box(0, 255, (4, 6, 3), np.uint8)})}),
            "vector": box["state"],
        }[observe]

    def observation(self):
        state = np.array([self.x, self.steps])
        if isinstance(self.observation_space, spaces.Box):
            return state
        return {"goal": np.ones(1), "state": state, "wrist": {"rgb": np.full((4, 6, 3), self.steps, np.uint8)}}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 0), 0
        return self.observation(), {}

    def step(self, action):
        assert action.shape == (2, 1) and action.dtype == np.float64
        self.x, self.steps = self.x + action.sum() + self.np_random.normal() * 1e-3, self.steps + 1
        info = {self.success_key: np.float32(self.x > 1)} if self.success_key else {"other": 1}
        return self.observation(), -1.0, bool(self.x < -2), bool(self.x < -1.5), info

    def render(self):
        image = np.zeros((8, 16, 3), np.uint8)
        image[:, int(np.clip(8 + 4 * self.x, 0, 15))] = 255
        return image


gymnasium.register("Dot-v0", Dot, max_episode_steps=20)
gymnasium.register("Endless-v0", Dot)


class GymDot(GymEnv):
    info = srpo.Info("gym-dot", doc="An env for tests")
    env_id = "gym_dot:Dot-v0"
    instruction = "move right"
    proprio_keys = ["state"]
    max_lanes = 2
