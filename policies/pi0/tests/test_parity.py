"""Comparison with lerobot: its own classes and processors load the same folders, in float32."""

import json

import cases
import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from cases import policy
from lerobot.policies.pi0 import PI0Policy, modeling_pi0
from lerobot.processor import PolicyProcessorPipeline, policy_action_to_transition, transition_to_policy_action
from safetensors.torch import load_file, save_file

from vla.testing.parity import within
from vla_lerobot import normalise
from vla_lerobot.sizes import Sizes, patched
from vla_lerobot.testing.cases import ENV, INSTRUCTIONS, demonstration, frame, item


def original(folder) -> PI0Policy:
    """Loads a folder with lerobot's own policy class."""
    sizes = Sizes(**json.loads((folder / "srpo.json").read_text())["sizes"])
    with patched(modeling_pi0, sizes, 112):
        policy = PI0Policy.from_pretrained(folder, strict=True)
    # lerobot only prints a message if weights do not fit, and continues with random ones.
    loaded = policy.state_dict()

    for name, tensor in load_file(str(folder / "model.safetensors")).items():
        assert torch.equal(loaded[name], tensor)
    return policy.eval()


def processors(folder):
    """lerobot's own processors of a folder, with the name of the local tokenizer."""
    overrides = {"tokenizer_processor": {"tokenizer_name": str(folder / "tokenizer")}}
    pre = PolicyProcessorPipeline.from_pretrained(folder, "policy_preprocessor.json", overrides=overrides)
    post = PolicyProcessorPipeline.from_pretrained(
        folder,
        "policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return pre, post


def observation(i: int) -> dict:
    seen = item(i).observation
    image = torch.from_numpy(np.array(seen.images["agentview"])).permute(2, 0, 1).float() / 255
    return {
        "observation.images.image": image[None],
        "observation.state": torch.from_numpy(seen.proprio)[None],
        "task": [seen.instruction],
    }


@pytest.fixture(scope="module", params=["written", "saved"])
def folder(request, checkpoint_folder, tmp_path_factory):
    """A tiny checkpoint, and one that the policy saved after it computed statistics from a demonstration."""
    if request.param == "written":
        return checkpoint_folder
    out = tmp_path_factory.mktemp("saved")
    p = policy()
    p.imitate(srpo.Imitate(1, 5, 2), iter([demonstration()]), lambda *_: None)
    p.save(str(out))
    return out


def test_actions_equal_lerobots(folder):
    p = policy(checkpoint=str(folder))
    reference = original(folder)
    pre, post = processors(folder)
    acted = p.act([item(i) for i in range(3)], srpo.Sampling(greedy=True))
    for i in range(3):
        batch = pre(observation(i))
        noise = torch.from_numpy(p.network.greedy_noise)[None]
        chunk = reference.predict_action_chunk(batch, noise=noise)
        want = np.clip(post(chunk)[0].numpy(), -1, 1)
        within("actions for the same noise", acted[i].actions, want, 1e-5)


def test_inputs_equal_lerobots(folder):
    p = policy(checkpoint=str(folder))
    reference = original(folder)
    pre, _ = processors(folder)
    for i in range(2):
        batch = pre(observation(i))
        seen = item(i).observation
        actual = p.network.batch_tensors([p.network.sample([seen.images["agentview"]], seen.proprio, seen.instruction)])
        images, masks = reference._preprocess_images(batch)
        assert torch.equal(actual.images[0], images[0]) and torch.equal(actual.image_masks[0], masks[0])
        assert torch.equal(actual.tokens, batch["observation.language.tokens"])
        assert torch.equal(actual.masks, batch["observation.language.attention_mask"])
        torch.testing.assert_close(actual.state, reference.prepare_state(batch), atol=1e-6, rtol=0)


def test_log_probabilities_equal_those_of_lerobots_velocity(checkpoint_folder):
    """Computed by the formulas in float64, with lerobot's own denoise_step."""
    p = policy(checkpoint=str(checkpoint_folder), chunk=5)
    reference = original(checkpoint_folder)
    pre, _ = processors(checkpoint_folder)
    p.act([item(i, seed=s) for i in range(2) for s in range(4)][:1], srpo.Sampling(temperature=1.2, record=True))
    steps_seen = set()
    for i, seed in [(0, 1), (1, 2), (0, 3), (1, 4), (0, 7), (1, 9)]:
        p.act([item(i, seed=seed)], srpo.Sampling(temperature=1.2, record=True))
        (record,) = p.records[f"0/t/0/{i}"]
        chain = record.sample.chosen
        batch = pre(observation(i))
        m = reference.model
        images, masks = reference._preprocess_images(batch)
        with torch.no_grad():
            embeddings, padding, kinds = m.embed_prefix(
                images, masks, batch["observation.language.tokens"], batch["observation.language.attention_mask"]
            )
            m.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
            _, cache = m.paligemma_with_expert.forward(
                attention_mask=modeling_pi0.prepare_attention_masks_4d(modeling_pi0.make_att_2d_masks(padding, kinds)),
                position_ids=torch.cumsum(padding, 1) - 1,
                inputs_embeds=[embeddings, None],
                use_cache=True,
            )
            k, steps = int(chain.steps[0]), 4
            steps_seen.add(k)
            x = torch.from_numpy(chain.before[0])[None]
            t = torch.tensor([1 - k / steps])
            v = m.denoise_step(reference.prepare_state(batch), padding, cache, x, t)[0].double().numpy()
        x, t, d = chain.before[0].astype(float), 1 - k / steps, 1 / steps
        behind = 1 - (1 - 1 / steps) if k == 0 else 1 - t
        sigma = 0.5 * 1.2 * np.sqrt(t / behind)
        x0, x1 = x - v * t, x + v * (1 - t)
        mean = x0 * (1 - (t - d)) + x1 * (t - d - sigma**2 * d / (2 * t))
        std = np.sqrt(d) * sigma
        want = -0.5 * ((chain.after[0] - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        within("log-probabilities", record.log_probs.reshape(5, 7), want[:5, :7], 1e-5)
    assert len(steps_seen) > 1


def test_the_marginals_of_flow_sde():
    """If the data are a single point, x at time t is Gaussian with std t, and its mean is on the line to the point. A
    step of the ODE preserves that exactly, and a stochastic step to first order in delta.
    """
    p = policy(denoise_steps=200)
    net = p.network
    k, point = 60, 0.3
    t = 1 - k / 200
    rng = np.random.default_rng(0)
    x = torch.from_numpy(((1 - t) * point + t * rng.standard_normal((1, 4000, 1))).astype(np.float32))
    v = (x - point) / t
    mean, std = net._next_distribution(v, None, x, torch.tensor([k]), 1.0)
    after = (mean + std * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))).numpy()
    later = t - 1 / 200
    assert after.mean() == pytest.approx((1 - later) * point, abs=0.03)
    assert after.std() == pytest.approx(later, rel=0.03)


def test_the_loss_equals_lerobots(checkpoint_folder):
    p = policy(checkpoint=str(checkpoint_folder), learn="all")
    reference = original(checkpoint_folder)
    pre, _ = processors(checkpoint_folder)
    d = demonstration()
    net = p.network
    rng = np.random.Generator(np.random.Philox(key=3))
    sample = net.sample([d.images["agentview"][2]], d.proprio[2], d.instruction)
    target, weight = net.imitation_target(sample, d.actions[2:10], None, rng)
    batch = pre(
        {
            "observation.images.image": torch.from_numpy(d.images["agentview"][2]).permute(2, 0, 1).float()[None] / 255,
            "observation.state": torch.from_numpy(d.proprio[2])[None],
            "action": torch.from_numpy(d.actions[2:10])[None],
            "task": [d.instruction],
        }
    )
    reference.model.sample_noise = lambda *_: torch.from_numpy(target[2])[None]
    reference.model.sample_time = lambda *_: torch.tensor([target[3]])
    want, _ = reference.forward(batch)
    got = net.imitation_losses([(sample, target)])
    assert weight == 1 and got.shape == (1,)
    within("loss", got[0], want, 1e-5)
    half = net.imitation_losses([(sample, (target[0], np.full(8, 0.5, np.float32), *target[2:]))])
    assert float(half.detach()) == pytest.approx(float(want.detach()) / 2, abs=1e-5)


def test_gradient_checkpointing_gives_the_same_velocity(checkpoint_folder):
    p, q = (policy(checkpoint=str(checkpoint_folder), gradient_checkpointing=x) for x in (False, True))
    a, b = (z.act([item(1)], srpo.Sampling(greedy=True))[0].actions for z in (p, q))
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"])
def test_normalisation_equals_lerobots(mode):
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.processor import NormalizerProcessorStep

    rng = np.random.default_rng(1)
    data = rng.normal(0.3, 2, (40, 5)).astype(np.float32)
    data[:, 2] = 0.7  # never moves
    stats = normalise.compute_statistics(data)
    step = NormalizerProcessorStep(
        {"action": PolicyFeature(FeatureType.ACTION, (5,))},
        {FeatureType.ACTION: NormalizationMode(mode)},
        {"action": stats},
    )
    normaliser = normalise.make_normaliser({"action": stats}, "action", mode, 5, "here")
    x = torch.from_numpy(data)
    reference = step._normalize_action(x, inverse=False).numpy()
    moving = [0, 1, 3, 4]
    within("normalised", normaliser.normalise(data)[:, moving], reference[:, moving], 1e-5)
    inverse = step._normalize_action(torch.from_numpy(reference), inverse=True)
    within("un-normalised", normaliser.unnormalise(reference), inverse, 1e-5)


def openpi_folder(checkpoint_folder, folder, pad=None):
    """Writes a checkpoint as openpi's conversion does: other names in config.json, no prefix, norm_stats.json.

    Args:
        pad: changes a list of statistics; None: they stay as they are.
    """
    statistics = policy(checkpoint=str(checkpoint_folder)).network.source.statistics
    weights = load_file(str(checkpoint_folder / "model.safetensors"))
    embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    head = "paligemma_with_expert.paligemma.lm_head.weight"
    bare = {n.removeprefix("model."): t for n, t in weights.items()}
    bare[head] = bare.pop(embedding)
    save_file(bare, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({"action_dim": 32, "action_horizon": 8, "precision": "float32"}))
    stats = {
        openpi_key: {
            n: pad(v.tolist()) if pad else v.tolist() for n, v in statistics[key].items() if n in ("mean", "std", "q01")
        }
        for key, openpi_key in (("action", "actions"), ("observation.state", "state"))
    }
    (folder / "assets" / "data").mkdir(parents=True)
    (folder / "assets" / "data" / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    own = json.loads((checkpoint_folder / "srpo.json").read_text())
    (folder / "srpo.json").write_text(json.dumps({**own, "image_resolution": [112, 112]}))
    (folder / "tokenizer").symlink_to(checkpoint_folder / "tokenizer")


def test_padded_statistics_of_openpi(checkpoint_folder, tmp_path):
    """Until June 2025 openpi padded data with zeros to 32 dimensions before it computed statistics."""
    folders = {name: tmp_path / name for name in ("plain", "padded", "nearly", "other")}
    for folder in folders.values():
        folder.mkdir()
    openpi_folder(checkpoint_folder, folders["plain"])
    openpi_folder(checkpoint_folder, folders["padded"], lambda v: v + [0.0] * (32 - len(v)))
    openpi_folder(checkpoint_folder, folders["nearly"], lambda v: v + [1e-10] * (32 - len(v)))
    openpi_folder(checkpoint_folder, folders["other"], lambda v: v + [0.5] + [0.0] * (31 - len(v)))

    def opened(name):
        return policy(checkpoint=str(folders[name]), cameras="base_0_rgb=agentview", denoise_steps=4)

    def actions(p):
        return p.act([item(0)], srpo.Sampling(greedy=True))[0].actions

    p, q = opened("plain"), opened("padded")
    np.testing.assert_array_equal(actions(p), actions(q))
    np.testing.assert_array_equal(actions(p), actions(opened("nearly")))
    for key, dim in (("action", 7), ("observation.state", 8)):
        assert {v.shape for v in q.network.source.statistics[key].values()} == {(dim,)}
    (tmp_path / "saved").mkdir()
    q.save(str(tmp_path / "saved"))
    r = policy(checkpoint=str(tmp_path / "saved"), cameras="base_0_rgb=agentview", denoise_steps=4)
    np.testing.assert_allclose(actions(r), actions(p), atol=1e-6)
    with pytest.raises(srpo.Error, match="the checkpoint has 8 action dimensions, the env has 7"):
        opened("other")


def test_openpi_folder(checkpoint_folder, tmp_path):
    p = policy(checkpoint=str(checkpoint_folder))
    openpi_folder(checkpoint_folder, tmp_path)
    q = policy(checkpoint=str(tmp_path), cameras="base_0_rgb=agentview", denoise_steps=4)
    assert q.network.cameras == ["agentview"] and q.network.image_inputs == 3
    # Two more image inputs, which are masked, change only rounding.
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0].actions for z in (p, q))
    np.testing.assert_allclose(a, b, atol=1e-5)
    (tmp_path / "saved").mkdir()
    q.save(str(tmp_path / "saved"))
    r = policy(checkpoint=str(tmp_path / "saved"), cameras="base_0_rgb=agentview", denoise_steps=4)
    np.testing.assert_allclose(r.act([item(0)], srpo.Sampling(greedy=True))[0].actions, b, atol=1e-6)
    (tmp_path / "assets" / "data" / "norm_stats.json").unlink()
    with pytest.raises(srpo.Error, match="0 files norm_stats.json"):
        policy(checkpoint=str(tmp_path))


