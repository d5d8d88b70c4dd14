"""A soft reset with the same result as a hard one, bit for bit.

A hard reset of robosuite reads the task's XML, meshes and textures again (seconds). A soft reset clears the
simulation's data (milliseconds) but does not restore some things that a hard reset does. Each of them would change
later steps:

* The model: fixtures keep the poses of the last episode, and lights and flames their state.
* The solver's warm start: a hard reset runs two forwards on the scene before it is set up (one at the creation of the
  simulation and one at that of its renderer), and the solver starts from their result.
* The gripper's target.
* The samplers of drawers and knobs: creating and then resetting an environment loads the task twice and lists them
  twice, and each of them draws random numbers before the fixtures are placed.
"""

from __future__ import annotations

import mujoco
import numpy as np

_RESTORED = ("body_pos", "body_quat", "site_rgba")  # the fields of mjModel that an episode changes
_FORWARDS_AT_CREATION = 2


class SoftReset:
    """Mixin for LIBERO's domains (``BDDLBaseDomain``) made with ``hard_reset=False``."""

    def _initialize_sim(self, xml_string=None):
        super()._initialize_sim(xml_string)
        model = self.sim.model._model
        self._loaded = {name: getattr(model, name).copy() for name in _RESTORED}
        self.sim.reset = self._reset_sim

    def _reset_sim(self):
        model, data = self.sim.model._model, self.sim.data._data
        for name, value in self._loaded.items():
            getattr(model, name)[:] = value
        mujoco.mj_resetData(model, data)
        for _ in range(_FORWARDS_AT_CREATION):
            self.sim.forward()
        gripper = self.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)


def with_soft_reset(base: type) -> type:
    """Return a subclass of ``base``, one of LIBERO's domains, with a fast ``reset`` that equals a hard reset.

    It has the name of ``base``, because LIBERO asserts that the class has the name of the problem.
    """
    return type(base.__name__, (SoftReset, base), {})


def duplicate_samplers(domain) -> None:
    """List the samplers of drawers and knobs twice, as creating and then resetting an environment does."""
    domain.object_property_initializers *= 2
