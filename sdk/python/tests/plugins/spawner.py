"""An env with a worker of multiprocessing. The spawn method imports this file again; serve has no __main__ guard here,
on purpose.
"""

import multiprocessing
import sys

import srpo_sdk as srpo


def square(x):
    return x * x


class Spawner(srpo.Env):
    info = srpo.Info("spawner", doc="An env for tests")

    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec([], srpo.ActionSpace(["a"], [-1], [1], "test", 10), proprio=["squared"])

    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("spawner/task", "spawner", "square", 1, 10)

    def reset(self, task, start_state, seed):
        with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
            self.squared = pool.map(square, [3])

    def proprio(self):
        return self.squared


srpo.serve(Spawner)
