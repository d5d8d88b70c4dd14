"""A scripted policy for libero_object, from the simulator's own knowledge: no camera, no random numbers.

It goes through the phases hover, descend, close, lift, carry, lower, release, and back to hover when it finds that it
holds nothing, once for each of ``SHIFTS_M``. Phases change by what the state is, so it goes on sensibly when another
policy has acted in between.
"""

from __future__ import annotations

import numpy as np

from libero_sim.pick_place import PickPlace

OPEN, CLOSE = -1.0, 1.0
FULL_STEP_M = 0.05  # what an action of 1 asks of OSC_POSE, in one step
FULL_TURN_RAD = 0.5
HOVER_M = 0.12  # above the object's centre
TRAVEL_M = 0.28  # above the basket's origin, while carrying
RELEASE_M = 0.16  # above the basket's origin, to let go
SINKS_M, RESTS_STEPS = 0.001, 5  # a descent that gets no lower than this in so many steps has ended
GRIP_HALF_M = 0.037  # half of what fits between the open fingers, with some room
SHIFTS_M = (0.0, 0.015, -0.015, 0.0)  # along the fingers, by attempt: when a neighbour is in one finger's way


class Expert:
    """The next action for a ``PickPlace`` scene; made anew for each episode."""

    def __init__(self, view: PickPlace):
        self.view = view
        self.phase = "hover"
        self.steps = 0  # in this phase
        self.attempt = 0
        self.lowest = np.inf  # height of the fingers in this descent, m
        self.sank = 0  # the step of the descent at which they came to it
        self.finger_axis = self._choose_finger_axis()

    def _choose_finger_axis(self) -> np.ndarray:
        """Horizontal unit vector, float64 [3], along which to close: as the fingers are now, or across if too wide."""
        now = self.view.finger_axis()
        across = np.array([-now[1], now[0], 0.0])
        wide, narrow = self.view.item_half_width(now), self.view.item_half_width(across)
        return across if wide > GRIP_HALF_M and narrow < wide else now

    def _yaw_error(self) -> float:
        """Angle in rad to turn about the vertical; half a turn makes no difference to two fingers."""
        now, goal = self.view.finger_axis(), self.finger_axis
        angle = np.arctan2(now[0] * goal[1] - now[1] * goal[0], now @ goal)
        angle = (angle + np.pi / 2) % np.pi - np.pi / 2
        return angle - np.pi if angle > 1.3 else angle  # a quarter turn always the same way, the wrist's freer one

    def action(self) -> np.ndarray | None:
        """float32 [7] in [-1, 1], or None once every attempt has failed."""
        if self.attempt >= len(SHIFTS_M):
            return None
        chosen = getattr(self, "_" + self.phase)()
        self.steps += 1
        return chosen

    def _enter(self, phase: str) -> None:
        self.phase, self.steps = phase, -1

    def _start_again(self) -> None:
        self.attempt += 1
        self._enter("hover")

    def _toward(self, goal: np.ndarray, grip: float, limit: float = 1.0) -> np.ndarray:
        action = np.zeros(7, np.float32)
        action[:3] = np.clip((goal - self.view.grip_position()) / FULL_STEP_M, -limit, limit)
        action[6] = grip
        return action

    def _turned(self, action: np.ndarray) -> np.ndarray:
        action[5] = np.clip(self._yaw_error() / FULL_TURN_RAD, -1.0, 1.0)
        return action

    def _still(self, grip: float) -> np.ndarray:
        action = np.zeros(7, np.float32)
        action[6] = grip
        return action

    def _grasp_point(self) -> np.ndarray:
        return self.view.item_position() + SHIFTS_M[min(self.attempt, len(SHIFTS_M) - 1)] * self.finger_axis

    def _hover(self) -> np.ndarray:
        grip, goal = self.view.grip_position(), self._grasp_point() + [0, 0, HOVER_M]
        action = self._turned(self._toward(goal, OPEN))
        sideways, upward = np.linalg.norm((grip - goal)[:2]), abs(grip[2] - goal[2])
        if sideways < 0.008 and upward < 0.03 and abs(self._yaw_error()) < 0.06:
            self._enter("descend")
        return action

    def _descend(self) -> np.ndarray:
        goal, height = self._grasp_point(), self.view.grip_position()[2]
        above = height - goal[2]
        if self.steps == 0 or height < self.lowest - SINKS_M:
            self.lowest, self.sank = height, self.steps
        # The palm of the hand rests on a tall object before the fingers are at its middle. Waiting there longer than it
        # takes to see that would teach a policy without memory to wait for ever.
        rests = self.steps - self.sank >= RESTS_STEPS and above < max(
            0.015, self.view.item_half_width(np.array([0.0, 0.0, 1.0]))
        )
        if above < 0.008 or rests:
            self._enter("close")
        elif self.steps > 40:
            self._start_again()
        return self._turned(self._toward(goal, OPEN, limit=0.6))

    def _close(self) -> np.ndarray:
        if self.steps >= 12:
            self._enter("lift") if self.view.grasped() else self._start_again()
        return self._still(CLOSE)

    def _lift(self) -> np.ndarray:
        grip = self.view.grip_position()
        height = self.view.basket_position()[2] + TRAVEL_M
        if not self.view.grasped():
            self._start_again()
        elif grip[2] > height - 0.03:
            self._enter("carry")
        return self._toward(np.array([grip[0], grip[1], height]), CLOSE)

    def _over_basket(self, height: float) -> np.ndarray:
        """Where the gripper must be for the object to be over the basket."""
        goal = self.view.basket_position() + [0, 0, height]
        goal[:2] += (self.view.grip_position() - self.view.item_position())[:2]
        return goal

    def _carry(self) -> np.ndarray:
        goal = self._over_basket(TRAVEL_M)
        if not self.view.grasped():
            self._start_again()
        elif np.linalg.norm((self.view.grip_position() - goal)[:2]) < 0.015:
            self._enter("lower")
        return self._toward(goal, CLOSE)

    def _lower(self) -> np.ndarray:
        goal = self._over_basket(RELEASE_M)
        if abs(self.view.grip_position()[2] - goal[2]) < 0.015 or self.steps > 25:
            self._enter("release")
        return self._toward(goal, CLOSE, limit=0.6)

    def _release(self) -> np.ndarray:
        action = self._still(OPEN)
        action[2] = 0.2 * (self.steps > 4)
        if self.steps > 30:
            self._start_again()
        return action
