"""An env for the tests: each task misbehaves in its own way, and the process prints wherever it can."""

import os

print("before the kit is imported")

import srpo_sdk as srpo  # noqa: E402

print("after the kit is imported")
os.system("echo from a child at import")
os.write(1, b"straight to descriptor 1\n")
try:
    input("a question at import? ")
except EOFError:
    pass

import ctypes  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402

TASKS = (
    "plain success terminate progress slow raise error exit bad_step bad_image grey_image float_image nan_proprio "
    "short_proprio worker hold_gil memory swallow"
).split()


class Lab(srpo.Env):
    info = srpo.Info(
        "lab",
        "1.2.3",
        [
            srpo.Setting("number", 0.5, "a number", min=0.0, max=1.0),
            srpo.Setting("count", 3, "a whole number"),
            srpo.Setting("word", "a", "a string", choices=["a", "b"]),
            srpo.Setting("flag", False, "yes or no"),
            srpo.Setting("words", ["x"], "a list"),
        ],
        doc="An env for tests",
        versions=["numpy", "no-such-package"],
    )
    max_lanes = 4

    @classmethod
    def describe(cls, settings):
        return srpo.EnvSpec(
            cameras=[
                srpo.Camera("wrist", 8, 8, "wrist"),
                srpo.Camera("front", 32, 48, any_size=True),
            ],
            action=srpo.ActionSpace(["a", "b", "grip"], [-1, -1, 0], [1, 1, 1], "test", 10),
            proprio=["steps", "renders", "sum", "thread", "settings"],
        )

    @classmethod
    def tasks(cls, settings):
        for name in TASKS:
            yield srpo.Task(f"lab/{name}", "lab", f"do {name}", start_states=5, max_steps=12, tags={"n": len(name)})
        yield srpo.Task("lab/gone", "lab", "cannot", start_states=0, max_steps=0, unavailable="its file is missing")

    def __init__(self, config):
        super().__init__(config)
        self.renders, self.maker = 0, threading.get_ident()

    def reset(self, task, start_state, seed):
        self.task, self.steps, self.sum = task.split("/")[1], 0, float(start_state)
        self.rng = np.random.default_rng(seed)
        if self.task == "worker":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("reset", task)

    def step(self, action):
        print("step", self.steps)
        sys.stdout.write("without a line's end")
        assert action.dtype == np.float32 and action.shape == (3,)
        self.steps += 1
        self.sum += float(action.sum()) + self.rng.normal() * 1e-3
        action[:] = 99  # an env may use its argument as scratch
        task, n = self.task, self.steps
        if task == "slow":
            time.sleep(0.05)
        elif task == "raise" and n == 3:
            raise RuntimeError("the arm fell off")
        elif task == "error":
            raise srpo.Error("exhausted", "no more arms", place="the cupboard", hint="buy one")
        elif task == "exit":
            sys.exit(3)
        elif task == "bad_step":
            return None
        elif task == "hold_gil":
            ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter's lock
        elif task == "memory":
            raise MemoryError
        elif task == "swallow":
            try:
                raise ValueError("caught")
            except ValueError:
                raise KeyError("second") from None
        elif task == "progress":
            return srpo.Step(progress=n / 12)
        return srpo.Step(success=task == "success" and n == 3, terminated=task == "terminate" and n == 3)

    def proprio(self):
        if self.task == "nan_proprio":
            return np.array([0, np.nan, 0, 0, 0])
        if self.task == "short_proprio":
            return np.zeros(3)
        same = threading.get_ident() == self.maker
        s = self.config.settings
        return np.array([self.steps, self.renders, self.sum, same, s["number"] + s["count"]])

    def render(self, camera):
        self.renders += 1
        height, width = self.config.cameras[camera]
        if self.task == "bad_image":
            return np.zeros((height + 1, width, 3), np.uint8)
        if self.task == "grey_image":
            return np.zeros((height, width), np.uint8)
        if self.task == "float_image":
            return np.zeros((height, width, 3))
        image = np.indices((height, width, 3)).sum(0) + 7 * self.steps + len(camera)
        # Neither contiguous nor C-ordered, as a simulator's buffer may be.
        return np.asfortranarray(image.astype(np.uint8))[::-1]

    def expert(self):
        if self.task == "plain":
            return None if self.steps >= 5 else np.array([0.25, 2.0, 0.5])
        return None

    def close(self):
        print("closed", self.config.lane)


srpo.serve(Lab)
