"""Test set-up: the plugin's folder, those it shares modules with and the kit on the path, one thread."""

import sys
from pathlib import Path

PLUGIN = Path(__file__).resolve().parents[1]
PI0 = PLUGIN.parent / "pi0"
OPENVLA = PLUGIN.parent / "openvla"
KIT = PLUGIN.parents[1] / "sdk" / "python"
for folder in (OPENVLA / "tests", OPENVLA, PI0 / "tests", PI0, PLUGIN / "tests", KIT, PLUGIN):
    if str(folder) in sys.path:  # pytest has put this folder first already
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import srpo_sdk  # before torch, as in the plugin
import torch

torch.set_num_threads(1)

import cases


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory):
    """A tiny checkpoint, made once; not to be changed."""
    folder = tmp_path_factory.mktemp("checkpoint")
    cases.make(str(folder))
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(a checkpoint that the policy saved after learning from a demonstration, its losses), made once; not to be
    changed.
    """
    from pi_cases import demonstration

    folder, losses = tmp_path_factory.mktemp("trained"), []
    p = cases.policy(imitate_lr=3e-3)
    p.imitate(srpo_sdk.Imitate(1, 5, 70), iter([demonstration()]), lambda _, loss: losses.append(loss))
    p.save(str(folder))
    return folder, losses
