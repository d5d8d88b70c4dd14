"""The EGL device that renders, whatever CUDA_VISIBLE_DEVICES is, and the version of MuJoCo."""

import importlib.metadata
import os
import subprocess
import sys

import pytest
import srpo_sdk as srpo

from libero_sim import egl_device, lane
from paths import PATH, TESTS

NOT_NUMBERS = ["", "-1", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-b8d9d5a2-1111-2222-3333-444455556666",
               "NoDevFiles", "all", "none", "²"]  # fmt: skip


class Devices:
    """Stands for EGL's devices."""

    def __init__(self, *works: bool):
        self._works, self.tried = works, []

    def __len__(self) -> int:
        return len(self._works)

    def works(self, number: int) -> bool:
        self.tried.append(number)
        return self._works[number]


@pytest.mark.parametrize("cuda", [None, "0", "0,1", "4", "7,1", *NOT_NUMBERS])
def test_device_0_without_the_number_of_a_device(cuda):
    devices = Devices(True, True, True, True)
    assert egl_device.select(None, cuda, devices) == 0
    assert devices.tried == [0], "other GPUs are not initialised"


def test_the_first_number_is_preferred():
    assert egl_device.select(None, "1", Devices(True, True)) == 1
    assert egl_device.select("", " 1,0", Devices(True, True)) == 1


def test_a_device_that_does_not_work_is_skipped():
    """A container may list devices to which it has no access."""
    assert egl_device.select(None, "0", Devices(False, False, True)) == 2
    assert egl_device.select(None, "1", Devices(False, False, True)) == 2
    with pytest.raises(ImportError, match="none of 2 EGL devices"):
        egl_device.select(None, None, Devices(False, False))


def test_the_variable_of_mujoco_is_used_or_refused():
    assert egl_device.select("1", "GPU-8932f937", Devices(True, True)) == 1
    for wrong in ("2", "-1", "GPU-1", "0,1"):
        with pytest.raises(egl_device.Unusable, match=f"MUJOCO_EGL_DEVICE_ID is '{wrong}', want .* 0 to 1"):
            egl_device.select(wrong, None, Devices(True, True))
    with pytest.raises(egl_device.Unusable, match="cannot be initialised"):
        egl_device.select("0", None, Devices(False, True))


@pytest.mark.parametrize(
    "variables",
    [{"CUDA_VISIBLE_DEVICES": cuda} for cuda in ("", "-1", "99", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6")]
    + [{"CUDA_VISIBLE_DEVICES": "GPU-8932f937", "MUJOCO_EGL_DEVICE_ID": "0"}],
)
def test_robosuite_gets_a_context(variables):
    """robosuite's modules read the variables when they are imported, so each case has a process of its own."""
    code = (
        "import srpo_sdk, libero_rollout; libero_rollout.lane(64);"
        "from libero_sim import render; render.gl_context().make_current()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_EGL_DEVICE_ID"}
    environment |= {"MUJOCO_GL": "egl", "PYTHONPATH": f"{TESTS}:{PATH}", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rendering on EGL device 0 of" in done.stdout + done.stderr


def test_an_unusable_variable_is_an_error_at_the_start(monkeypatch):
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "99")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(srpo.Error, match="MUJOCO_EGL_DEVICE_ID is '99'") as e:
        lane._prepare_process("egl", "libero")
    assert e.value.kind == "invalid" and e.value.hint.startswith("unset MUJOCO_EGL_DEVICE_ID")


def test_another_mujoco_is_refused(monkeypatch):
    versions = {"mujoco": "3.3.3"}
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    with pytest.raises(srpo.Error, match=r"MuJoCo 2\.3\.7 is needed, the environment has 3\.3\.3") as e:
        lane._prepare_process("egl", "libero")
    assert e.value.kind == "mismatch" and "mujoco==2.3.7" in e.value.hint
    requirements = (TESTS.parent / "requirements.in").read_text().splitlines()
    assert f"mujoco=={lane.MUJOCO}" in requirements
