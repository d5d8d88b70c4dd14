"""Test set-up: the plugin's folder, the shared packages and the kit are on the path; one thread; a checkpoint."""

import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
for folder in (PLUGIN.parent / "internal", PLUGIN / "tests", PLUGIN.parents[1] / "sdk" / "python", PLUGIN):
    if str(folder) in sys.path:  # pytest has put some of them first already
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))

import pytest
import srpo_sdk  # noqa: F401  before torch, as in the plugin
import torch

torch.set_num_threads(1)
pytest.register_assert_rewrite("vla.testing")

import cases

import tiny


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A function that returns the folder of a case's checkpoint. Each checkpoint is made once."""
    folders = {}

    def folder(name: str) -> str:
        arguments = cases.CASES[name][0]
        key = str(sorted(arguments.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("checkpoint")
            tiny.write(str(folders[key]), **arguments)
        return str(folders[key])

    return folder
