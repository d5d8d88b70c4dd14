"""Against lerobot itself: the same folder through its own classes and processors, in float32."""

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

from fast import Fast
from vla.testing.parity import within
from vla_lerobot.sizes import Sizes, built
from vla_lerobot.testing.cases import demonstration, item


@pytest.fixture(autouse=True)
def theirs_tokenizer(monkeypatch):
    """lerobot's own FAST code (its copy of the published program), for folders: what AutoProcessor would run from the
    hub.
    """
    own = action_tokenizer.UniversalActionProcessor

    class Local:
        @staticmethod
        def from_pretrained(folder, **_):
            return own.from_pretrained_local(folder)

    for module in (modeling_pi0_fast, t):
        monkeypatch.setattr(module, "AutoProcessor", Local)


def original(folder) -> PI0FastPolicy:
    """lerobot's own policy of a folder; only the tokenizers' names are others."""
    sizes = Sizes(**json.loads((folder / "srpo.json").read_text())["sizes"])
    config = PreTrainedConfig.from_pretrained(folder)
    config.text_tokenizer_name = str(folder / "tokenizer")
    config.action_tokenizer_name = str(folder / "action_tokenizer")
    config.validate_action_token_prefix = False
    with built(modeling_pi0_fast, sizes, 112):
        made = PI0FastPolicy.from_pretrained(folder, config=config, strict=True)
    from safetensors.torch import load_file

    loaded = made.state_dict()
    for name, tensor in load_file(str(folder / "model.safetensors")).items():
        assert torch.equal(loaded[name], tensor)
    return made.eval()


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
    picture = torch.from_numpy(np.array(seen.images["agentview"])).permute(2, 0, 1).float() / 255
    return {
        "observation.images.image": picture[None],
        "observation.state": torch.from_numpy(seen.proprio)[None],
        "task": [seen.instruction],
    }


@pytest.fixture(params=["made", "saved"])
def folder(request, checkpoint_folder, trained):
    """A checkpoint, and one that the policy saved after learning from a demonstration."""
    return checkpoint_folder if request.param == "made" else trained[0]


def test_actions_are_lerobots(folder):
    p = policy(checkpoint=str(folder), vocabulary="full", max_tokens=0)
    theirs = original(folder)
    pre, post = processors(folder)
    for i in range(3):
        seen = item(i).observation
        batch = pre(observation(seen))
        p.act([item(i)], srpo.Sampling(greedy=True, record=True))
        (r,) = p.records[f"0/t/0/{i}"]
        ids = theirs.model.sample_actions_fast_kv_cache(
            *theirs._preprocess_images(batch),
            batch["observation.language.tokens"],
            batch["observation.language.attention_mask"],
            max_decoding_steps=p.network.most,
            temperature=0.0,
        )[0].tolist()
        ours = r.sample.acted.ids.tolist()
        assert ids[: len(ours)] == ours
        want = post(theirs.predict_action_chunk(batch))[0].numpy()
        got = p.act([item(i)], srpo.Sampling(greedy=True))[0].actions
        within("greedy actions", got, np.clip(want, -1, 1), 1e-5)


