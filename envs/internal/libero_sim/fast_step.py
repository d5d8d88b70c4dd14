"""An environment step for LIBERO that is bit-identical to robosuite's and takes about a third of the time.

``FastStep`` replaces ``BDDLBaseDomain.step``. The physics and the controller run in ``osc_kernel``. Goals, observables,
reward and the task's predicates remain the code of robosuite and LIBERO.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np


class Unsupported(RuntimeError):
    """The compiled kernel does not support this environment."""


def attach(domain, report_progress: Callable[[], None]) -> bool:
    """Replace ``domain.step`` by the fast step. Return False, with a warning on stderr, if that is not possible.

    The first call on a machine compiles for half a minute and calls ``report_progress`` every few seconds.
    """
    try:
        fast = FastStep(domain)
        fast.compile(report_progress)
        domain.step = fast
    except Exception as error:  # noqa: BLE001  a broken binding must not end a run: the slow step works
        print(f"libero: the fast step is off, the slow one gives the same results: {error!r}", file=sys.stderr)
        return False
    return True


class FastStep:
    """Callable with the signature of ``domain.step``: float [7] -> (observations, reward, success, info)."""

    def __init__(self, domain):
        self.domain = domain
        self._bind()

    def _bind(self) -> None:
        """Store addresses and views of the current simulation, which stay valid over soft resets."""
        from libero_sim import osc_kernel

        self.kernel = osc_kernel
        domain, sim = self.domain, self.domain.sim
        _require_supported(domain)
        robot = domain.robots[0]
        model, data = sim.model._model, sim.data._data
        fingers = _indices([sim.model.actuator_name2id(name) for name in robot.gripper.actuators])
        quaternion_offset = {0: 3, 1: 0}  # free joints hold a position first, ball joints do not
        self.plant = osc_kernel.Plant(
            model=model._address,
            data=data._address,
            qpos=data.qpos,
            qvel=data.qvel,
            site_xpos=data.site_xpos,
            site_xmat=data.site_xmat,
            inertia=data.qM,
            bias=data.qfrc_bias,
            ctrl=data.ctrl,
            quaternions=_indices(
                [
                    address + quaternion_offset[kind]
                    for kind, address in zip(model.jnt_type.tolist(), model.jnt_qposadr.tolist(), strict=True)
                    if kind in quaternion_offset
                ]
            ),
            grip_site=int(sim.model.site_name2id(robot.controller.eef_name)),
            arm_qpos=_indices(robot.controller.qpos_index),
            arm_qvel=_indices(robot.controller.qvel_index),
            arm_ctrl=_indices(robot._ref_joint_actuator_indexes),
            finger_ctrl=fingers,
        )
        self.arm = _empty_arm(osc_kernel.ArmState, model.nv)
        limits = sim.model.actuator_ctrlrange[fingers]
        low, high = (np.array(limit, np.float64) for limit in robot.torque_limits)
        self.constants = {
            "torque_low": low,
            "torque_high": high,
            "grip_rate": np.array([-1.0, 1.0]) * robot.gripper.speed,
            "grip_bias": 0.5 * (limits[:, 1] + limits[:, 0]),
            "grip_weight": 0.5 * (limits[:, 1] - limits[:, 0]),
        }
        self.substeps = int(domain.control_timestep / domain.model_timestep)
        self.sim = sim

    def compile(self, report_progress: Callable[[], None]) -> None:
        """Compile the step, or load it from the cache, so that errors occur here and not in the first step."""
        command = self._command(self.domain.robots[0], 1.0)
        self.kernel.compile_ahead(self.plant, self.arm, command, report_progress)

    def __call__(self, action: np.ndarray):
        domain = self.domain
        if domain.done:
            raise ValueError("executing action in terminated episode")
        if len(action) != 7:
            raise ValueError(f"a LIBERO action has 7 values, not {len(action)}")
        if domain.sim is not self.sim:
            self._bind()
        domain.timestep += 1
        robot = domain.robots[0]
        controller = robot.controller
        self._begin_action(controller, action)
        command = self._command(robot, float(np.sign(action[6])))
        self._run(command)
        self._write_back(robot, command)
        domain.cur_time += domain.control_timestep
        reward, _, info = domain._post_action(action)
        # The reward is 1 for success, so the task's predicates need not be evaluated again.
        return domain._get_observations(), reward, bool(reward), info

    def _begin_action(self, controller, action: np.ndarray) -> None:
        """Run the first forwards and set the goals of this action.

        In the first step after a reset the controller still contains the readings from its creation, before the start
        state was set. robosuite computes the first torques from them, and so does this.
        """
        if controller.new_update:
            self.kernel.observe_arm(self.plant, self.arm)
            controller.ee_pos = self.arm.position.copy()
            controller.ee_ori_mat = self.arm.rotation.copy()
            controller.new_update = False
        else:
            for ours, theirs in zip(self.arm, _readings(controller), strict=False):
                ours[:] = theirs
            self.kernel.forward_once(self.plant)
        controller.set_goal(action[:6])

    def _command(self, robot, grip_sign: float):
        controller = robot.controller
        return self.kernel.Command(
            goal_position=np.array(controller.goal_pos, np.float64),
            goal_rotation=np.array(controller.goal_ori, np.float64, order="C"),
            kp=np.asarray(controller.kp, np.float64),
            kd=np.asarray(controller.kd, np.float64),
            rest=np.asarray(controller.initial_joint, np.float64),
            torque=np.zeros(7),
            grip=np.broadcast_to(np.asarray(robot.gripper.current_action, np.float64), (2,)).copy(),
            grip_sign=grip_sign,
            **self.constants,
        )

    def _run(self, command) -> None:
        """Run all substeps, interrupted where the observables sample."""
        domain = self.domain
        observables = list(domain._observables.values())
        clock = next((o for o in observables if o.is_enabled()), None)
        done = 0
        while done < self.substeps:
            wait = _substeps_to_sample(clock, domain.model_timestep, self.substeps - done)
            end = done + wait
            self.kernel.run_substeps(done, end, self.substeps - 1, done == 0, self.plant, self.arm, command)
            for _ in range(wait):  # the observables sample in the last of these calls
                for observable in observables:
                    observable.update(timestep=domain.model_timestep, obs_cache=domain._obs_cache)
            done = end

    def _write_back(self, robot, command) -> None:
        """Update robosuite's objects as its own step does."""
        controller = robot.controller
        arm = self.arm
        controller.ee_pos, controller.ee_ori_mat = arm.position.copy(), arm.rotation.copy()
        controller.ee_pos_vel, controller.ee_ori_vel = arm.linear.copy(), arm.angular.copy()
        controller.joint_pos, controller.joint_vel = arm.joints.copy(), arm.speeds.copy()
        controller.J_pos, controller.J_ori = arm.jacobian_position.copy("F"), arm.jacobian_rotation.copy("F")
        controller.J_full, controller.mass_matrix = arm.jacobian.copy("F"), arm.mass.copy("F")
        controller.torques = command.torque
        controller.new_update = True
        robot.torques = self.plant.ctrl[self.plant.arm_ctrl].copy()
        robot.gripper.current_action = command.grip