def test_two_cameras(tmp_path):
    """The second image is that of the wrist camera, as in lerobot."""
    cases.make(str(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["input_features"]["observation.images.image2"] = config["input_features"]["observation.images.image"]
    path.write_text(json.dumps(config))
    p = policy(checkpoint=str(tmp_path))
    assert [c for c, _, _ in p.describe().cameras] == ["agentview", "eye_in_hand"]
    reference = original(tmp_path)
    pre, post = processors(tmp_path)
    seen = srpo.Observation({"agentview": frame(1), "eye_in_hand": frame(2)}, np.zeros(8, np.float32), INSTRUCTIONS[0])
    got = p.act([srpo.ActItem("0/t/0/0", 0, seen, 1)], srpo.Sampling(greedy=True))[0].actions
    batch = {
        f"observation.images.{name}": torch.from_numpy(frame(n)).permute(2, 0, 1).float()[None] / 255
        for n, name in ((1, "image"), (2, "image2"))
    }
    batch = pre({**batch, "observation.state": torch.zeros(1, 8), "task": [INSTRUCTIONS[0]]})
    want = post(reference.predict_action_chunk(batch, noise=torch.from_numpy(p.network.greedy_noise)[None]))[0].numpy()
    within("actions of two cameras", got, np.clip(want, -1, 1), 1e-5)
    q = policy(checkpoint=str(tmp_path), cameras="image2=agentview")
    assert q.network.cameras == ["agentview"] and ENV.cameras[0].name == "agentview"
