"""A policy for the tests: its weight is one number."""

import os

import srpo_sdk as srpo

import numpy as np  # isort: skip


class Learner(srpo.Policy):
    info = srpo.Info("learner", doc="A policy for tests", settings=[srpo.Setting("chunk", 2, "actions at once")])

    def __init__(self, config):
        super().__init__(config)
        self.weight, self.kept, self.batches, self.start = 0.0, {}, [], 0.0

    def describe(self):
        return srpo.PolicySpec(
            cameras=[("", 0, 0)], chunk=self.config.settings["chunk"], proprio=True, parameters=1, max_batch=2
        )

    def act(self, items, sampling):
        self.batches.append(len(items))
        results = []
        for item in items:
            if item.observation.instruction == "nan action":
                results.append(srpo.ActResult(np.full((2, 3), np.nan)))
                continue
            if item.observation.instruction == "nan log-probability":
                results.append(srpo.ActResult(np.zeros((2, 3)), [-1, -np.inf]))
                continue
            if item.observation.instruction == "one log-probability too few":
                results.append(srpo.ActResult(np.zeros((2, 3)), [-1]))
                continue
            if item.observation.instruction == "kept":  # the recorded image must be unchanged
                mean = self.kept[("t", 0)].images["front"].mean()
            else:
                mean = item.observation.images["front"].mean()
            if sampling.record:
                self.kept[(item.trajectory, item.step)] = item.observation
            noise = 0.0 if sampling.greedy else np.random.default_rng(item.seed).normal() * sampling.temperature
            value = mean / 255 + self.weight + noise + item.observation.proprio[0]
            results.append(srpo.ActResult(np.full((2, 3), value), np.array([-1.0, -2.0])))
        return results

    def update(self, update, progress):
        for i, t in enumerate(update.trajectories):
            if t.trajectory == "endless":
                while True:
                    progress(0.5)
            if (t.trajectory, 0) not in self.kept:
                raise srpo.Error("not found", "never recorded", place=t.trajectory)
            self.weight += float(t.values.sum()) * update.hyperparameters.clip_low
            progress((i + 1) / len(update.trajectories))
        extra = {"more": 1.0, "start": self.start}
        return srpo.Statistics(loss=self.weight, kl=0.5, samples=len(update.trajectories), extra=extra)

    def forget(self, trajectories):
        for key in [k for k in self.kept if not trajectories or k[0] in trajectories]:
            del self.kept[key]

    def imitate(self, imitate, demonstrations, progress):
        demos = list(demonstrations)
        self.weight = sum(float(d.actions.sum()) + float(d.images["front"].mean()) for d in demos)
        for i in range(imitate.steps):
            progress((i + 1) / imitate.steps, 1.0 / (i + 1))

    def save(self, folder):
        os.makedirs(os.path.join(folder, "deep"))
        with open(os.path.join(folder, "deep", "weight"), "w") as f:
            f.write(repr(self.weight))

    def load(self, folder):
        with open(os.path.join(folder, "deep", "weight")) as f:
            self.weight = float(f.read())
        self.kept.clear()

    def begin_run(self):
        self.start = self.weight


srpo.serve(Learner)