def _require_supported(domain) -> None:
    import mujoco
    import robosuite

    controller = domain.robots[0].controller
    facts = {
        "mujoco 2.3.7": mujoco.__version__ == "2.3.7",
        "robosuite 1.4.0": robosuite.__version__ == "1.4.0",
        "one robot": len(domain.robots) == 1,
        "a controller of kind OSC_POSE": controller.name == "OSC_POSE",
        "fixed impedance": controller.impedance_mode == "fixed",
        "position and rotation uncoupled": bool(controller.uncoupling),
        "no interpolator": controller.interpolator_pos is None and controller.interpolator_ori is None,
        "seven joints": len(controller.qpos_index) == 7,
        "two fingers": len(domain.robots[0].gripper.actuators) == 2,
        "Euler's integrator": int(domain.sim.model.opt.integrator) == int(mujoco.mjtIntegrator.mjINT_EULER),
        "a reward scale of one": domain.reward_scale == 1.0,
        "seven action values": domain.action_dim == 7,
    }
    missing = [name for name, true in facts.items() if not true]
    if missing:
        raise Unsupported("the fast step needs " + ", ".join(missing))


def _indices(values) -> np.ndarray:
    return np.array(values, np.int64)


def _empty_arm(kind, nv: int):
    """Return an ``osc_kernel.ArmState`` (``kind``) of zeros; ``nv`` is the simulation's degrees of freedom."""
    return kind(
        position=np.zeros(3),
        rotation=np.zeros((3, 3)),
        linear=np.zeros(3),
        angular=np.zeros(3),
        joints=np.zeros(7),
        speeds=np.zeros(7),
        jacobian_position=np.zeros((3, 7), order="F"),
        jacobian_rotation=np.zeros((3, 7), order="F"),
        jacobian=np.zeros((6, 7), order="F"),
        mass=np.zeros((7, 7), order="F"),
        scratch_jacp=np.zeros((3, nv)),
        scratch_jacr=np.zeros((3, nv)),
        scratch_mass=np.zeros((nv, nv)),
    )


def _readings(controller) -> tuple[np.ndarray, ...]:
    """Return the controller's readings in the order of ``ArmState``'s fields."""
    return (
        controller.ee_pos,
        controller.ee_ori_mat,
        controller.ee_pos_vel,
        controller.ee_ori_vel,
        controller.joint_pos,
        controller.joint_vel,
        controller.J_pos,
        controller.J_ori,
        controller.J_full,
        controller.mass_matrix,
    )


def _substeps_to_sample(clock, timestep: float, limit: int) -> int:
    """Return the number of substeps (1 or more) until robosuite's observables sample, at most ``limit``.

    It makes the same additions in the same order as ``Observable.update``, so that rounding gives the same substep.
    """
    if clock is None:
        return limit
    elapsed, sampled, period = clock._time_since_last_sample, clock._sampled, clock._sampling_timestep
    for count in range(1, limit + 1):
        elapsed += timestep
        if not sampled and (period - clock._current_delay >= elapsed or elapsed >= period):
            return count
        if elapsed >= period:
            elapsed %= period
            sampled = False
    return limit
