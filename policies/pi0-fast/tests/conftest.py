"""Test set-up: the plugin's folder, the shared packages and the kit are on the path; one thread; a checkpoint."""

import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
for folder in (PLUGIN.parent / "internal", PLUGIN / "tests", PLUGIN.parents[1] / "sdk" / "python", PLUGIN):
    if str(folder) in sys.path:  # pytest has put some of them first already
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import srpo_sdk  # before torch, as in the plugin
import torch

torch.set_num_threads(1)
pytest.register_assert_rewrite("vla.testing", "vla_lerobot.testing")

import cases


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory):
    """The folder of a tiny checkpoint, made once. Tests must not change it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    cases.make(str(folder))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(folder, losses): a checkpoint that the policy saved after imitating a demonstration, made once. Tests must not
    change it.
    """
    from vla_lerobot.testing.cases import demonstration

    folder, losses = tmp_path_factory.mktemp("trained"), []
    p = cases.policy(imitate_lr=3e-3)
    p.imitate(srpo_sdk.Imitate(1, 5, 70), iter([demonstration()]), lambda _, loss: losses.append(loss))
    p.save(str(folder))
    return folder, losses
