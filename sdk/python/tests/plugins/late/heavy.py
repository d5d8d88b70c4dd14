"""What late/plugin.py imports in Configure, on the main thread."""

import threading

import numpy as np

import srpo_sdk as srpo

print("heavy import", threading.current_thread() is threading.main_thread())


class Late(srpo.Policy):
    def describe(self):
        return srpo.PolicySpec(cameras=[], chunk=1)


class LateEnv(srpo.Env):
    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec(cameras=[], action=srpo.ActionSpace(["x"], [-1], [1]), proprio=["x"])

    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("late/task", "late", "wait", start_states=1, max_steps=1)

    def reset(self, task, start_state, seed):
        pass

    def proprio(self):
        return np.zeros(1, np.float32)


class LateEncoder(srpo.Encoder):
    @classmethod
    def describe(cls, settings):
        return srpo.EncoderSpec(dimension=7)
