"""The policy as the SDK calls it: batches, updates, imitation, checkpoints."""

import dataclasses

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from subject import demonstration, equal, item, parameters, policy, record, update

import actions
import imitation
import modeling
import network
import tiny
from vla import lora


@pytest.mark.parametrize("settings", [{}, {"preset": "tiny-openvla"}, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("greedy", [False, True])
def test_a_result_does_not_depend_on_its_batch(settings, greedy):
    p = policy(**settings)
    sampling = srpo.Sampling(greedy=greedy, temperature=1.6)
    alone = p.act([item(1)], sampling)[0]
    mixed = p.act([item(2, 8), item(0), item(1), item(4)], sampling)[2]
    np.testing.assert_array_equal(alone.actions, mixed.actions)
    np.testing.assert_array_equal(alone.log_probs, mixed.log_probs)
    other = p.act([item(1, seed=12345)], sampling)[0]
    assert np.array_equal(other.actions, alone.actions) == greedy


def test_a_result_does_not_depend_on_its_micro_batch():
    """With several samples in a forward pass, and incomplete passes that are padded."""
    p = policy(micro_batch=3)
    sampling = srpo.Sampling(temperature=1.0)
    alone = p.act([item(1)], sampling)[0]
    mixed = p.act([item(2, 8), item(0), item(3), item(1), item(4)], sampling)[3]
    np.testing.assert_array_equal(alone.log_probs, mixed.log_probs)


def test_drawn_tokens_follow_the_distribution():
    from network import draw_tokens, log_probs

    logits = torch.randn(1, 256, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    drawn = np.array([draw_tokens(logits, rng.random(1), 0.5)[0] for _ in range(4000)])
    p = log_probs(logits.expand(256, 256), torch.arange(256), 0.5).exp().numpy()
    likely = p.argsort()[-5:]
    for k in likely:
        assert abs((drawn == k).mean() - p[k]) < 4 * np.sqrt(p[k] / len(drawn))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preset": "tiny-openvla"},
        {"lora_rank": 4},
        {"micro_batch": 2},
        {"gradient_checkpointing": True},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
    ],
    ids=str,
)
def test_first_ratio_is_one(settings):
    p = policy(**settings)
    record(p)
    shares = []
    s = p.update(update(), shares.append)
    assert s.first_ratio == pytest.approx(1, abs=1e-5)
    assert s.extra["first_kl"] == pytest.approx(0, abs=1e-6)
    assert s.kl > 0 and s.extra["ratio_max"] > 1 and s.grad_norm > 0
    assert shares == sorted(shares) and shares[-1] == 1
    assert s.samples == 6


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}], ids=str)
def test_gradient_checkpointing(settings):
    """All blocks compute their activations twice, and the gradient is the same."""
    results = []
    for checkpointing in (False, True):
        p, calls = policy(**settings, gradient_checkpointing=checkpointing, lr=1e-4), []
        record(p)
        model = p.network.model
        vision = model.vision_backbone
        for layers in (vision.featurizer.blocks, vision.fused_featurizer.blocks, model.language_model.model.layers):
            # A hook of a part of the block: transformers does not run the block's own hooks again.
            layers[0].mlp.register_forward_pre_hook(lambda m, *_, calls=calls: calls.append(m))
        s = p.update(update(kl=0.0, epochs=1, mini_batch=100), lambda _: None)
        results.append((p, s, len(calls)))
    (p, a, once), (q, b, twice) = results
    assert once == 3 * a.samples and twice == 2 * once
    assert a.grad_norm == pytest.approx(b.grad_norm, rel=1e-5) and a.loss == pytest.approx(b.loss, abs=1e-6)
    other = parameters(q)
    for n, x in parameters(p).items():
        torch.testing.assert_close(x, other[n], atol=2e-6, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"preset": "tiny-openvla"}], ids=str)
def test_gradient_checkpointing_does_not_change_acting(settings):
    """It needs training mode, in which transformers has no cache; acting without one would ignore earlier tokens."""
    results = []
    for checkpointing in (False, True):
        p = policy(**settings, gradient_checkpointing=checkpointing)
        results.append(p.act([item(i) for i in range(2)], srpo.Sampling(greedy=True)))
    for a, b in zip(*results):
        np.testing.assert_array_equal(a.actions, b.actions)


