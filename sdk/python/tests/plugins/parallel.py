"""Two lanes that depend on each other: each step waits until the other lane is in its step."""

import threading

import srpo_sdk as srpo

MEET = threading.Barrier(2)


class Parallel(srpo.Env):
    info = srpo.Info("parallel", doc="An env for tests")
    max_lanes = 2
    threads = True

    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec([], srpo.ActionSpace(["a"], [-1], [1], "test", 10))

    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("parallel/meet", "parallel", "meet", 1, 10)

    def __init__(self, config):
        self.thread = threading.get_ident()

    def reset(self, task, start_state, seed):
        pass

    def step(self, action):
        MEET.wait(timeout=15)
        return srpo.Step(success=self.thread == threading.get_ident())


srpo.serve(Parallel)
