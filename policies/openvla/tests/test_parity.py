"""Against the published code: the goldens that `make parity` writes with it (tests/parity/originals.py)."""

import os
from pathlib import Path

import cases
import numpy as np
import pytest
import srpo_sdk as srpo
import torch

import pictures
from network import Choice, Network, Sample, log_probs
from vla.testing.parity import within

GOLDENS = Path(__file__).parent / "goldens"
SPACE = srpo.ActionSpace(
    ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
    [-1] * 7,
    [1] * 7,
    "end-effector delta, OSC_POSE; gripper -1 open, +1 close",
)


def network(folder: str, causal: bool, **more) -> Network:
    choice = dict(
        kind="auto",
        chunk=0,
        causal=causal,
        attention="sdpa",
        dtype=torch.float32,
        device=torch.device("cpu"),
        micro_batch=1,
        unnorm_key="",
        libero=False,
        jpeg=True,
        crop=True,
        compile=False,
        rank=0,
        alpha=16,
        seed=0,
        dim=7,
        statistics="auto",
    )
    return Network(folder, Choice(**{**choice, **more}), SPACE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("name", list(cases.CASES))
def test_logits_log_probs_and_actions(checkpoints, name, micro_batch, attention):
    net = network(checkpoints(name), cases.CASES[name][1], micro_batch=micro_batch, attention=attention)
    compare(net, name, np.load(GOLDENS / f"{name}.npz"))


def compare(net: Network, name: str, golden) -> None:
    """What ours computes of a case's inputs, and what the original did."""
    samples = []
    for i, instruction in enumerate(cases.INSTRUCTIONS):
        ids = net.prompt(instruction)
        assert list(ids) == golden[f"ids{i}"].tolist()
        frame = pictures.frame(cases.frame(cases.FRAMES[i]), True, True)
        samples.append(Sample(frame, ids, cases.chosen(net.slots)[i]))
    for i, sample in enumerate(samples):
        pixels = torch.cat(net.see([sample.frame]), 1)[0, :, ::16, ::16].numpy()
        within("what the backbones see", pixels, golden[f"pixels{i}"], 1e-6)
    for batch in net.batches(samples):
        with torch.no_grad():
            hidden = net.hidden([samples[i] for i in batch])
            logits = net.model.action_logits(hidden[:, :-1])
            whole = net.model.logits(hidden[:, 0])[:, ::64]
        for row, i in enumerate(batch):
            some = logits[row, :: max(1, net.slots // 14)]
            within(f"{name}: logits of action tokens", some, golden[f"logits{i}"], 1e-5)
            within(f"{name}: logits of every 64th token", whole[row], golden[f"whole{i}"], 1e-5)
            scores = log_probs(logits[row], torch.from_numpy(samples[i].tokens), cases.TEMPERATURE)
            within(f"{name}: log-probabilities", scores, golden[f"log_probs{i}"], 1e-5)
    for i, (tokens, _) in enumerate(net.act(samples, [0, 0], 1.0, greedy=True)):
        if f"greedy{i}" in golden:
            assert (tokens + 31744).tolist() == golden[f"greedy{i}"].tolist()
        acted = golden[f"actions{i}"].reshape(net.chunk, 7)
        within(f"{name}: greedy actions", net.env_actions(tokens), acted, 1e-6)


@pytest.mark.skipif("SRPO_PARITY_CHECKPOINTS" not in os.environ, reason="make parity: the original code is needed")
@pytest.mark.parametrize("name", list(cases.CASES))
def test_the_original_loads_what_was_saved_after_an_update(name):
    """The published code has loaded what the policy saved, without a key too many or too few, and computes the same."""
    folder = Path(os.environ["SRPO_PARITY_CHECKPOINTS"])
    golden, before = np.load(folder / f"{name}{cases.SAVED}.npz"), np.load(GOLDENS / f"{name}.npz")
    assert np.abs(golden["logits0"] - before["logits0"]).max() > 0.01  # the update is in it
    net = network(str(folder / f"{name}{cases.SAVED}"), cases.CASES[name][1])
    compare(net, f"{name} saved after an update", golden)


def test_causal_attention_is_another_model(checkpoints):
    """The two masks of the published code differ by far more than the tolerance above."""
    a, b = np.load(GOLDENS / "oft.npz"), np.load(GOLDENS / "oft-causal.npz")
    assert np.abs(a["logits0"] - b["logits0"]).max() > 0.1


def test_pictures_within_one_step_of_the_original():
    golden = np.load(GOLDENS / "pictures.npz")
    for n in range(4):
        resized = pictures.uncropped(cases.frame(n), True)[::5, ::3].astype(int)
        cropped = pictures.frame(cases.frame(n), True, True)[::5, ::3].astype(int)
        within("picture resized, of 255", resized, golden["resized"][n], 1)
        within("picture cropped, of 255", cropped, golden["cropped"][n], 1)
