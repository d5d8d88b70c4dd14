"""Comparison with lerobot: its own classes and processors load the same folders, in float32."""

import json

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from cases import policy
from lerobot.configs import PreTrainedConfig
from lerobot.policies.molmoact2.molmoact2_hf_model import action_tokenizer
from lerobot.policies.pi0_fast import PI0FastPolicy, modeling_pi0_fast
from lerobot.processor import PolicyProcessorPipeline, policy_action_to_transition, transition_to_policy_action
from lerobot.processor import tokenizer_processor as t
from safetensors.torch import load_file

from fast import Fast
from vla.testing.parity import within
from vla_lerobot.sizes import Sizes, patched
from vla_lerobot.testing.cases import demonstration, item


@pytest.fixture(autouse=True)
def local_fast_tokenizer(monkeypatch):
    """Makes lerobot use its copy of the published FAST program on local folders, instead of running it from the hub."""
    processor = action_tokenizer.UniversalActionProcessor

    class Local:
        @staticmethod
        def from_pretrained(folder, **_):
            return processor.from_pretrained_local(folder)

    for module in (modeling_pi0_fast, t):
        monkeypatch.setattr(module, "AutoProcessor", Local)


def original(folder) -> PI0FastPolicy:
    """Loads a folder with lerobot's own policy class, with the names of the local tokenizers."""
    sizes = Sizes(**json.loads((folder / "srpo.json").read_text())["sizes"])
    config = PreTrainedConfig.from_pretrained(folder)
    config.text_tokenizer_name = str(folder / "tokenizer")
    config.action_tokenizer_name = str(folder / "action_tokenizer")
    config.validate_action_token_prefix = False
    with patched(modeling_pi0_fast, sizes, 112):
        policy = PI0FastPolicy.from_pretrained(folder, config=config, strict=True)
    loaded = policy.state_dict()
    for name, tensor in load_file(str(folder / "model.safetensors")).items():
        assert torch.equal(loaded[name], tensor)
    return policy.eval()