def test_compiled(monkeypatch):
    """With torch's tracing, but without its code generation, which takes minutes."""
    real, compiled = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f) or real(f, backend="aot_eager"))
    p, plain = policy(compile=True), policy()
    record(p)
    assert compiled
    a, b = (z.act([item(1)], srpo.Sampling())[0] for z in (p, plain))
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    s = p.update(update(), lambda _: None)
    assert s.first_ratio == pytest.approx(1, abs=1e-5) and s.extra["first_kl"] == pytest.approx(0, abs=1e-6)


def test_an_update_raises_the_probability_of_rewarded_actions():
    p = policy(lr=1e-3)
    record(p)
    before = {k: v[0].log_probs.sum() for k, v in p.records.items()}
    p.update(update(kl=0.0, epochs=4), lambda _: None)
    scores = {}
    for k, (r, *_) in p.records.items():
        with torch.no_grad():
            scores[k] = float(p.network.evaluate_actions([r.sample], 1.6).log_probs.sum())
    assert scores["0/t/0/1"] > before["0/t/0/1"]  # advantage 1
    assert scores["0/t/0/0"] < before["0/t/0/0"]  # advantage -1


def test_tokens_that_were_not_executed_do_not_matter():
    results = []
    for offset in (0, 9):
        p = policy()
        record(p)
        for chunks in p.records.values():  # 11 steps: 3 actions of the second chunk were executed
            chunks[1].log_probs[3 * 7 :] += offset
        p.update(update(), lambda _: None)
        results.append(p)
    assert equal(*results)


@pytest.mark.parametrize("advantages", [1, 11], ids=["of a trajectory", "of each step"])
def test_the_loss_matches_the_formula(advantages):
    """The loss of one update, computed token by token in numpy."""
    p = policy()
    record(p)
    shift = {}
    rng = np.random.default_rng(0)
    for name, chunks in p.records.items():
        for r in chunks:
            shift[name, r.step] = rng.normal(0, 0.4, r.log_probs.shape).astype(np.float32)
            r.log_probs = r.log_probs - shift[name, r.step]
    gains = {i: rng.normal(0, 1, advantages) for i in range(3)}
    u = update(kl=0.0, epochs=1, mini_batch=100, clip_dual=1.5, values=lambda i: gains[i])
    s = p.update(u, lambda _: None)
    total = kl_old = 0.0
    for t in u.trajectories:
        a = np.repeat(np.broadcast_to(t.values, 11), 7)
        ratio = np.exp(np.concatenate([shift[t.trajectory, 0], shift[t.trajectory, 8][: 3 * 7]]))
        loss = np.maximum(-ratio * a, -np.clip(ratio, 0.8, 1.28) * a)
        total += np.where(a < 0, np.minimum(loss, -1.5 * a), loss).mean() / 3
        kl_old += (ratio - 1 - np.log(ratio)).sum() / 6
    assert s.loss == pytest.approx(total, abs=1e-4)
    # With kl_beta 0 the reported KL is that to the policy that acted.
    assert s.kl == s.extra["kl_old"] == pytest.approx(kl_old, rel=1e-4) and "first_kl" not in s.extra


@pytest.mark.parametrize(
    "settings", [{}, {"imitate_tokens": "vocabulary"}, {"preset": "tiny-openvla"}, {"lora_rank": 4}], ids=str
)
def test_imitation_learns_a_demonstration(settings):
    p = policy(**settings, imitate_lr=5e-3, imitate_batch=4, augment="off")
    losses = []
    demos = iter([demonstration(), srpo.Demonstration("failed", "x", {}, None, np.zeros((0, 7), np.float32), False)])
    p.imitate(srpo.Imitate(1, 5, 25), demos, lambda share, loss: losses.append(loss))
    # LoRA does not train the head, whose random weights limit the loss.
    assert losses[-1] < (0.99 if "lora_rank" in settings else 0.85) * losses[0]
    stats = p.network.source.statistics["tiny"]
    actions = demonstration().actions
    np.testing.assert_allclose(stats["action"]["q99"][:6], np.quantile(actions[:, :6].astype(float), 0.99, axis=0))
    assert stats["action"]["mask"] == [True] * 6 + [False]
    assert stats["action"]["max"][-1] == 1 and stats["action"]["min"][-1] == 0
    assert stats["num_transitions"] == 12
    # A dimension that never moved keeps its value, and the gripper is -1 or +1.
    result = p.act([item(0)], srpo.Sampling(greedy=True, temperature=1.0))[0]
    np.testing.assert_allclose(result.actions[:, 3], 0.25, atol=1e-6)
    assert set(np.unique(result.actions[:, -1])) <= {-1.0, 1.0}
    assert p.reference is None and not p.records


