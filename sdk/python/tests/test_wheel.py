"""The wheel that `make wheels` builds: its contents, and a plugin that runs with it, without the checkout."""

import email
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from host import PLUGINS, SDK, Plugin

ROOT = SDK.parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["bash", ROOT / ".ci" / "wheels", out], env=environment, check=True, capture_output=True)
    (path,) = out.glob("srpo_sdk-*-py3-none-any.whl")
    return path


def test_wheel_has_the_package_its_types_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [n for n in names if n.endswith(".dist-info/METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
    package = {str(p.relative_to(SDK)) for p in (SDK / "srpo_sdk").rglob("*.py*") if "__pycache__" not in p.parts}
    assert package | {"srpo_sdk/py.typed"} == {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert {"srpo_sdk/py.typed", "srpo_sdk/_proto/env_pb2.pyi"} <= names
    assert any(n.endswith("/licenses/LICENSE") for n in names)
    assert fields["Name"] == "srpo-sdk" and fields["Requires-Python"] == ">=3.10"
    assert fields["License-Expression"] == "Apache-2.0" and fields.get_payload().startswith("# srpo_sdk")


def test_a_plugin_runs_with_the_installed_wheel(wheel, tmp_path):
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # What the kit depends on comes from the environment of the tests; the kit itself is not installed in that one.
    dependencies = [p for p in sys.path if p.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))
    plugin = Plugin(PLUGINS / "looker.py", python=python, env={"PYTHONPATH": ""})
    try:
        plugin.configure()
        assert plugin.call("Encoder.DescribeEncoder").dimension == 4
        found = subprocess.run([python, "-Ic", "import srpo_sdk; print(srpo_sdk.__file__)"], capture_output=True)
        assert Path(found.stdout.decode().strip()).is_relative_to(folder)
    finally:
        plugin.stop()
