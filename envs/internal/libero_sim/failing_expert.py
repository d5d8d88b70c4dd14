"""The scripted policy of ``expert.py`` with deliberate failures, for testing rewards.

``miss``: the fingers close next to the object and carry nothing to the basket. ``drop``: they drop the object halfway
and continue. ``wrong``: they put the nearest other object into the basket. ``stall``: they stop after lifting the
object. Afterwards the arm stays where it is until the episode is truncated.
"""

from __future__ import annotations

import numpy as np

from libero_sim.expert import CLOSE, OPEN, TRAVEL_M, Expert
from libero_sim.pick_place import PickPlace

MISS_M = 0.075  # distance between the object's centre and the closing fingers of a miss, across the finger axis
EMPTY_DESCENT_M = 0.12  # how far empty fingers descend over the basket
MAX_PHASE_STEPS = 60  # maximum steps of a phase with empty fingers


class FailingExpert(Expert):
    """The actions of the scripted policy for one episode of a ``PickPlace`` scene that must fail."""

    def __init__(self, state: PickPlace, failure: str):
        self.failure = failure
        super().__init__(PickPlace(state.scene, state.neighbour()) if failure == "wrong" else state)
        if failure == "miss":
            across = np.array([-self.finger_axis[1], self.finger_axis[0], 0.0])
            away = state.item_position() - self._neighbour_position()
            self.miss_point = state.item_position() + MISS_M * (across if across @ away > 0 else -across)
        self.start_distance_m = self._distance_m()

    def _neighbour_position(self) -> np.ndarray:
        return self.state.scene.data.xpos[self.state.scene.domain.obj_body_id[self.state.neighbour()]]

    def _distance_m(self) -> float:
        """Return the horizontal distance in m between the object and the basket."""
        return float(np.linalg.norm((self.state.item_position() - self.state.basket_position())[:2]))

    def action(self) -> np.ndarray:
        """Return the next action, float32 [7] in [-1, 1]; never None."""
        if self.failure == "stall" and self.phase == "carry":
            self._enter("rest")
        elif self.failure == "drop" and self.phase == "carry" and self.state.grasped():
            if self._distance_m() < self.start_distance_m / 2:
                self._enter("drop")
        elif self.failure == "wrong" and self.phase == "release" and self.steps > 12:
            self._enter("rest")
        action = super().action()
        return self._rest() if action is None else action

    def _grasp_point(self) -> np.ndarray:
        return self.miss_point if self.failure == "miss" else super()._grasp_point()

    def _close(self) -> np.ndarray:
        if self.failure != "miss":
            return super()._close()
        if self.steps >= 12:
            self._enter("raise_empty")
        return self._still(CLOSE)

    def _drop(self) -> np.ndarray:
        if self.steps >= 8:
            self._enter("carry_empty")
        return self._still(OPEN)

    def _raise_empty(self) -> np.ndarray:
        grip = self.state.grip_position()
        height = self.state.basket_position()[2] + TRAVEL_M
        if grip[2] > height - 0.03 or self.steps > MAX_PHASE_STEPS:
            self._enter("carry_empty")
        return self._toward(np.array([grip[0], grip[1], height]), CLOSE)

    def _carry_empty(self) -> np.ndarray:
        goal = self.state.basket_position() + [0, 0, TRAVEL_M]
        if np.linalg.norm((self.state.grip_position() - goal)[:2]) < 0.015 or self.steps > MAX_PHASE_STEPS:
            self._enter("lower_empty")
        return self._toward(goal, CLOSE)

    def _lower_empty(self) -> np.ndarray:
        goal = self.state.basket_position() + [0, 0, TRAVEL_M - EMPTY_DESCENT_M]
        if abs(self.state.grip_position()[2] - goal[2]) < 0.015 or self.steps > MAX_PHASE_STEPS:
            self._enter("rest")
        return self._toward(goal, CLOSE, limit=0.6)

    def _rest(self) -> np.ndarray:
        return self._still(CLOSE if self.failure == "stall" else OPEN)
