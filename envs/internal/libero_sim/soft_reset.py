"""A soft reset that leaves what a hard one leaves, to the last bit.

A hard reset of robosuite reads the task's XML, meshes and textures again (seconds). A soft one clears the simulation's
data (milliseconds), but forgets some things that a hard one renews; each of them moves later steps by a bit or more:

* the model: fixtures stay where the last episode placed them, and lights and flames as it left them;
* the solver's warm start: a hard reset has run two forwards on the unplaced scene before anything is set (one when the
  simulation is made, one when its renderer is), and the solver starts the next time from where they stopped;
* the gripper, with how far it was told to close;
* the samplers of drawers and knobs: loading a task twice, as making and resetting an environment does, lists them
  twice, and each of them draws random numbers before the fixtures are placed.
"""

from __future__ import annotations

import mujoco
import numpy as np

_RENEWED = ("body_pos", "body_quat", "site_rgba")  # the fields of mjModel that an episode writes
_FORWARDS_WHEN_MADE = 2


class RestartsAsNew:
    """Mixin for LIBERO's domains (``BDDLBaseDomain``) made with ``hard_reset=False``."""

    def _initialize_sim(self, xml_string=None):
        super()._initialize_sim(xml_string)
        model = self.sim.model._model
        self._as_loaded = {name: getattr(model, name).copy() for name in _RENEWED}
        self.sim.reset = self._renew_sim

    def _renew_sim(self):
        model, data = self.sim.model._model, self.sim.data._data
        for name, value in self._as_loaded.items():
            getattr(model, name)[:] = value
        mujoco.mj_resetData(model, data)
        for _ in range(_FORWARDS_WHEN_MADE):
            self.sim.forward()
        gripper = self.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)


def restarting(base: type) -> type:
    """``base``, a class of LIBERO's domains, with a ``reset`` that is quick and equals a hard one.

    LIBERO asserts that a class is called as the problem that it solves, so the name stays.
    """
    return type(base.__name__, (RestartsAsNew, base), {})


def as_if_made_twice(domain) -> None:
    """What making an environment and then resetting it hard does to the samplers of drawers and knobs."""
    domain.object_property_initializers *= 2
