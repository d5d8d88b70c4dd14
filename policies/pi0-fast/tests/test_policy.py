"""The policy as the SDK calls it: batches, updates, imitation, checkpoints."""

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from cases import policy

from vla_lerobot.testing.cases import demonstration, equal, item, record, update


@pytest.mark.parametrize("settings", [{}, {"vocabulary": "full"}, {"lora_rank": 4}], ids=str)
@pytest.mark.parametrize("greedy", [False, True])
def test_a_result_does_not_depend_on_its_batch(settings, greedy):
    p = policy(**settings)
    sampling = srpo.Sampling(greedy=greedy, temperature=1.2)
    alone = p.act([item(1)], sampling)[0]
    mixed = p.act([item(2, 8), item(0), item(1), item(4)], sampling)[2]
    np.testing.assert_array_equal(alone.actions, mixed.actions)
    np.testing.assert_array_equal(alone.log_probs, mixed.log_probs)
    other = p.act([item(1, seed=12345)], sampling)[0]
    assert np.array_equal(other.log_probs, alone.log_probs) == greedy
    assert not alone.log_probs[1:].any() and alone.log_probs[0] < 0


def test_a_result_does_not_depend_on_its_micro_batch(trained):
    """With several samples in a forward pass, incomplete passes that are padded, and strings of different length."""
    p = policy(checkpoint=str(trained[0]), micro_batch=3, max_tokens=0)
    sampling = srpo.Sampling(temperature=1.0, record=True)
    alone = p.act([item(1)], sampling)[0]
    mixed = p.act([item(2, 8), item(0), item(3), item(1), item(4)], sampling)[3]
    np.testing.assert_array_equal(alone.log_probs, mixed.log_probs)
    np.testing.assert_array_equal(alone.actions, mixed.actions)
    assert len({len(r.sample.chosen.ids) for chunks in p.records.values() for r in chunks}) > 1


def test_gradient_checkpointing_does_not_change_acting():
    """It needs training mode, in which transformers has no cache; acting without one would ignore earlier tokens."""
    results = [
        policy(gradient_checkpointing=on).act([item(i) for i in range(2)], srpo.Sampling(greedy=True))
        for on in (False, True)
    ]
    for a, b in zip(*results):
        np.testing.assert_array_equal(a.actions, b.actions)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"vocabulary": "full", "ratio": "chunk"},
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


def test_strings(trained):
    """The beginning is fixed and has no log-probability, then FAST's tokens follow, then the end. Log-probabilities are
    normalised over the allowed tokens.
    """
    p = policy(checkpoint=str(trained[0]), max_tokens=0)
    net = p.network
    p.act([item(i) for i in range(4)], srpo.Sampling(temperature=1.2, record=True))
    allowed = set(net.allowed.tolist())
    ended = 0
    for (r,) in p.records.values():
        string = r.sample.chosen
        assert list(string.ids[: string.fixed]) == net.beginning and string.fixed == len(net.beginning)
        assert set(string.ids[string.fixed :].tolist()) <= allowed
        assert net.end not in string.ids[:-1]
        ended += string.ids[-1] == net.end
        assert (r.log_probs[: string.fixed] == 0).all() and (r.log_probs[string.fixed : len(string.ids)] < 0).all()
        assert (r.log_probs[len(string.ids) :] == 0).all()
        with torch.no_grad():
            total = net.evaluate_actions([r.sample], 1.2).all_log_probs.exp().sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    assert ended


def test_drawn_tokens_follow_the_distribution():
    from network import draw_token

    logits = np.random.default_rng(1).standard_normal(40)
    rng = np.random.default_rng(0)
    drawn = np.array([draw_token(logits, rng.random(), 0.5) for _ in range(4000)])
    p = np.exp(logits / 0.5) / np.exp(logits / 0.5).sum()
    for k in p.argsort()[-5:]:
        assert abs((drawn == k).mean() - p[k]) < 4 * np.sqrt(p[k] / len(drawn))


def test_an_update_raises_the_probability_of_rewarded_actions():
    p = policy(lr=3e-4)
    record(p)
    before = {k: v[0].log_probs.sum() for k, v in p.records.items()}
    p.update(update(kl=0.0, epochs=4), lambda _: None)
    scores = {}
    for k, (r, *_) in p.records.items():
        mask, _ = p.network.mask_and_advantage(r.sample, 1, np.zeros(1))
        with torch.no_grad():
            scores[k] = float((p.network.evaluate_actions([r.sample], 1.2).log_probs.numpy() * mask).sum())
    assert scores["0/t/0/1"] > before["0/t/0/1"]  # advantage 1
    assert scores["0/t/0/0"] < before["0/t/0/0"]  # advantage -1


def test_chunks_that_were_not_executed_do_not_matter():
    """Neither do fixed tokens and padding of executed ones."""
    results = []
    for offset in (0, 9):
        p = policy()
        record(p)
        for first, second in p.records.values():
            second.log_probs += offset
            first.log_probs[: first.sample.chosen.fixed] += offset
            first.log_probs[len(first.sample.chosen.ids) :] += offset
        p.update(update(steps=8), lambda _: None)
        results.append(p)
    assert equal(*results)


@pytest.mark.parametrize("ratio", ["token", "chunk"])
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
        for r in p.records[t.trajectory]:
            gain = gains[i][r.step : r.step + 8].mean()
            drawn = shift[t.trajectory, r.step][r.sample.chosen.fixed : len(r.sample.chosen.ids)].astype(np.float64)
            for log in drawn if ratio == "token" else [drawn.sum()]:
                loss = max(-np.exp(log) * gain, -np.clip(np.exp(log), 0.8, 1.28) * gain)
                losses.append(min(loss, -1.5 * gain) if gain < 0 else loss)
        total += np.mean(losses) / 3
    assert s.samples == 6 and s.loss == pytest.approx(total, abs=2e-4)


def test_imitation_learns_a_demonstration(trained):
    """The policy then generates strings with an end, and its statistics are those of the demonstration."""
    folder, losses = trained
    assert losses[-1] < 0.6 * losses[0]
    p = policy(checkpoint=str(folder), max_tokens=0)
    d = demonstration()
    mean = d.actions.astype(float).mean(0)
    np.testing.assert_allclose(p.network.source.statistics["action"]["mean"], mean, atol=1e-6)
    assert p.network.has_data_statistics
    observation = srpo.Observation({"agentview": d.images["agentview"][0]}, d.proprio[0], d.instruction)
    p.act([srpo.ActItem("0/t/0/0", 0, observation, 1)], srpo.Sampling(greedy=True, record=True))
    (r,) = p.records["0/t/0/0"]
    assert r.sample.chosen.ids[-1] == p.network.end
