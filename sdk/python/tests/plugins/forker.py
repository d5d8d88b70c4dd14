"""An env that forks a worker and terminates it while it is busy."""

import multiprocessing
import time

import srpo_sdk as srpo


class Forker(srpo.Env):
    info = srpo.Info("forker", doc="An env for tests")

    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec([], srpo.ActionSpace(["a"], [-1], [1], "test", 10), proprio=["exit_status"])

    @classmethod
    def tasks(cls, settings):
        yield srpo.Task("forker/task", "forker", "terminate", 1, 10)

    def reset(self, task, start_state, seed):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        worker.start()
        worker.terminate()
        worker.join(10)
        self.status = worker.exitcode
        if self.status is None:
            worker.kill()
            self.status = 0

    def proprio(self):
        return [self.status]


srpo.serve(Forker)
