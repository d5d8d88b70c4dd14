"""Comparison with the published code, by goldens that `make parity` writes with it (tests/parity/originals.py)."""

import os
from pathlib import Path

import cases
import numpy as np
import pytest
import srpo_sdk as srpo
import torch

import image_processing
from network import Network, NetworkOptions, Sample, log_probs
from vla.testing.parity import within

GOLDENS = Path(__file__).parent / "goldens"
SPACE = srpo.ActionSpace(
    ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"],
    [-1] * 7,
    [1] * 7,
    "end-effector delta, OSC_POSE; gripper -1 open, +1 close",
)


def network(folder: str, causal: bool, **more) -> Network:
    options = dict(
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
    return Network(folder, NetworkOptions(**{**options, **more}), SPACE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("name", list(cases.CASES))
def test_logits_log_probs_and_actions(checkpoints, name, micro_batch, attention):
    net = network(checkpoints(name), cases.CASES[name][1], micro_batch=micro_batch, attention=attention)
    compare(net, name, np.load(GOLDENS / f"{name}.npz"))


def compare(net: Network, name: str, golden) -> None:
    """Compares what our network computes for a case with the original's goldens."""
    samples = []
    for i, instruction in enumerate(cases.INSTRUCTIONS):
        ids = net.prompt(instruction)
        assert list(ids) == golden[f"ids{i}"].tolist()
        frame = image_processing.preprocess(cases.frame(cases.FRAMES[i]), True, True)
        samples.append(Sample(frame, ids, cases.tokens(net.slots)[i]))
    for i, sample in enumerate(samples):
        pixels = torch.cat(net.processor([sample.frame]), 1)[0, :, ::16, ::16].numpy()
        within("input of the backbones", pixels, golden[f"pixels{i}"], 1e-6)
    for batch in net.batches(samples):
        with torch.no_grad():
            hidden = net.hidden([samples[i] for i in batch])
            logits = net.model.action_logits(hidden[:, :-1])
            whole = net.model.logits(hidden[:, 0])[:, ::64]
        for row, i in enumerate(batch):
            every_nth = logits[row, :: max(1, net.slots // 14)]
            within(f"{name}: logits of action tokens", every_nth, golden[f"logits{i}"], 1e-5)
            within(f"{name}: logits of every 64th token", whole[row], golden[f"whole{i}"], 1e-5)
            scores = log_probs(logits[row], torch.from_numpy(samples[i].tokens), cases.TEMPERATURE)
            within(f"{name}: log-probabilities", scores, golden[f"log_probs{i}"], 1e-5)
    for i, (tokens, _) in enumerate(net.act(samples, [0, 0], 1.0, greedy=True)):
        if f"greedy{i}" in golden:
            assert (tokens + 31744).tolist() == golden[f"greedy{i}"].tolist()
        actions = golden[f"actions{i}"].reshape(net.chunk, 7)
        within(f"{name}: greedy actions", net.env_actions(tokens), actions, 1e-6)


@pytest.mark.skipif("SRPO_PARITY_CHECKPOINTS" not in os.environ, reason="needs the original code: make parity")
@pytest.mark.parametrize("name", list(cases.CASES))
def test_the_original_loads_what_was_saved_after_an_update(name):
    """The published code loads what the policy saved, without missing or unexpected keys, and computes the same."""
    folder = Path(os.environ["SRPO_PARITY_CHECKPOINTS"])
    golden, before = np.load(folder / f"{name}{cases.SAVED}.npz"), np.load(GOLDENS / f"{name}.npz")
    assert np.abs(golden["logits0"] - before["logits0"]).max() > 0.01  # the update has changed it
    net = network(str(folder / f"{name}{cases.SAVED}"), cases.CASES[name][1])
    compare(net, f"{name} saved after an update", golden)


def test_causal_attention_gives_other_logits(checkpoints):
    """The results of the two attention masks differ by far more than the tolerance above."""
    a, b = np.load(GOLDENS / "oft.npz"), np.load(GOLDENS / "oft-causal.npz")
    assert np.abs(a["logits0"] - b["logits0"]).max() > 0.1


def test_images_within_one_step_of_the_original():
    golden = np.load(GOLDENS / "pictures.npz")
    for n in range(4):
        resized = image_processing.resize(cases.frame(n), True)[::5, ::3].astype(int)
        cropped = image_processing.preprocess(cases.frame(n), True, True)[::5, ::3].astype(int)
        within("resized image, of 255", resized, golden["resized"][n], 1)
        within("cropped image, of 255", cropped, golden["cropped"][n], 1)
