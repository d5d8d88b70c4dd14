"""Compiled substeps: MuJoCo's C functions and the arm's operational-space controller in one numba function.

The kernel reproduces robosuite 1.4 bit for bit. In every substep of 2 ms robosuite calls

    mj_forward            from the environment,
    mj_forward            from the controller, which then reads the arm's state and computes torques,
    mj_step               which is a third forward with the new torques, followed by the integration.

The three forwards have the same positions and velocities, so kinematics, collisions and velocity terms are computed
three times. The forwards differ in two respects only:

* The constraint solver starts from its last result (``qacc_warmstart``), so it must run three times.
* Kinematics normalizes every quaternion in ``qpos`` in place, and normalizing it again can change its last bit.
  ``normalization_changes`` checks whether it would. Only then are positions computed again.

The torques come from robosuite's own functions (inverses, pseudo-inverses, null space). They are compiled into this
kernel with the memory order of robosuite's arrays, because BLAS and LAPACK round differently for the two orders. For
the same reason, the few products that robosuite leaves to NumPy use NumPy's BLAS (``gemv``).

Two things are not reproduced: the automatic reset after a NaN (it would happen one forward earlier), and the buffers of
recent torques and forces, which no LIBERO observation reads.
"""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Callable
from typing import NamedTuple

import llvmlite.binding as llvm
import mujoco
import numpy as np
from numba import njit, typeof, types
from robosuite.utils import control_utils

_ADDRESS = types.intp
_MUJOCO_FUNCTIONS = (
    "mj_step1",
    "mj_step2",
    "mj_forward",
    "mj_fwdActuation",
    "mj_fwdAcceleration",
    "mj_fwdConstraint",
    "mj_checkAcc",
    "mj_Euler",
    "mj_jacSite",
    "mj_fullM",
    "mju_normalize4",
)


def _load(pattern: str) -> ctypes.CDLL:
    found = glob.glob(pattern)
    if len(found) != 1:
        raise ImportError(f"expected one library {os.path.basename(pattern)}, found {len(found)}")
    return ctypes.CDLL(found[0])  # its package has loaded it already, so this is the same copy


def _publish(library: ctypes.CDLL, names: tuple[str, ...]) -> None:
    """Register C functions by name with numba's linker, so that compiled code can be cached on disk."""
    for name in names:
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)


_site_packages = os.path.dirname(os.path.dirname(np.__file__))
_publish(_load(os.path.join(os.path.dirname(mujoco.__file__), "libmujoco.so.*")), _MUJOCO_FUNCTIONS)
_publish(_load(os.path.join(_site_packages, "numpy.libs", "libopenblas64_*")), ("cblas_dgemv64_",))


def _of_model_and_data(name: str) -> types.ExternalFunction:
    return types.ExternalFunction(name, types.void(_ADDRESS, _ADDRESS))


_step1 = _of_model_and_data("mj_step1")
_step2 = _of_model_and_data("mj_step2")
_forward = _of_model_and_data("mj_forward")
_actuation = _of_model_and_data("mj_fwdActuation")
_acceleration = _of_model_and_data("mj_fwdAcceleration")
_constraint = _of_model_and_data("mj_fwdConstraint")
_check_acceleration = _of_model_and_data("mj_checkAcc")
_euler = _of_model_and_data("mj_Euler")
_site_jacobian = types.ExternalFunction("mj_jacSite", types.void(_ADDRESS, _ADDRESS, _ADDRESS, _ADDRESS, types.int32))
_full_inertia = types.ExternalFunction("mj_fullM", types.void(_ADDRESS, _ADDRESS, _ADDRESS))
_normalize4 = types.ExternalFunction("mju_normalize4", types.float64(_ADDRESS))
_i32, _i64, _f64 = types.int32, types.int64, types.float64
_gemv = types.ExternalFunction(
    "cblas_dgemv64_",
    types.void(_i32, _i32, _i64, _i64, _f64, _ADDRESS, _i64, _ADDRESS, _i64, _f64, _ADDRESS, _i64),
)
_ROW_MAJOR, _COLUMN_MAJOR, _NO_TRANSPOSE = 101, 102, 111


def _python_of(function):
    """Return the Python function inside robosuite's jit wrapper."""
    return getattr(function, "py_func", function)


_opspace_matrices = njit(cache=True)(_python_of(control_utils.opspace_matrices))
_nullspace_torques = njit(cache=True)(_python_of(control_utils.nullspace_torques))
_orientation_error = njit(cache=True)(_python_of(control_utils.orientation_error))


