"""gymnasium's AsyncVectorEnv with shared memory over environments that do nothing: the host's comparison.

Reads one JSON object a line, {"lanes", "frame", "seconds"}: frame is the side of a uint8 [frame, frame, 3] observation,
0 for 8 float32 numbers and no frame. Answers each with {"us": microseconds of the clock for one step of one lane,
"steps": steps of the vector, "warm": those before}. Observations are not copied once more by gymnasium (copy=False),
its fastest setting, and no environment ever ends.
"""

import json
import sys
import time

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv


class Nothing(gymnasium.Env):
    """The same observation at every step, made once."""

    def __init__(self, frame: int):
        if frame:
            self.observation_space = gymnasium.spaces.Box(0, 255, (frame, frame, 3), np.uint8)
            self.observation = np.random.default_rng(0).integers(0, 256, (frame, frame, 3), np.uint8)
        else:
            self.observation_space = gymnasium.spaces.Box(-1, 1, (8,), np.float32)
            self.observation = np.zeros(8, np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    def reset(self, *, seed=None, options=None):
        return self.observation, {}

    def step(self, action):
        return self.observation, 0.0, False, False, {}


def main() -> None:
    key, envs = None, None
    for line in sys.stdin:
        ask = json.loads(line)
        if key != (ask["lanes"], ask["frame"]):
            if envs is not None:
                envs.close()
            key = (ask["lanes"], ask["frame"])
            makers = [lambda: Nothing(ask["frame"])] * ask["lanes"]  # noqa: B023 (called before the next line)
            envs = AsyncVectorEnv(makers, shared_memory=True, copy=False)
            envs.reset(seed=0)
        actions = np.zeros((ask["lanes"], 7), np.float32)
        began = time.perf_counter()
        for _ in range(10):
            envs.step(actions)
        steps = max(10, int(ask["seconds"] / (time.perf_counter() - began) * 10))
        began = time.perf_counter()
        for _ in range(steps):
            envs.step(actions)
        seconds = time.perf_counter() - began
        print(json.dumps({"us": seconds / steps / ask["lanes"] * 1e6, "steps": steps, "warm": 10}), flush=True)
    if envs is not None:
        envs.close()


if __name__ == "__main__":
    main()
