"""The state of a libero_object task: pick up an object and place it in the basket.

``PickPlace`` reads positions and contacts from the simulator, for the progress of an episode and for the scripted
policies. It uses no random numbers.
"""

from __future__ import annotations

import numpy as np

REACH_M = 0.04  # maximum distance between gripper and object centre: reached
LIFT_M = 0.04  # minimum height above the object's start position: lifted
BASKET_RADIUS_M = 0.07  # maximum horizontal distance between the centres of object and basket: over the basket
FAR_M = 0.5  # larger distances count as this

# Progress at the start of each phase. Within a phase it increases as the distance to the next phase decreases.
NOT_REACHED, REACHED, GRASPED, LIFTED, OVER_BASKET = 0.0, 0.25, 0.4, 0.5, 0.9


class PickPlace:
    """The object, the basket and the gripper of one scene. Positions are float64 [3] in metres, world frame.

    Args:
        item: the object's name; None: the task's object.
    """

    def __init__(self, scene, item: str | None = None):
        self.scene = scene
        domain = scene.domain
        self.item, self.basket = domain.obj_of_interest[:2]
        self.item = item or self.item
        model = scene.model
        self._item_body = domain.obj_body_id[self.item]
        self._basket_body = domain.obj_body_id[self.basket]
        robot = domain.robots[0]
        self._grip_site = robot.eef_site_id
        self._pads = [
            _mask(model.ngeom, [domain.sim.model.geom_name2id(name) for name in robot.gripper.important_geoms[pad]])
            for pad in ("left_fingerpad", "right_fingerpad")
        ]
        contact_geoms = domain.objects_dict[self.item].contact_geoms
        self._item_geoms = _mask(model.ngeom, [domain.sim.model.geom_name2id(name) for name in contact_geoms])
        self.item_start = self.item_position()

    def neighbour(self) -> str:
        """Return the name of the nearest other object, except for the basket."""
        domain = self.scene.domain
        places = {
            name: self.scene.data.xpos[domain.obj_body_id[name]]
            for name in domain.objects_dict
            if name not in (self.item, self.basket)
        }
        here = self.item_position()
        return min(places, key=lambda name: (float(np.linalg.norm((places[name] - here)[:2])), name))

    def grip_position(self) -> np.ndarray:
        return self.scene.data.site_xpos[self._grip_site].copy()

    def finger_axis(self) -> np.ndarray:
        """Return the horizontal unit vector, float64 [3], from one finger pad to the other."""
        left, right = (self.scene.data.geom_xpos[np.argmax(pad)] for pad in self._pads)
        axis = (left - right) * [1.0, 1.0, 0.0]
        return axis / np.linalg.norm(axis)

    def item_position(self) -> np.ndarray:
        return self.scene.data.xpos[self._item_body].copy()

    def item_half_width(self, direction: np.ndarray) -> float:
        """Return half of the object's size in m along a unit vector (float64 [3]), from its collision boxes."""
        geoms = np.nonzero(self._item_geoms)[0]
        data = self.scene.data
        axes = np.einsum("gij,i->gj", data.geom_xmat[geoms].reshape(-1, 3, 3), direction)
        centres = (data.geom_xpos[geoms] - self.item_position()) @ direction
        return float(np.max(np.abs(centres) + np.sum(np.abs(axes) * self.scene.model.geom_size[geoms], axis=1)))

    def basket_position(self) -> np.ndarray:
        return self.scene.data.xpos[self._basket_body].copy()

    def grasped(self) -> bool:
        """Return whether both finger pads touch the object."""
        contact = self.scene.data.contact
        first, second = np.asarray(contact.geom1), np.asarray(contact.geom2)
        return all(
            bool(np.any((pad[first] & self._item_geoms[second]) | (pad[second] & self._item_geoms[first])))
            for pad in self._pads
        )

    def progress(self, success: bool) -> float:
        """Return the state's progress in [0, 1]: 1 for success, else by phase and distance to the next phase.

        The phases are not reached, reached, grasped, lifted and over the basket. Progress depends on the state only, so
        it decreases when the object is dropped.
        """
        if success:
            return 1.0
        item, basket = self.item_position(), self.basket_position()
        reach = float(np.linalg.norm(self.grip_position() - item))
        carry = float(np.linalg.norm((item - basket)[:2]))
        lifted = item[2] - self.item_start[2] > LIFT_M
        if lifted and carry < BASKET_RADIUS_M:
            return OVER_BASKET
        if self.grasped():
            if not lifted:
                return GRASPED
            return LIFTED + (OVER_BASKET - LIFTED) * _nearness(carry)
        if reach < REACH_M:
            return REACHED
        return NOT_REACHED + (REACHED - NOT_REACHED) * _nearness(reach)


def _nearness(distance: float) -> float:
    return 1.0 - min(distance, FAR_M) / FAR_M


def _mask(size: int, indices: list[int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[indices] = True
    return mask
