"""Tests of the objective, its masks and the state of a training, on networks that train in seconds."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
import transformers

import clips
import export
import jepa
import train
from talk import Refused

torch.set_num_threads(1)


class Silent:
    """Discards reports."""

    def phase(self, *_, **__):
        pass

    message = result = phase


def arguments(folder, **more):
    small = {
        "crop": 32,
        "patch": 8,
        "frames": 4,
        "tubelet": 2,
        "hidden": 24,
        "layers": 2,
        "heads": 2,
        "predictor": 24,
        "predictor_layers": 1,
        "steps": 4,
        "batch": 4,
        "warmup": 1,
        "rate": 3e-3,
        "log": 2,
        "threads": 1,
    }
    a = train.arguments(["--clips", str(folder / "clips"), "--out", str(folder / "out")])
    vars(a).update({**small, **more})
    return a


@pytest.fixture
def folder(tmp_path):
    """A folder with clips of moving scenes. Clip 0 is shorter than the network's input, clip 1 has one frame."""
    (tmp_path / "clips").mkdir()
    for i, clip in enumerate(clips.scenes(22, 9, 32, 40, 0)):
        np.savez_compressed(tmp_path / "clips" / f"{i:02}.npz", frames=clip[: {0: 3, 1: 1}.get(i, 9)])
    return tmp_path


def network(**more):
    torch.manual_seed(0)
    a = Namespace(**{**vars(arguments(train.Path("."))), **more})
    return jepa.Jepa(train.network(a)).train()


@pytest.mark.parametrize("blocks", jepa.MASKS)
@pytest.mark.parametrize("side", [2, 4, 8])
def test_masks_are_disjoint_and_in_range(blocks, side):
    rng = np.random.default_rng(0)
    for _ in range(20):
        visible, hidden = jepa.masks(rng, blocks, 3, 5, side)
        assert visible.shape[1] > 0 and hidden.shape[1] > 0
        for v, h in zip(visible, hidden):
            assert not set(v.tolist()) & set(h.tolist())
            assert (
                (v.diff() > 0).all()
                and (h.diff() > 0).all()
                and 0 <= min(v[0], h[0])
                and max(v[-1], h[-1]) < 5 * side**2
            )
    mask = jepa.draw(rng, blocks, 5, side)
    assert (mask == mask[0]).all(), "a block covers all frames"


def test_mask_areas():
    rng = np.random.default_rng(0)
    one = [jepa.draw(rng, jepa.Blocks(1, 0.25), 1, 16).mean() for _ in range(300)]
    assert abs(np.mean(one) - 0.25) < 0.01
    shares = [np.mean([jepa.draw(rng, b, 1, 16).mean() for _ in range(200)]) for b in jepa.MASKS]
    assert 0.5 < shares[0] < 0.75 and 0.75 < shares[1] < 0.95  # eight blocks of 0.15 and two of 0.7, overlapping
    tall = jepa.Blocks(1, 0.2, 1.4, 1.5)
    for _ in range(20):
        rows, columns = np.where(jepa.draw(rng, tall, 1, 16)[0])
        assert np.ptp(rows) > np.ptp(columns)


def test_encoder_sees_visible_tokens_only():
    j = network().eval()
    videos = torch.randn(2, 4, 3, 32, 32)
    everything = torch.arange(32).expand(2, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            jepa.encode_visible(j.encoder, videos, everything), j.encoder(videos).last_hidden_state
        )
        visible, hidden = jepa.masks(np.random.default_rng(0), jepa.MASKS[0], 2, 2, 4)
        before = jepa.encode_visible(j.encoder, videos, visible)
        changed = videos.clone()
        for b in range(2):
            for token in set(range(32)) - set(visible[b].tolist()):
                t, y, x = token // 16 * 2, token % 16 // 4 * 8, token % 4 * 8
                changed[b, t : t + 2, :, y : y + 8, x : x + 8] = 9
        torch.testing.assert_close(jepa.encode_visible(j.encoder, changed, visible), before)
        changed[:] = 9
        assert (jepa.encode_visible(j.encoder, changed, visible) - before).abs().max() > 0.1


def test_loss_covers_hidden_tokens():
    j = network()
    videos = torch.randn(2, 4, 3, 32, 32)
    drawn = [jepa.masks(np.random.default_rng(0), b, 2, 2, 4) for b in jepa.MASKS]
    value = j.loss(videos, drawn)
    # A predictor with a known error gives a known loss.
    want = torch.nn.functional.layer_norm(j.target(videos).last_hidden_state, (24,))

    class Oracle(torch.nn.Module):
        def forward(self, whole, context, hidden):
            return Namespace(last_hidden_state=jepa.gather(want, hidden[0]) + 0.25)

    predictor, j.predictor = j.predictor, Oracle()
    assert float(j.loss(videos, drawn).detach()) == pytest.approx(0.25, abs=1e-5)
    j.predictor = predictor
    value.backward()
    assert all(p.grad is None for p in j.target.parameters())
    without_gradient = [n for n, p in j.encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all(n.endswith("key.bias") for n in without_gradient), without_gradient  # no effect on attention


def test_target_follows():
    j = network()
    with torch.no_grad():
        for p in j.encoder.parameters():
            p.add_(1.0)
    before = [p.clone() for p in j.target.parameters()]
    j.follow(0.9)
    for b, t, e in zip(before, j.target.parameters(), j.encoder.parameters()):
        torch.testing.assert_close(t, 0.9 * b + 0.1 * e)
    j.follow(1.0)
    torch.testing.assert_close(list(j.target.parameters())[0], 0.9 * before[0] + 0.1 * list(j.encoder.parameters())[0])


def test_health():
    g = torch.Generator().manual_seed(0)
    wide = torch.randn(200, 16, generator=g)
    assert jepa.health(wide)["rank"] > 15 and jepa.health(wide)["spread"] > 5
    same = torch.ones(50, 16) + 1e-4 * torch.randn(50, 16, generator=g)
    assert jepa.health(same)["spread"] < 1e-3
    line = torch.ones(1, 16) + torch.randn(50, 1, generator=g) * torch.randn(1, 16, generator=g)
    assert jepa.health(line)["rank"] == pytest.approx(1, abs=1e-3)
    assert np.isfinite(list(jepa.health(torch.ones(9, 4)).values())).all()


def test_schedules(folder):
    t = train.Training(arguments(folder, steps=100, warmup=10, rate=1.0, momentum=0.9), "cpu")
    rates, momenta = [], []
    for t.step in range(100):
        rates.append(t.rate())
        momenta.append(t.momentum())
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and np.argmax(rates) in (9, 10)
    assert (np.diff(rates[10:]) <= 0).all() and rates[-1] < 0.02
    assert momenta[0] == pytest.approx(0.9) and (np.diff(momenta) >= 0).all() and momenta[-1] > 0.998


def test_learns(folder):
    for i in range(2, 22):  # train on the first clips only
        (folder / "clips" / f"{i:02}.npz").unlink()
    a = arguments(folder, steps=80, batch=8, log=10, momentum=0.999)
    out = train.train(a, Silent())
    lines = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 90, 10))
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"], lines
    assert out["steps"] == 80 and out["loss"] == lines[-1]["loss"]


