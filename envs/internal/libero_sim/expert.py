"""A scripted policy for libero_object. It reads the simulator's state and uses no camera and no random numbers.

Its phases are hover, descend, close, lift, carry, lower and release. It returns to hover when the fingers hold nothing,
once for each of ``SHIFTS_M``. Phases change with the state, so it can continue after another policy has acted.
"""

from __future__ import annotations

import numpy as np

from libero_sim.pick_place import PickPlace

OPEN, CLOSE = -1.0, 1.0
FULL_STEP_M = 0.05  # commanded motion of OSC_POSE per step for an action of 1
FULL_TURN_RAD = 0.5
HOVER_M = 0.12  # above the object's centre
TRAVEL_M = 0.28  # above the basket's origin, while carrying
RELEASE_M = 0.16  # above the basket's origin, to let go
MIN_DESCENT_M, DESCENT_STEPS = 0.001, 5  # the descent has ended if it is slower than this distance per so many steps
GRIP_HALF_M = 0.037  # half of the width that fits between the open fingers
SHIFTS_M = (0.0, 0.015, -0.015, 0.0)  # along the fingers, one per attempt: another object may block one finger


class Expert:
    """The actions of the scripted policy for one episode of a ``PickPlace`` scene."""

    def __init__(self, state: PickPlace):
        self.state = state
        self.phase = "hover"
        self.steps = 0  # in this phase
        self.attempt = 0
        self.lowest = np.inf  # lowest height of the fingers in this descent, m
        self.lowest_step = 0  # step of the descent at which they reached it
        self.finger_axis = self._choose_finger_axis()

    def _choose_finger_axis(self) -> np.ndarray:
        """Return the horizontal unit vector, float64 [3], along which to close.

        It is the present one, or the perpendicular one if the object is too wide along the present one.
        """
        now = self.state.finger_axis()
        across = np.array([-now[1], now[0], 0.0])
        wide, narrow = self.state.item_half_width(now), self.state.item_half_width(across)
        return across if wide > GRIP_HALF_M and narrow < wide else now

    def _yaw_error(self) -> float:
        """Return the angle in rad to turn about the vertical axis, modulo half a turn."""
        now, goal = self.state.finger_axis(), self.finger_axis
        angle = np.arctan2(now[0] * goal[1] - now[1] * goal[0], now @ goal)
        angle = (angle + np.pi / 2) % np.pi - np.pi / 2
        return angle - np.pi if angle > 1.3 else angle  # about a quarter turn: in the direction with more joint range

    def action(self) -> np.ndarray | None:
        """Return the next action, float32 [7] in [-1, 1], or None if every attempt has failed."""
        if self.attempt >= len(SHIFTS_M):
            return None
        action = getattr(self, "_" + self.phase)()
        self.steps += 1
        return action

    def _enter(self, phase: str) -> None:
        self.phase, self.steps = phase, -1

    def _retry(self) -> None:
        self.attempt += 1
        self._enter("hover")

    def _toward(self, goal: np.ndarray, grip: float, limit: float = 1.0) -> np.ndarray:
        action = np.zeros(7, np.float32)
        action[:3] = np.clip((goal - self.state.grip_position()) / FULL_STEP_M, -limit, limit)
        action[6] = grip
        return action

    def _with_turn(self, action: np.ndarray) -> np.ndarray:
        action[5] = np.clip(self._yaw_error() / FULL_TURN_RAD, -1.0, 1.0)
        return action

    def _still(self, grip: float) -> np.ndarray:
        action = np.zeros(7, np.float32)
        action[6] = grip
        return action

    def _grasp_point(self) -> np.ndarray:
        return self.state.item_position() + SHIFTS_M[min(self.attempt, len(SHIFTS_M) - 1)] * self.finger_axis

    def _hover(self) -> np.ndarray:
        grip, goal = self.state.grip_position(), self._grasp_point() + [0, 0, HOVER_M]
        action = self._with_turn(self._toward(goal, OPEN))
        horizontal, vertical = np.linalg.norm((grip - goal)[:2]), abs(grip[2] - goal[2])
        if horizontal < 0.008 and vertical < 0.03 and abs(self._yaw_error()) < 0.06:
            self._enter("descend")
        return action

    def _descend(self) -> np.ndarray:
        goal, height = self._grasp_point(), self.state.grip_position()[2]
        above = height - goal[2]
        if self.steps == 0 or height < self.lowest - MIN_DESCENT_M:
            self.lowest, self.lowest_step = height, self.steps
        # The palm rests on a tall object before the fingers reach its middle. The expert then closes the fingers soon:
        # a longer wait would teach a policy without memory to wait for ever.
        half_height = self.state.item_half_width(np.array([0.0, 0.0, 1.0]))
        rests = self.steps - self.lowest_step >= DESCENT_STEPS and above < max(0.015, half_height)
        if above < 0.008 or rests:
            self._enter("close")
        elif self.steps > 40:
            self._retry()
        return self._with_turn(self._toward(goal, OPEN, limit=0.6))

    def _close(self) -> np.ndarray:
        if self.steps >= 12:
            self._enter("lift") if self.state.grasped() else self._retry()
        return self._still(CLOSE)

    def _lift(self) -> np.ndarray:
        grip = self.state.grip_position()
        height = self.state.basket_position()[2] + TRAVEL_M
        if not self.state.grasped():
            self._retry()
        elif grip[2] > height - 0.03:
            self._enter("carry")
        return self._toward(np.array([grip[0], grip[1], height]), CLOSE)

    def _over_basket(self, height: float) -> np.ndarray:
        """Return the gripper position, float64 [3], that puts the object over the basket at this height (m)."""
        goal = self.state.basket_position() + [0, 0, height]
        goal[:2] += (self.state.grip_position() - self.state.item_position())[:2]
        return goal

    def _carry(self) -> np.ndarray:
        goal = self._over_basket(TRAVEL_M)
        if not self.state.grasped():
            self._retry()
        elif np.linalg.norm((self.state.grip_position() - goal)[:2]) < 0.015:
            self._enter("lower")
        return self._toward(goal, CLOSE)

    def _lower(self) -> np.ndarray:
        goal = self._over_basket(RELEASE_M)
        if abs(self.state.grip_position()[2] - goal[2]) < 0.015 or self.steps > 25:
            self._enter("release")
        return self._toward(goal, CLOSE, limit=0.6)

    def _release(self) -> np.ndarray:
        action = self._still(OPEN)
        action[2] = 0.2 * (self.steps > 4)
        if self.steps > 30:
            self._retry()
        return action