class Plant(NamedTuple):
    """The simulation: addresses of its C structures, views of its arrays, and the arm's indices in them."""

    model: int  # mjModel*
    data: int  # mjData*
    qpos: np.ndarray  # float64 [nq], m and rad, quaternions w first
    qvel: np.ndarray  # float64 [nv]
    site_xpos: np.ndarray  # float64 [nsite, 3], m
    site_xmat: np.ndarray  # float64 [nsite, 9]
    inertia: np.ndarray  # float64 [nM], MuJoCo's sparse inertia
    bias: np.ndarray  # float64 [nv], gravity and Coriolis, N m
    ctrl: np.ndarray  # float64 [nu], N m for the arm, m for the fingers
    quaternions: np.ndarray  # int64 [n], address in qpos of every quaternion
    grip_site: int
    arm_qpos: np.ndarray  # int64 [7]
    arm_qvel: np.ndarray  # int64 [7]
    arm_ctrl: np.ndarray  # int64 [7]
    finger_ctrl: np.ndarray  # int64 [2]


class ArmState(NamedTuple):
    """The controller's readings of the arm. Two-dimensional arrays have robosuite's memory order (mostly Fortran)."""

    position: np.ndarray  # float64 [3], m
    rotation: np.ndarray  # float64 [3, 3], C order
    linear: np.ndarray  # float64 [3], m/s
    angular: np.ndarray  # float64 [3], rad/s
    joints: np.ndarray  # float64 [7], rad
    speeds: np.ndarray  # float64 [7], rad/s
    jacobian_position: np.ndarray  # float64 [3, 7], F order
    jacobian_rotation: np.ndarray  # float64 [3, 7], F order
    jacobian: np.ndarray  # float64 [6, 7], F order
    mass: np.ndarray  # float64 [7, 7], F order
    scratch_jacp: np.ndarray  # float64 [3, nv]
    scratch_jacr: np.ndarray  # float64 [3, nv]
    scratch_mass: np.ndarray  # float64 [nv, nv]


class Command(NamedTuple):
    """One action's goals and the controller's constants."""

    goal_position: np.ndarray  # float64 [3], m
    goal_rotation: np.ndarray  # float64 [3, 3], C order
    kp: np.ndarray  # float64 [6]
    kd: np.ndarray  # float64 [6]
    rest: np.ndarray  # float64 [7], rad, posture of the null space
    torque_low: np.ndarray  # float64 [7], N m
    torque_high: np.ndarray  # float64 [7], N m
    torque: np.ndarray  # float64 [7], N m, output, before clipping
    grip: np.ndarray  # float64 [2] in [-1, 1], input and output, target of the fingers
    grip_rate: np.ndarray  # float64 [2], change per substep when closing
    grip_bias: np.ndarray  # float64 [2], m
    grip_weight: np.ndarray  # float64 [2], m
    grip_sign: float  # -1 opens, 0 keeps, +1 closes


@njit(inline="always")
def _rows_times(matrix, vector, out):
    """out = matrix @ vector for a C-ordered matrix, as NumPy computes it."""
    rows, columns = matrix.shape
    _gemv(_ROW_MAJOR, _NO_TRANSPOSE, rows, columns, 1.0, matrix.ctypes.data, columns, vector.ctypes.data, 1, 0.0,
          out.ctypes.data, 1)  # fmt: skip


@njit(inline="always")
def _columns_times(matrix, vector, out):
    """out = matrix @ vector for a Fortran-ordered matrix, as NumPy computes it."""
    rows, columns = matrix.shape
    _gemv(_COLUMN_MAJOR, _NO_TRANSPOSE, rows, columns, 1.0, matrix.ctypes.data, rows, vector.ctypes.data, 1, 0.0,
          out.ctypes.data, 1)  # fmt: skip


@njit(cache=True)
def normalization_changes(qpos, quaternions):
    """Return whether MuJoCo's normalization would change any bit of the quaternions in ``qpos``."""
    copy = np.empty(4)
    for address in quaternions:
        for i in range(4):  # a slice would take numba seconds to compile, because of its error message
            copy[i] = qpos[address + i]
        _normalize4(copy.ctypes.data)
        for i in range(4):
            if copy[i] != qpos[address + i]:
                return True
    return False


@njit(cache=True)
def forward_once(plant):
    """Run the environment's forward, before the torques."""
    _step1(plant.model, plant.data)
    _actuation(plant.model, plant.data)
    _acceleration(plant.model, plant.data)
    _constraint(plant.model, plant.data)


@njit(cache=True)
def forward_twice(plant):
    """Run the environment's forward and the controller's, before the controller reads the arm."""
    forward_once(plant)
    if normalization_changes(plant.qpos, plant.quaternions):
        _forward(plant.model, plant.data)
    else:
        _constraint(plant.model, plant.data)