def test_resumed_training_is_the_same(folder):
    data = train.Clips(arguments(folder), Silent())
    whole = train.Training(arguments(folder), "cpu")
    losses = [whole.advance(data)[0] for _ in range(4)]
    first = train.Training(arguments(folder), "cpu")
    resumed = [first.advance(data)[0] for _ in range(2)]
    first.save(folder)
    second = train.Training(arguments(folder), "cpu")
    assert second.load(folder) and second.step == 2
    resumed += [second.advance(data)[0] for _ in range(2)]
    assert resumed == losses
    for p, q in zip(whole.jepa.parameters(), second.jepa.parameters()):
        assert torch.equal(p, q)


def test_checkpoint_is_the_target_and_can_be_exported(folder):
    result = train.train(arguments(folder), Silent())
    model, info = transformers.VJEPA2Model.from_pretrained(result["checkpoint"], output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    state = torch.load(folder / "out" / "state.pt", weights_only=True)["jepa"]
    torch.testing.assert_close(model.encoder.layernorm.weight, state["target.layernorm.weight"])
    a = Namespace(
        family="vjepa2",
        model=result["checkpoint"],
        out=str(folder / "m.onnx"),
        half=False,
        revision="",
        frames=None,
        clips=str(folder / "clips"),
        threads=1,
    )
    exported = export.export(a, Silent())
    assert exported["verified"]["largest_relative_difference"] < 1e-5
    assert exported["card"]["dimension"] == 24 and exported["card"]["frames"] == 4


def test_clips_are_sampled_like_encoders_do(folder):
    data = train.Clips(arguments(folder), Silent())
    assert len(data.training) == 21 and len(data.held_out) == 1
    rng = np.random.default_rng(0)
    assert data.batch(rng, 40).shape == (40, 4, 3, 32, 32)
    episode = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 32, 32)
    data.training, data.preprocess = [episode], {"rescale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}
    taken = data.batch(rng, 200)[:, :, 0, 0, 0]
    assert (taken.diff(dim=1) >= 1).all()
    span = taken[:, -1] - taken[:, 0]
    assert span.min() < 10 and span.max() > 40


def test_bad_input(folder):
    def refused(message, **more):
        with pytest.raises(Refused, match=message) as e:
            train.train(arguments(folder, **more), Silent())
        assert e.value.hint
        return e.value.kind

    assert refused("not a multiple of --patch", crop=36) == "invalid"
    assert refused("not a multiple of --heads", hidden=25) == "invalid"
    assert refused("heads with fewer than 6 dimensions", hidden=8) == "invalid"
    assert refused("--steps -1", steps=-1) == "invalid"
    assert refused("--rate must be", rate=0.0) == "invalid"
    assert refused("there is no folder", clips=[str(folder / "none")]) == "not found"
    (folder / "empty").mkdir()
    assert refused("no clips", clips=[str(folder / "empty")]) == "not found"
    train.train(arguments(folder, steps=2), Silent())
    assert refused("another training: --hidden was 24", hidden=48, steps=2) == "mismatch"
    state = folder / "out" / "state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    assert refused("the state cannot be read", steps=2) == "corrupt"
    state.unlink()
    (folder / "clips" / "zz.npz").write_bytes(b"not a zip")
    assert refused("numpy cannot read it") == "corrupt"


def test_zero_steps_keep_the_initial_weights(folder):
    a = arguments(folder, steps=0)
    result = train.train(a, Silent())
    assert result["steps"] == 0 and np.isfinite([result["loss"], result["held_out"], result["rank"]]).all()
    initial = train.Training(a, "cpu").model.encoder.state_dict()
    made = transformers.VJEPA2Model.from_pretrained(result["checkpoint"]).encoder.state_dict()
    assert initial.keys() == made.keys() and all(torch.equal(initial[k], made[k]) for k in initial)
    assert "not trained" in (folder / "out" / "checkpoint" / "README.md").read_text()


def test_divergence_is_reported(folder):
    t = train.Training(arguments(folder), "cpu")
    with torch.no_grad():
        t.jepa.encoder.layernorm.weight.fill_(float("nan"))
    with pytest.raises(Refused, match="the loss is nan in step 0"):
        t.advance(train.Clips(arguments(folder), Silent()))
