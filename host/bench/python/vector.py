"""Measures gymnasium's AsyncVectorEnv with shared memory over idle environments, for comparison with the host.

Reads one JSON object per line, {"lanes", "frame", "seconds"}. frame is the side of a uint8 [frame, frame, 3]
observation; with 0 the observation is 8 float32 numbers. Prints {"us": microseconds per step and lane, "steps": number
of vector steps, "warm": warm-up steps}. gymnasium does not copy observations (copy=False, its fastest setting), and
episodes do not end.
"""

import json
import sys
import time

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv


class Idle(gymnasium.Env):
    """Returns the same observation at every step."""

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
        request = json.loads(line)
        if key != (request["lanes"], request["frame"]):
            if envs is not None:
                envs.close()
            key = (request["lanes"], request["frame"])
            makers = [lambda: Idle(request["frame"])] * request["lanes"]  # noqa: B023 (called before the next iteration)
            envs = AsyncVectorEnv(makers, shared_memory=True, copy=False)
            envs.reset(seed=0)
        actions = np.zeros((request["lanes"], 7), np.float32)
        began = time.perf_counter()
        for _ in range(10):
            envs.step(actions)
        steps = max(10, int(request["seconds"] / (time.perf_counter() - began) * 10))
        began = time.perf_counter()
        for _ in range(steps):
            envs.step(actions)
        seconds = time.perf_counter() - began
        print(json.dumps({"us": seconds / steps / request["lanes"] * 1e6, "steps": steps, "warm": 10}), flush=True)
    if envs is not None:
        envs.close()


if __name__ == "__main__":
    main()