@njit(cache=True)
def read_arm(plant, arm):
    """Fill ``arm`` from the simulation, as ``Controller.update`` does."""
    site = plant.grip_site
    for i in range(3):
        arm.position[i] = plant.site_xpos[site, i]
        for j in range(3):
            arm.rotation[i, j] = plant.site_xmat[site, 3 * i + j]
    jacp, jacr, mass = arm.scratch_jacp, arm.scratch_jacr, arm.scratch_mass
    jacp[:] = 0.0
    jacr[:] = 0.0
    _site_jacobian(plant.model, plant.data, jacp.ctypes.data, jacr.ctypes.data, site)
    _rows_times(jacp, plant.qvel, arm.linear)
    _rows_times(jacr, plant.qvel, arm.angular)
    _full_inertia(plant.model, mass.ctypes.data, plant.inertia.ctypes.data)
    for j in range(7):
        dof = plant.arm_qvel[j]
        arm.joints[j] = plant.qpos[plant.arm_qpos[j]]
        arm.speeds[j] = plant.qvel[dof]
        for i in range(3):
            arm.jacobian_position[i, j] = jacp[i, dof]
            arm.jacobian_rotation[i, j] = jacr[i, dof]
            arm.jacobian[i, j] = jacp[i, dof]
            arm.jacobian[3 + i, j] = jacr[i, dof]
        for i in range(7):
            arm.mass[i, j] = mass[plant.arm_qvel[i], dof]


@njit(cache=True)
def observe_arm(plant, arm):
    """Start an action: run both forwards and read the arm's state, from which the goals are computed."""
    forward_twice(plant)
    read_arm(plant, arm)


@njit(cache=True)
def _apply_torques(plant, arm, command):
    force = np.empty(3)
    moment = np.empty(3)
    wrench = np.empty(6)
    torque = np.empty(7)
    turn = _orientation_error(command.goal_rotation, arm.rotation)
    for i in range(3):
        force[i] = (command.goal_position[i] - arm.position[i]) * command.kp[i] + -arm.linear[i] * command.kd[i]
        moment[i] = turn[i] * command.kp[3 + i] + -arm.angular[i] * command.kd[3 + i]
    _, lambda_position, lambda_rotation, null = _opspace_matrices(
        arm.mass, arm.jacobian, arm.jacobian_position, arm.jacobian_rotation
    )
    _columns_times(lambda_position, force, wrench[:3])
    _columns_times(lambda_rotation, moment, wrench[3:])
    _rows_times(arm.jacobian.T, wrench, torque)
    posture = _nullspace_torques(arm.mass, null, command.rest, arm.joints, arm.speeds, 10)
    for j in range(7):
        value = torque[j] + plant.bias[plant.arm_qvel[j]]
        value += posture[j]
        command.torque[j] = value
        plant.ctrl[plant.arm_ctrl[j]] = min(max(value, command.torque_low[j]), command.torque_high[j])


@njit(cache=True)
def _move_fingers(plant, command):
    for j in range(2):
        target = command.grip[j] + command.grip_rate[j] * command.grip_sign
        target = min(max(target, -1.0), 1.0)
        command.grip[j] = target
        plant.ctrl[plant.finger_ctrl[j]] = command.grip_bias[j] + command.grip_weight[j] * target


@njit(cache=True, nogil=True)
def run_substeps(first, end, last, forwarded, plant, arm, command):
    """Run substeps ``first`` to ``end`` (exclusive) of an action whose final substep is ``last``.

    ``forwarded``: whether the forwards of the first substep have been run (``observe_arm`` or ``forward_once``).
    """
    for k in range(first, end):
        if k > first or not forwarded:
            forward_twice(plant)
            read_arm(plant, arm)
        _apply_torques(plant, arm, command)
        _move_fingers(plant, command)
        if normalization_changes(plant.qpos, plant.quaternions):
            _step1(plant.model, plant.data)
        if k == last:
            _step2(plant.model, plant.data)  # updates the acceleration sensors too
        else:
            _actuation(plant.model, plant.data)
            _acceleration(plant.model, plant.data)
            _constraint(plant.model, plant.data)
            _check_acceleration(plant.model, plant.data)
            _euler(plant.model, plant.data)


def compile_ahead(plant: Plant, arm: ArmState, command: Command, report_progress: Callable[[], None]) -> None:
    """Compile all functions of a step, inner ones first, without running them; call ``report_progress`` in between."""
    calls = (
        (normalization_changes, (plant.qpos, plant.quaternions)),
        (forward_once, (plant,)),
        (forward_twice, (plant,)),
        (read_arm, (plant, arm)),
        (observe_arm, (plant, arm)),
        (_orientation_error, (command.goal_rotation, arm.rotation)),
        (_opspace_matrices, (arm.mass, arm.jacobian, arm.jacobian_position, arm.jacobian_rotation)),
        (_apply_torques, (plant, arm, command)),
        (_move_fingers, (plant, command)),
        (run_substeps, (0, 0, 0, True, plant, arm, command)),
    )
    compiled = run_substeps.signatures
    for function, arguments in () if compiled else calls:
        function.compile(tuple(typeof(argument) for argument in arguments))
        report_progress()
