"""The scripted policy of ``expert.py``, failing on purpose: what a reward is to be measured with.

``miss``: the fingers close beside the object and carry nothing to the basket. ``drop``: they let go half way and go on.
``wrong``: the nearest other object goes into the basket. ``stall``: it stops once the object is lifted. Afterwards the
arm stays where it is until the episode is truncated.
"""

from __future__ import annotations

import numpy as np

from libero_sim.expert import CLOSE, OPEN, TRAVEL_M, Expert
from libero_sim.pick_place import PickPlace

BESIDE_M = 0.075  # how far from the object's centre the fingers of a miss close, across the line they close along
EMPTY_M = 0.12  # how far empty fingers go down over the basket
PATIENCE = 60  # steps after which a phase of empty fingers ends, whatever is in the way


class FailingExpert(Expert):
    """The next action for a ``PickPlace`` scene in an episode that is to fail; made anew for each episode."""

    def __init__(self, view: PickPlace, failure: str):
        self.failure = failure
        super().__init__(PickPlace(view.scene, view.neighbour()) if failure == "wrong" else view)
        if failure == "miss":
            aside = np.array([-self.finger_axis[1], self.finger_axis[0], 0.0])
            away = view.item_position() - self._neighbour_position()
            self.aside = BESIDE_M * (aside if aside @ away > 0 else -aside)
            self.beside = view.item_position() + self.aside
        self.began_m = self._left_m()

    def _neighbour_position(self) -> np.ndarray:
        return self.view.scene.data.xpos[self.view.scene.domain.obj_body_id[self.view.neighbour()]]

    def _left_m(self) -> float:
        """How far the object is from the basket, seen from above."""
        return float(np.linalg.norm((self.view.item_position() - self.view.basket_position())[:2]))

    def action(self) -> np.ndarray:
        """float32 [7] in [-1, 1]; it never gives up."""
        grasped = self.phase in ("lift", "carry", "lower") and self.view.grasped()
        if self.failure == "stall" and self.phase == "carry":
            self._enter("rest")
        elif self.failure == "drop" and self.phase == "carry" and grasped and self._left_m() < self.began_m / 2:
            self._enter("let_go")
        elif self.failure == "wrong" and self.phase == "release" and self.steps > 12:
            self._enter("rest")
        chosen = super().action()
        return self._rest() if chosen is None else chosen

    def _grasp_point(self) -> np.ndarray:
        return self.beside if self.failure == "miss" else super()._grasp_point()

    def _close(self) -> np.ndarray:
        if self.failure != "miss":
            return super()._close()
        if self.steps >= 12:
            self._enter("raise_empty")
        return self._still(CLOSE)

    def _let_go(self) -> np.ndarray:
        if self.steps >= 8:
            self._enter("carry_empty")
        return self._still(OPEN)

    def _raise_empty(self) -> np.ndarray:
        grip = self.view.grip_position()
        height = self.view.basket_position()[2] + TRAVEL_M
        if grip[2] > height - 0.03 or self.steps > PATIENCE:
            self._enter("carry_empty")
        return self._toward(np.array([grip[0], grip[1], height]), CLOSE)

    def _carry_empty(self) -> np.ndarray:
        goal = self.view.basket_position() + [0, 0, TRAVEL_M]
        if np.linalg.norm((self.view.grip_position() - goal)[:2]) < 0.015 or self.steps > PATIENCE:
            self._enter("lower_empty")
        return self._toward(goal, CLOSE)

    def _lower_empty(self) -> np.ndarray:
        goal = self.view.basket_position() + [0, 0, TRAVEL_M - EMPTY_M]
        if abs(self.view.grip_position()[2] - goal[2]) < 0.015 or self.steps > PATIENCE:
            self._enter("rest")
        return self._toward(goal, CLOSE, limit=0.6)

    def _rest(self) -> np.ndarray:
        return self._still(CLOSE if self.failure == "stall" else OPEN)