def processors(folder):
    overrides = {
        "tokenizer_processor": {"tokenizer_name": str(folder / "tokenizer")},
        "action_tokenizer_processor": {
            "action_tokenizer_name": str(folder / "action_tokenizer"),
            "paligemma_tokenizer_name": str(folder / "tokenizer"),
        },
    }
    pre = PolicyProcessorPipeline.from_pretrained(folder, "policy_preprocessor.json", overrides=overrides)
    post = PolicyProcessorPipeline.from_pretrained(
        folder,
        "policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return pre, post


def observation(seen: srpo.Observation) -> dict:
    image = torch.from_numpy(np.array(seen.images["agentview"])).permute(2, 0, 1).float() / 255
    return {
        "observation.images.image": image[None],
        "observation.state": torch.from_numpy(seen.proprio)[None],
        "task": [seen.instruction],
    }


@pytest.fixture(params=["written", "saved"])
def folder(request, checkpoint_folder, trained):
    """A tiny checkpoint, and one that the policy saved after imitating a demonstration."""
    return checkpoint_folder if request.param == "written" else trained[0]


def test_actions_equal_lerobots(folder):
    p = policy(checkpoint=str(folder), vocabulary="full", max_tokens=0)
    reference = original(folder)
    pre, post = processors(folder)
    for i in range(3):
        seen = item(i).observation
        batch = pre(observation(seen))
        p.act([item(i)], srpo.Sampling(greedy=True, record=True))
        (r,) = p.records[f"0/t/0/{i}"]
        ids = reference.model.sample_actions_fast_kv_cache(
            *reference._preprocess_images(batch),
            batch["observation.language.tokens"],
            batch["observation.language.attention_mask"],
            max_decoding_steps=p.network.max_tokens,
            temperature=0.0,
        )[0].tolist()
        actual = r.sample.chosen.ids.tolist()
        assert ids[: len(actual)] == actual
        want = post(reference.predict_action_chunk(batch))[0].numpy()
        got = p.act([item(i)], srpo.Sampling(greedy=True))[0].actions
        within("greedy actions", got, np.clip(want, -1, 1), 1e-5)


def test_log_probabilities_equal_those_of_lerobots_sampling(checkpoint_folder):
    """Step by step, over the whole vocabulary and over the allowed tokens."""
    reference = original(checkpoint_folder)
    pre, _ = processors(checkpoint_folder)
    for vocabulary in ("full", "action"):
        p = policy(checkpoint=str(checkpoint_folder), vocabulary=vocabulary, max_tokens=12)
        p.act([item(0)], srpo.Sampling(temperature=1.2, record=True))
        (r,) = p.records["0/t/0/0"]
        ids, fixed = r.sample.chosen.ids, r.sample.chosen.fixed
        batch = pre(observation(item(0).observation))
        logits = []
        head = reference.model.paligemma_with_expert.paligemma.lm_head
        hook = head.register_forward_hook(lambda _, __, out, logits=logits: logits.append(out[:, -1]))
        forced = iter(ids.tolist())
        argmax = torch.argmax
        try:
            # Makes lerobot's sampling generate the same tokens.
            torch.argmax = lambda *_, ids=forced, **__: torch.tensor([[next(ids)]])
            reference.model.sample_actions_fast(
                *reference._preprocess_images(batch),
                batch["observation.language.tokens"],
                batch["observation.language.attention_mask"],
                max_decoding_steps=len(ids),
                temperature=0.0,
            )
        finally:
            torch.argmax = argmax
            hook.remove()
        rows = torch.cat(logits).double() / 1.2
        if vocabulary == "action":
            excluded = torch.ones(rows.shape[1], dtype=torch.bool)
            excluded[p.network.allowed] = False
            rows[:, excluded] = -torch.inf
        want = torch.log_softmax(rows, -1)[torch.arange(len(ids)), torch.from_numpy(ids)]
        within(f"log-probabilities, vocabulary {vocabulary}", r.log_probs[fixed : len(ids)], want[fixed:], 1e-5)


def test_inputs_equal_lerobots(folder):
    p = policy(checkpoint=str(folder))
    reference = original(folder)
    pre, _ = processors(folder)
    for i in range(3):
        seen = item(i).observation
        batch = pre(observation(seen))
        actual = p.network.batch_tensors([p.network.sample([seen.images["agentview"]], seen.proprio, seen.instruction)])
        images, _ = reference._preprocess_images(batch)
        assert torch.equal(actual.images[0], images[0])
        assert torch.equal(actual.tokens, batch["observation.language.tokens"])
        assert torch.equal(actual.masks, batch["observation.language.attention_mask"])


def test_the_loss_equals_lerobots(folder):
    """For two samples of different length, whose tokens have the same weight."""
    p = policy(checkpoint=str(folder))
    reference = original(folder)
    pre, _ = processors(folder)
    d = demonstration()
    net = p.network
    drawn, batches = [], []
    for at in (0, 3):
        sample = net.sample([d.images["agentview"][at]], d.proprio[at], d.instruction)
        drawn.append((sample, *net.imitation_target(sample, d.actions[at : at + 8], None, np.random.default_rng())))
        seen = srpo.Observation({"agentview": d.images["agentview"][at]}, d.proprio[at], d.instruction)
        batches.append({**observation(seen), "action": torch.from_numpy(d.actions[at : at + 8])[None]})
    both = {k: torch.cat([b[k] for b in batches]) if k != "task" else [d.instruction] * 2 for k in batches[0]}
    want, _ = reference.forward(pre(both))
    got = net.imitation_losses([x[:2] for x in drawn]).sum() / sum(x[2] for x in drawn)
    within("loss", got, want, 1e-5)


def test_fast_equals_lerobots(checkpoint_folder):
    reference = action_tokenizer.UniversalActionProcessor.from_pretrained_local(
        str(checkpoint_folder / "action_tokenizer")
    )
    files = {f.name: f.read_bytes() for f in (checkpoint_folder / "action_tokenizer").iterdir()}
    fast = Fast(files, "here")
    rng = np.random.default_rng(0)
    for scale in (0.1, 0.5, 2):
        chunk = np.cumsum(rng.normal(0, scale, (8, 7)), 0)
        ids = fast.encode(chunk)
        assert ids == reference(chunk[None])[0]
        back = fast.decode(ids, 8, 7)
        within("FAST tokens back to actions", back, reference.decode([ids], time_horizon=8, action_dim=7)[0], 1e-6)
        if scale < 1:  # numbers below the tokenizer's min_token are clipped
            np.testing.assert_allclose(back, chunk, atol=0.2)
    # Invalid strings: too short, too long, with other tokens.
    lerobot_policy = original(checkpoint_folder)
    for other in ([5, 6, 7], ids + ids, [-4, 3], [10**6]):
        want = np.zeros((8, 7))
        if other != [10**6]:
            want = lerobot_policy.decode_actions_with_fast([torch.tensor(other)], 8, 7)[0]
        within("invalid strings, decoded", fast.decode(other, 8, 7), want, 1e-5)