def test_log_probabilities_are_those_of_lerobots_sampling(checkpoint_folder):
    """Step by step, with BOS where its sampling has it, over the whole vocabulary and over what an action can have."""
    theirs = original(checkpoint_folder)
    pre, _ = processors(checkpoint_folder)
    for vocabulary in ("full", "action"):
        p = policy(checkpoint=str(checkpoint_folder), vocabulary=vocabulary, max_tokens=12)
        p.act([item(0)], srpo.Sampling(temperature=1.2, record=True))
        (r,) = p.records["0/t/0/0"]
        ids, given = r.sample.acted.ids, r.sample.acted.given
        batch = pre(observation(item(0).observation))
        logits = []
        head = theirs.model.paligemma_with_expert.paligemma.lm_head
        hook = head.register_forward_hook(lambda _, __, out, kept=logits: kept.append(out[:, -1]))
        forced = iter(ids.tolist())
        argmax = torch.argmax
        try:
            # Its sampling, made to write what we wrote.
            torch.argmax = lambda *_, ids=forced, **__: torch.tensor([[next(ids)]])
            theirs.model.sample_actions_fast(
                *theirs._preprocess_images(batch),
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
            gone = torch.ones(rows.shape[1], dtype=torch.bool)
            gone[p.network.allowed] = False
            rows[:, gone] = -torch.inf
        want = torch.log_softmax(rows, -1)[torch.arange(len(ids)), torch.from_numpy(ids)]
        within(f"log-probabilities, vocabulary {vocabulary}", r.log_probs[given : len(ids)], want[given:], 1e-5)


def test_inputs_are_lerobots(folder):
    p = policy(checkpoint=str(folder))
    theirs = original(folder)
    pre, _ = processors(folder)
    for i in range(3):
        seen = item(i).observation
        batch = pre(observation(seen))
        ours = p.network.tensors([p.network.sample([seen.images["agentview"]], seen.proprio, seen.instruction)])
        images, _ = theirs._preprocess_images(batch)
        assert torch.equal(ours.images[0], images[0])
        assert torch.equal(ours.tokens, batch["observation.language.tokens"])
        assert torch.equal(ours.masks, batch["observation.language.attention_mask"])


def test_the_loss_is_lerobots(folder):
    """Of two samples of different length, whose tokens weigh the same."""
    p = policy(checkpoint=str(folder))
    theirs = original(folder)
    pre, _ = processors(folder)
    d = demonstration()
    net = p.network
    drawn, batches = [], []
    for at in (0, 3):
        sample = net.sample([d.images["agentview"][at]], d.proprio[at], d.instruction)
        drawn.append((sample, *net.target(sample, d.actions[at : at + 8], None, np.random.default_rng())))
        seen = srpo.Observation({"agentview": d.images["agentview"][at]}, d.proprio[at], d.instruction)
        batches.append({**observation(seen), "action": torch.from_numpy(d.actions[at : at + 8])[None]})
    both = {k: torch.cat([b[k] for b in batches]) if k != "task" else [d.instruction] * 2 for k in batches[0]}
    want, _ = theirs.forward(pre(both))
    got = net.losses([x[:2] for x in drawn]).sum() / sum(x[2] for x in drawn)
    within("loss", got, want, 1e-5)


def test_fast_is_lerobots(checkpoint_folder):
    theirs = action_tokenizer.UniversalActionProcessor.from_pretrained_local(
        str(checkpoint_folder / "action_tokenizer")
    )
    files = {f.name: f.read_bytes() for f in (checkpoint_folder / "action_tokenizer").iterdir()}
    ours = Fast(files, "here")
    rng = np.random.default_rng(0)
    for scale in (0.1, 0.5, 2):
        chunk = np.cumsum(rng.normal(0, scale, (8, 7)), 0)
        ids = ours.encode(chunk)
        assert ids == theirs(chunk[None])[0]
        back = ours.decode(ids, 8, 7)
        within("FAST tokens back to actions", back, theirs.decode([ids], time_horizon=8, action_dim=7)[0], 1e-6)
        if scale < 1:  # larger numbers than the tokenizer's least are cut off
            np.testing.assert_allclose(back, chunk, atol=0.2)
    # Strings that are none: too short, too long, tokens of another range.
    policy_ = original(checkpoint_folder)
    for other in ([5, 6, 7], ids + ids, [-4, 3], [10**6]):
        want = np.zeros((8, 7))
        if other != [10**6]:
            want = policy_.decode_actions_with_fast([torch.tensor(other)], 8, 7)[0]
        within("strings that are no chunk, decoded", ours.decode(other, 8, 7), want, 1e-5)
