"""The policy as the SDK calls it: batches, updates, imitation, checkpoints."""

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from cases import policy

from vla_lerobot.testing.cases import demonstration, equal, item, record, update


@pytest.mark.parametrize("settings", [{}, {"method": "flow-noise"}, {"stochastic": "all"}, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("greedy", [False, True])
def test_a_result_does_not_depend_on_its_batch(settings, greedy):
    p = policy(**settings)
    sampling = srpo.Sampling(greedy=greedy, temperature=1.2)
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
    np.testing.assert_array_equal(alone.actions, mixed.actions)
    np.testing.assert_array_equal(alone.log_probs, mixed.log_probs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "flow-noise", "ratio": "action"},
        {"stochastic": "all", "ratio": "element"},
        {"learn": "expert", "micro_batch": 2},
        {"lora_rank": 4},
        {"gradient_checkpointing": True},
        {"dtype": "bfloat16"},
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


def test_which_parameters_are_trained():
    def moved(**settings):
        p, q = policy(**settings), policy(**settings)
        record(p)
        p.update(update(), lambda _: None)
        initial = dict(q.network.trunk.named_parameters())
        return {n for n, x in p.network.trunk.named_parameters() if not torch.equal(x, initial[n])}

    vlm = "model.paligemma_with_expert.paligemma."
    assert any(n.startswith(vlm) for n in moved()) and not any("lm_head" in n for n in moved())
    expert = moved(learn="expert")
    assert expert and not any(n.startswith(vlm) for n in expert)
    assert all(n.endswith(("lora_A", "lora_B")) for n in moved(lora_rank=2))
    assert "noise.layers.4.weight" in moved(method="flow-noise")


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_both_attention_implementations_give_the_same(dtype, tolerance, monkeypatch):
    eager, fused = policy(dtype=dtype), policy(dtype=dtype, attention="sdpa")
    sampling = srpo.Sampling(temperature=1.2)
    (a,) = eager.act([item(1)], sampling)
    calls, real = [], torch.nn.functional.scaled_dot_product_attention

    def count(query, *args, **more):
        calls.append(query.shape[-2])
        return real(query, *args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    eager.act([item(1)], sampling)
    in_vision_tower = len(calls)
    (b,) = fused.act([item(1)], sampling)
    assert len(calls) > 2 * in_vision_tower
    np.testing.assert_allclose(a.actions, b.actions, atol=tolerance)
    record(fused)
    assert fused.update(update(), lambda _: None).first_ratio == pytest.approx(1, abs=1e-5)


def test_an_update_raises_the_probability_of_rewarded_actions():
    p = policy(lr=2e-5)
    record(p)
    before = {k: v[0].log_probs.sum() for k, v in p.records.items()}
    p.update(update(kl=0.0, epochs=4), lambda _: None)
    scores = {}
    for k, (r, *_) in p.records.items():
        with torch.no_grad():
            scores[k] = float(p.network.evaluate_actions([r.sample], 1.2).log_probs.sum())
    assert scores["0/t/0/1"] > before["0/t/0/1"]  # advantage 1
    assert scores["0/t/0/0"] < before["0/t/0/0"]  # advantage -1


@pytest.mark.parametrize("ratio", ["chunk", "action", "element"])
def test_actions_that_were_not_executed_do_not_matter(ratio):
    results = []
    for offset in (0, 9):
        p = policy(ratio=ratio)
        record(p)
        for chunks in p.records.values():  # 11 steps: 3 actions of the second chunk were executed
            chunks[1].log_probs[3 * 7 :] += offset
        p.update(update(), lambda _: None)
        results.append(p)
    assert equal(*results)


@pytest.mark.parametrize("ratio", ["chunk", "action", "element"])
def test_the_loss_matches_the_formula(ratio):
    """The loss of one update in numpy, with one advantage per step."""
    p = policy(ratio=ratio)
    record(p)
    shift = {}
    rng = np.random.default_rng(0)
    for name, chunks in p.records.items():
        for r in chunks:
            shift[name, r.step] = rng.normal(0, 0.1, r.log_probs.shape).astype(np.float32)
            r.log_probs = r.log_probs - shift[name, r.step]
    gains = {i: rng.normal(0, 1, 11) for i in range(3)}
    u = update(kl=0.0, epochs=1, mini_batch=100, clip_dual=1.5, values=lambda i: gains[i])
    s = p.update(u, lambda _: None)
    total = 0.0
    for i, t in enumerate(u.trajectories):
        losses = []
        for at, valid in ((0, 8), (8, 3)):
            log_ratios = shift[t.trajectory, at].reshape(8, 7)[:valid].astype(np.float64)
            gain = gains[i][at : at + valid]
            if ratio == "chunk":
                units = [(log_ratios.sum(), gain.mean())]
            elif ratio == "action":
                units = list(zip(log_ratios.sum(1), gain))
            else:
                units = list(zip(log_ratios.reshape(-1), np.repeat(gain, 7)))
            for log, a in units:
                r = np.exp(log)
                loss = max(-r * a, -np.clip(r, 0.8, 1.28) * a)
                losses.append(min(loss, -1.5 * a) if a < 0 else loss)
        total += np.mean(losses) / 3
    assert s.loss == pytest.approx(total, abs=2e-4)


def test_imitation_learns_a_demonstration():
    p = policy(imitate_lr=3e-3)
    losses = []
    failed = srpo.Demonstration("failed", "x", {}, None, np.zeros((0, 7), np.float32), False)
    p.imitate(srpo.Imitate(1, 5, 40), iter([demonstration(), failed]), lambda share, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]
    stats = p.network.source.statistics
    actions = demonstration().actions
    np.testing.assert_allclose(stats["action"]["mean"], actions.astype(float).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        stats["observation.state"]["std"], demonstration().proprio.astype(float).std(0), rtol=1e-5
    )
    assert stats["action"]["count"] == 12 and p.reference is None and not p.records
    # A dimension that never moved keeps its value.
    result = p.act([item(0)], srpo.Sampling(greedy=True))[0]
    np.testing.assert_allclose(result.actions[:, 3], 0.25, atol=1e-6)


def test_statistics_that_are_not_contiguous_are_saved_in_order(tmp_path):
    """safetensors 0.8's NumPy writer stores such arrays in the order of their memory, without an error."""
    p = policy(preset="tiny", statistics="compute")
    p.imitate(srpo.Imitate(1, 5, 1), iter([demonstration()]), lambda *_: None)
    statistics = p.network.source.statistics
    strided = {k: {n: np.repeat(v, 2)[::2] for n, v in values.items()} for k, values in statistics.items()}
    assert not strided["action"]["mean"].flags.c_contiguous
    p.network.source.statistics = strided
    p.save(str(tmp_path))
    saved = policy(checkpoint=str(tmp_path)).network.source.statistics
    for key, values in statistics.items():
        for name, v in values.items():
            np.testing.assert_array_equal(saved[key][name], v, err_msg=f"{key}.{name}")