def test_the_imitation_loss_is_minus_the_log_probability_of_acting():
    """Over the action tokens, at temperature 1."""
    net = policy().network
    tokens = np.arange(net.slots) * 5 % 256
    sample = network.Sample(np.full((224, 224, 3), 90, np.uint8), net.prompt("lift the cup"), tokens)
    labels = np.append(net.model.first_action + tokens, modeling.STOP)
    with torch.no_grad():
        acting = -net.evaluate_actions([sample], 1.0).log_probs.double().mean()
        hidden = net.hidden([sample])[0].double()
        whole = torch.log_softmax(hidden @ net.model.language_model.lm_head.weight.T.double(), -1)
        whole = -whole[torch.arange(net.slots + 1), torch.from_numpy(labels)].mean()
        part = [(sample, labels, np.ones(net.slots + 1, np.float32))]
        assert float(imitation.loss(net, part, 1, False)) == pytest.approx(float(acting), rel=1e-5)
        assert float(imitation.loss(net, part, 1, True)) == pytest.approx(float(whole), rel=1e-5)
    assert whole > acting + 1


def test_imitation_uses_weights():
    """Weights of 1 change nothing, weight 0 excludes a demonstration, and a failed one with weights is used."""

    def trained(*demos):
        p, losses = policy(augment="off"), []
        p.imitate(srpo.Imitate(1, 5, 2), iter(demos), lambda share, loss: losses.append(loss))
        return p, losses

    one, other = demonstration(0), demonstration(1)

    def weighed(d, w):
        return dataclasses.replace(d, success=False, weights=np.full(len(d.actions), w, np.float32))

    plain, losses = trained(one, other)
    same, same_losses = trained(weighed(one, 1), weighed(other, 1))
    assert equal(plain, same) and losses == same_losses
    assert trained(weighed(one, 2), weighed(other, 2))[1][0] == pytest.approx(2 * losses[0])
    assert trained(weighed(one, 1), weighed(other, 0))[1][0] < losses[0]
    with pytest.raises(srpo.Error, match="all weights are 0"):
        trained(weighed(one, 0))
    assert plain.describe().weighs_steps


def test_saved_folder_is_a_checkpoint(tmp_path):
    """A saved folder can be given as a checkpoint. With merged adapters it acts the same up to rounding."""
    p = policy(lora_rank=4)
    record(p)
    p.update(update(), lambda _: None)
    p.save(str(tmp_path))
    q = policy(checkpoint=str(tmp_path), lora_rank=0)
    a = p.act([item(0)], srpo.Sampling(greedy=True))[0]
    b = q.act([item(0)], srpo.Sampling(greedy=True))[0]
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-3)
    # So do the base and the adapter, merged or kept.
    base = tmp_path / "base"
    base.mkdir()
    tiny.write(str(base), 3)
    for mode in ("merge", "keep"):
        r = policy(checkpoint=str(base), adapter=str(tmp_path / "lora_adapter"), adapter_mode=mode, lora_rank=0)
        assert bool(list(lora.adapters(r.network.model))) == (mode == "keep")
        c = r.act([item(0)], srpo.Sampling(greedy=True))[0]
        np.testing.assert_allclose(a.log_probs, c.log_probs, atol=1e-3)


def test_a_checkpoint_in_several_files(tmp_path):
    p = policy(shard_mb=10)
    p.save(str(tmp_path))
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    q = policy(checkpoint=str(tmp_path), lora_rank=0)
    assert equal(p, q)


def test_actions_to_the_env_and_back():
    p = policy()
    net = p.network
    for in_data, in_env in ((0.0, 1.0), (1.0, -1.0)):  # the gripper
        normalised = np.zeros((1, 7))
        normalised[0, -1] = in_data
        assert net.normaliser.to_env(normalised)[0, -1] == in_env
    expected = np.random.default_rng(0).uniform(-1, 1, (50, 7))
    expected[:, -1] = np.sign(expected[:, -1])
    tokens = actions.to_tokens(net.normaliser.from_env(expected[:8])).reshape(-1)
    np.testing.assert_allclose(net.env_actions(tokens), expected[:8], atol=1 / 255 + 1e-6)
