"""Bad input: each gives one error with its place and a hint, and changes nothing."""

import json
import shutil

import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from cases import policy
from safetensors.torch import load_file, save_file
from test_parity import processors

from vla_lerobot.testing.cases import ENV, LIBERO, demonstration, equal, item, record, update


@pytest.fixture
def folder(checkpoint_folder, tmp_path):
    """A copy of a good checkpoint that a test may damage."""
    out = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, out)
    return out


def fails(kind: str, message: str, hint: str = "", env: srpo.EnvSpec = ENV, **settings) -> srpo.Error:
    with pytest.raises(srpo.Error) as e:
        policy(env=env, **settings)
    assert e.value.kind == kind, e.value
    assert message in str(e.value), e.value
    assert hint in e.value.hint, e.value.hint
    return e.value


def edit(path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_weights(folder, change) -> None:
    weights = load_file(str(folder / "model.safetensors"))
    change(weights)
    save_file(weights, str(folder / "model.safetensors"))


def test_neither_checkpoint_nor_preset_or_both():
    fails("invalid", "either checkpoint or preset", "policy.pi0.preset", preset="")
    fails("invalid", "either checkpoint or preset", preset="tiny", checkpoint="x")


def test_no_folder(tmp_path):
    fails("not found", "no folder", "config.json, model.safetensors", checkpoint=str(tmp_path / "nothing"))
    fails(
        "not found", "not a checkpoint: there is no config.json", "policy_preprocessor.json", checkpoint=str(tmp_path)
    )
    fails("not found", "nor in the local hub cache", "download its files", checkpoint="lerobot/pi0_libero")


def test_another_architecture(folder):
    edit(folder / "config.json", lambda c: c.update(type="pi0_fast"))
    fails("mismatch", "type is 'pi0_fast', want 'pi0'", "--policy pi0-fast", checkpoint=str(folder))
    edit(folder / "config.json", lambda c: c.update(type="act"))
    fails("mismatch", "type is 'act'", "use other plugins", checkpoint=str(folder))
    edit(folder / "config.json", lambda c: c.pop("type"))
    fails("mismatch", "type is None", checkpoint=str(folder))


def test_config_that_cannot_be_read(folder):
    edit(folder / "config.json", lambda c: c.update(chunk_size="many"))
    assert "config.json" in fails("corrupt", "lerobot cannot read it", checkpoint=str(folder)).place
    (folder / "config.json").write_text('{"type": "pi0", ')
    fails("corrupt", "cannot be read", "copy the file again", checkpoint=str(folder))


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    fails("not found", "no model.safetensors", "config.json, model.safetensors", checkpoint=str(folder))


def test_weights_that_were_not_saved(tmp_path):
    """With save_merged = false there is only an adapter, which a model with another lora_rank cannot load."""
    policy(lora_rank=4, save_merged=False).save(str(tmp_path))
    fails("not found", "no model.safetensors", "has only an adapter: set checkpoint to", checkpoint=str(tmp_path))
    p = policy(lora_rank=2)
    with pytest.raises(srpo.Error) as e:
        p.load(str(tmp_path))
    assert "save_merged = false" in e.value.hint
    p.act([item(0)], srpo.Sampling())


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    e = fails("corrupt", "cannot be read", "truncated", checkpoint=str(folder))
    assert e.place == str(path)


def test_missing_tensor(folder):
    edit_weights(folder, lambda w: w.pop("model.action_out_proj.weight"))
    fails("corrupt", "1 tensors are missing, the first is model.action_out_proj.weight", checkpoint=str(folder))


def test_unused_heads_may_be_missing(folder):
    before = policy(checkpoint=str(folder)).act([item(0)], srpo.Sampling(greedy=True))[0].actions

    def change(w):
        del w["model.paligemma_with_expert.paligemma.lm_head.weight"]
        del w["model.paligemma_with_expert.gemma_expert.lm_head.weight"]

    edit_weights(folder, change)
    after = policy(checkpoint=str(folder)).act([item(0)], srpo.Sampling(greedy=True))[0].actions
    np.testing.assert_array_equal(before, after)


def test_weights_of_another_shape(folder):
    edit_weights(folder, lambda w: w.update({"model.action_out_proj.bias": torch.zeros(3)}))
    fails("mismatch", "model.action_out_proj.bias is [3], want [32]", "do not fit", checkpoint=str(folder))


def test_weights_of_another_network(folder):
    edit_weights(folder, lambda w: w.update({"model.other.weight": torch.zeros(3)}))
    fails("mismatch", "model.other.weight belongs to another architecture", checkpoint=str(folder))


def test_weights_that_are_not_finite(folder):
    edit_weights(folder, lambda w: w["model.state_proj.bias"].__setitem__(0, float("nan")))
    fails(
        "corrupt", "model.state_proj.bias has numbers that are not finite", "earlier checkpoint", checkpoint=str(folder)
    )


def test_no_statistics(folder):
    for f in folder.glob("policy_p*"):
        f.unlink()
    fails("not found", "no statistics action.mean, action.std", "policy_preprocessor.json", checkpoint=str(folder))
    p = policy(checkpoint=str(folder), statistics="compute")
    assert not p.network.has_data_statistics
    p.imitate(srpo.Imitate(1, 5, 1), iter([demonstration()]), lambda *_: None)
    assert p.network.has_data_statistics


def test_statistics_of_a_checkpoint_without_any(folder, tmp_path):
    """lerobot's processors name no file if there are no statistics. Computed ones are saved nevertheless."""
    for file in folder.glob("policy_p*.json"):
        edit(file, lambda c: [s.pop("state_file", None) for s in c["steps"]])
    for file in folder.glob("policy_p*.safetensors"):
        file.unlink()
    fails("not found", "no statistics action.mean", "policy_preprocessor.json", checkpoint=str(folder))
    p = policy(checkpoint=str(folder), statistics="compute")
    p.imitate(srpo.Imitate(1, 5, 1), iter([demonstration()]), lambda *_: None)
    (tmp_path / "saved").mkdir()
    p.save(str(tmp_path / "saved"))
    q = policy(checkpoint=str(tmp_path / "saved"))
    assert q.network.has_data_statistics
    a, b = (z.act([item(0)], srpo.Sampling(greedy=True))[0].actions for z in (p, q))
    np.testing.assert_allclose(a, b, atol=1e-5)
    _, post = processors(tmp_path / "saved")  # lerobot's own
    mean = p.network.source.statistics["action"]["mean"]
    np.testing.assert_allclose(post(torch.zeros(1, 7))[0].numpy(), mean, atol=1e-6)


def test_a_missing_file_of_statistics(folder):
    (file,) = folder.glob("policy_preprocessor_step_*.safetensors")
    file.unlink()
    assert file.name in str(fails("not found", "a processor refers to this file", checkpoint=str(folder)))


@pytest.mark.parametrize("value", [[0.0] * 3, [float("nan")] * 7])
def test_statistics_that_cannot_be_used(folder, value):
    for file in folder.glob("policy_p*.safetensors"):
        stats = load_file(str(file))
        save_file({**stats, "action.mean": torch.tensor(value), "action.std": torch.tensor(value)}, str(file))
    if len(value) == 3:
        fails("mismatch", "statistics of action have 3 numbers, want 7", checkpoint=str(folder))
    else:
        fails("corrupt", "statistics of action are not finite", checkpoint=str(folder))


def test_another_action_space(folder):
    space = srpo.ActionSpace(["dx", "dy", "dz", "gripper"], [-1] * 4, [1] * 4)
    env = srpo.EnvSpec(ENV.cameras, space, ENV.proprio, "agentview")
    fails("mismatch", "7 action dimensions, the env has 4: dx, dy, dz, gripper", "compute", env, checkpoint=str(folder))
    p = policy(env=env, checkpoint=str(folder), statistics="compute")
    assert p.act([item(0)], srpo.Sampling())[0].actions.shape == (8, 4)


def test_another_proprio(folder):
    env = srpo.EnvSpec(ENV.cameras, LIBERO, ["x"], "agentview")
    fails("mismatch", "8 numbers of state (proprio), the env has 1: x", env=env, checkpoint=str(folder))
    p = policy()
    bad = item(0)
    observation = srpo.Observation(bad.observation.images, np.zeros(3, np.float32), "x")
    with pytest.raises(srpo.Error, match=r"proprio is \[3\], want 8 finite numbers") as e:
        p.act([srpo.ActItem("0/t/0/0", 8, observation, 0)], srpo.Sampling())
    assert e.value.place.startswith("episode 0/t/0/0, step 8")


def test_cameras():
    e = fails("not found", "no camera 'side'", "agentview, eye_in_hand", cameras="image=side")
    assert e.place == "setting cameras"
    fails(
        "invalid",
        "'front=agentview' does not assign a camera to an image input",
        "image inputs: image",
        cameras="front=agentview",
    )
    bad = srpo.ActItem("0/t/0/0", 8, srpo.Observation({}, np.zeros(8, np.float32), "x"), 0)
    with pytest.raises(srpo.Error, match="no image from camera 'agentview'") as e:
        policy().act([bad], srpo.Sampling())
    assert e.value.place == "episode 0/t/0/0, step 8" and "policy.pi0.cameras" in e.value.hint


def test_chunk(folder):
    fails("invalid", "chunk is 9, the checkpoint plans 8 actions", "1 to 8", checkpoint=str(folder), chunk=9)
    assert policy(checkpoint=str(folder), chunk=3).describe().chunk == 3


def test_no_tokenizer(folder):
    shutil.rmtree(folder / "tokenizer")
    fails("not found", "PaliGemma's tokenizer is missing", "tokenizer.json", checkpoint=str(folder))
    fails("not found", "tokenizer is missing", checkpoint=str(folder), tokenizer=str(folder))


def test_token_outside_the_vocabulary(folder):
    path = folder / "tokenizer" / "tokenizer.json"
    value = json.loads(path.read_text())
    value["model"]["vocab"]["▁basket"] = 40000
    path.write_text(json.dumps(value))
    p = policy(checkpoint=str(folder))
    p.act([item(1)], srpo.Sampling())  # another instruction
    with pytest.raises(srpo.Error, match="token 40000, but the model has 2048") as e:
        p.act([item(0)], srpo.Sampling())
    assert e.value.place.startswith("episode 0/t/0/0")


def test_a_missing_device():
    fails("unavailable", "cuda:7", "cpu works", device="cuda:7")


def test_out_of_memory_hints_at_settings_to_lower(monkeypatch):
    p = policy()
    record(p)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(p.network.model, "denoise_step", fail)
    for call in (lambda: p.update(update(), lambda _: None), lambda: p.act([item(0)], srpo.Sampling())):
        with pytest.raises(srpo.Error, match="out of memory while") as e:
            call()
        assert e.value.kind == "exhausted" and "micro_batch" in e.value.hint and "--resume" in e.value.hint
    monkeypatch.undo()
    p.update(update(), lambda _: None)  # nothing was lost


def test_a_saved_folder_with_damaged_weights(tmp_path):
    p, q = policy(), policy()
    record(q)
    q.update(update(), lambda _: None)
    q.save(str(tmp_path))
    edit_weights(tmp_path, lambda w: w["model.state_proj.bias"].__setitem__(0, float("inf")))
    with pytest.raises(srpo.Error, match="not finite"):
        p.load(str(tmp_path))
    assert equal(p, policy())
    p.act([item(0)], srpo.Sampling())


def test_a_greedy_chunk_cannot_be_learned_from():
    p = policy()
    p.act([item(i) for i in range(3)], srpo.Sampling(greedy=True, record=True))
    with pytest.raises(srpo.Error, match="acted greedily") as e:
        p.update(update(), lambda _: None)
    assert e.value.place == "episode 0/t/0/0"
