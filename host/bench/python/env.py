"""An idle environment, to measure the transport of a frame from Python to the host."""

import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
import numpy as np

SIDE = 256


class Idle(srpo.Env):
    """Shows the same 256 x 256 pixels of noise at every step. Episodes end by their length."""

    info = srpo.Info("bench-env", "0.1.0", [], "an idle environment")
    max_lanes = 64

    @classmethod
    def describe(cls, settings):
        names = [f"a{i}" for i in range(7)]
        action = srpo.ActionSpace(names, low=[-1.0] * 7, high=[1.0] * 7, meaning="ignored", rate_hz=0)
        return srpo.EnvSpec([srpo.Camera("main", SIDE, SIDE)], action, [f"p{i}" for i in range(8)])

    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("idle", "idle", "do nothing", start_states=4096, max_steps=1_000_000)

    def __init__(self, config):
        super().__init__(config)
        self.frame = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        self.zeros = np.zeros(8, np.float32)

    def reset(self, task, start_state, seed):
        pass

    def step(self, action):
        return srpo.Step(success=False)

    def proprio(self):
        return self.zeros

    def render(self, camera):
        return self.frame


srpo.serve(Idle)
