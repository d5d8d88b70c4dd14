"""A point in a square of 2 m reaches a target: a complete environment for srpo."""
import srpo_sdk as srpo  # isort: skip  (first, so that nothing another import prints reaches the host)
import numpy as np

ACTION = srpo.ActionSpace(["dx", "dy"], low=[-0.1, -0.1], high=[0.1, 0.1], meaning="displacement, metres", rate_hz=10)
class Reach(srpo.Env):
    info = srpo.Info("reach", "0.1.0", [srpo.Setting("near", 0.1, "metres that count as reached")], "A point, a target")
    max_lanes = 64
    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec([srpo.Camera("top", 64, 64)], ACTION, ["x [m]", "y [m]", "target_x [m]", "target_y [m]"])
    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("reach/target", "reach", "move to the red target", start_states=50, max_steps=40)
    def reset(self, task, start_state, seed):
        self.point, self.target = np.random.default_rng(start_state).uniform(-0.9, 0.9, (2, 2))
    def step(self, action):
        self.point = np.clip(self.point + action, -1, 1)
        return srpo.Step(success=bool(np.hypot(*(self.point - self.target)) < self.config.settings["near"]))
    def proprio(self): return np.concatenate([self.point, self.target])
    def render(self, camera):
        y, x = np.mgrid[1:-1:64j, -1:1:64j]
        blue, red = (np.hypot(x - p[0], y - p[1]) < 0.08 for p in (self.point, self.target))
        return np.uint8(255) * ~np.stack([blue, blue | red, red], axis=-1)
srpo.serve(Reach)
