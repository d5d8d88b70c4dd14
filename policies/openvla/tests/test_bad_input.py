"""Bad folders, envs and observations: each gives one error with its place and a hint."""

import json
import shutil
from pathlib import Path

import cases
import huggingface_hub
import numpy as np
import pytest
import srpo_sdk as srpo
import torch
from safetensors.torch import load_file, save_file
from subject import ENV, demonstration, item, policy, record, update

import checkpoint
from vla import optimiser


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of a good checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoints("oft"), tmp_path / "checkpoint"))


def fails(kind: str, *expected: str, env: srpo.EnvSpec = ENV, **settings) -> srpo.Error:
    with pytest.raises(srpo.Error) as e:
        policy(env, **settings)
    text = f"{e.value.place} {e.value.message} {e.value.hint}"
    assert e.value.kind == kind and e.value.place and e.value.hint, text
    for part in expected:
        assert part in text
    return e.value


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_neither_checkpoint_nor_preset_or_both(folder):
    fails("invalid", "either checkpoint or preset", "policy.openvla.preset", preset="")
    fails("invalid", "either", preset="tiny", checkpoint=str(folder))


def test_no_folder(tmp_path):
    fails("not found", "no folder", checkpoint=str(tmp_path / "nowhere"))


def test_a_hub_id(folder, tmp_path, monkeypatch):
    """It is found in the user's cache. If a weight file is missing there and the hub is offline, the hint helps."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub = tmp_path / ".cache/huggingface/hub/models--some--vla"
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("0" * 40)
    cached = Path(shutil.copytree(folder, hub / "snapshots" / ("0" * 40)))
    assert checkpoint.locate("some/vla") == str(cached)
    (cached / "model.safetensors").unlink()
    fails("not found", "'some/vla' is not a folder, and cannot be downloaded", "give its folder", checkpoint="some/vla")


def test_a_folder_without_checkpoint(tmp_path):
    fails("not found", "config.json", "safetensors", checkpoint=str(tmp_path))


def test_only_an_adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    fails("not found", "only a LoRA adapter", "set checkpoint to", checkpoint=str(tmp_path))


def test_another_architecture(folder):
    edit(folder / "config.json", lambda c: c.update(model_type="llava"))
    fails("mismatch", "'llava'", "want 'openvla'", checkpoint=str(folder))


def test_unsupported_parts_of_a_checkpoint(folder, monkeypatch):
    """OpenVLA-OFT with continuous actions has the same config.json, but its tokens mean nothing."""
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: ["config.json", "proprio_projector--9_x.pt"])
    fails("unsupported", "has proprio_projector--9_x.pt", "discrete tokens", checkpoint="some/oft")
    (folder / "action_head--50000_checkpoint.pt").write_bytes(b"")
    fails("unsupported", str(folder), "has action_head--50000_checkpoint.pt", checkpoint=str(folder))


def test_a_config_that_describes_no_network(folder):
    path = folder / "config.json"
    original = path.read_text()
    edit(path, lambda c: c["text_config"].update(num_attention_heads="many"))
    fails("mismatch", "config.json", "no network can be built", checkpoint=str(folder))
    path.write_text(original)
    edit(path, lambda c: c.update(timm_model_ids=["no_such_backbone"] * 2))
    fails("mismatch", "no_such_backbone", checkpoint=str(folder))


def test_another_backbone(folder):
    edit(folder / "config.json", lambda c: c.update(vision_backbone_id="resnet", timm_model_ids=None))
    fails("mismatch", "'resnet'", checkpoint=str(folder))


def test_config_of_another_size(folder):
    edit(folder / "config.json", lambda c: c["text_config"].update(hidden_size=32))
    fails("mismatch", "want [", "model.safetensors", checkpoint=str(folder))


def test_damaged_config(folder):
    (folder / "config.json").write_text('{"model_type":')
    fails("corrupt", "config.json", checkpoint=str(folder))


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    fails("corrupt", "model.safetensors", "truncated", checkpoint=str(folder))


def test_missing_weight_file(folder):
    (folder / "model.safetensors").unlink()
    fails("not found", "no weights", checkpoint=str(folder))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    fails("corrupt", "model-00001-of-00002.safetensors", checkpoint=str(folder))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')
    fails("corrupt", "weight_map", "index.json", checkpoint=str(folder))


def test_weights_that_were_not_saved(tmp_path):
    """With save_merged = false there is only an adapter, which a model with another lora_rank cannot load."""
    policy(lora_rank=4, save_merged=False).save(str(tmp_path))
    fails("not found", "has only an adapter", "set checkpoint to the model", checkpoint=str(tmp_path))
    p = policy(lora_rank=2)
    with pytest.raises(srpo.Error) as e:
        p.load(str(tmp_path))
    assert "save_merged = false" in e.value.hint
    p.act([item(0)], srpo.Sampling())


def test_missing_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["projector.fc2.weight"]
    save_file(tensors, folder / "model.safetensors")
    fails("corrupt", "projector.fc2.weight", checkpoint=str(folder))


def test_weights_that_are_not_finite(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["projector.fc1.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    fails("corrupt", "projector.fc1.bias", "not finite", "earlier checkpoint", checkpoint=str(folder))


def test_statistics_of_another_data_set(folder):
    fails("not found", "'bridge'", "one of: tiny", checkpoint=str(folder), unnorm_key="bridge")
    p = policy(checkpoint=str(folder), unnorm_key="bridge", statistics="compute")
    assert p.network.key == "bridge" and not p.network.has_data_statistics


def test_several_data_sets(folder):
    def add_data_set(s):
        s["libero_object_no_noops"] = s["tiny"]

    edit(folder / "dataset_statistics.json", add_data_set)
    fails("not found", "2 data sets", "libero_object_no_noops, tiny", checkpoint=str(folder))
    assert policy(checkpoint=str(folder), unnorm_key="libero_object").network.key == "libero_object_no_noops"


def test_no_statistics_at_all(folder):
    (folder / "dataset_statistics.json").unlink()
    assert policy(checkpoint=str(folder)).network.key == "tiny"  # config.json has them as well
    edit(folder / "config.json", lambda c: c.pop("norm_stats"))
    expected = ("no action statistics", "neither dataset_statistics.json nor norm_stats", 'statistics = "compute"')
    fails("not found", *expected, checkpoint=str(folder))
    fails("not found", *expected, checkpoint=str(folder), unnorm_key="libero_object")
    p = policy(checkpoint=str(folder), statistics="compute")
    p.imitate(srpo.Imitate(1, 5, 1), iter([demonstration()]), lambda *_: None)
    assert p.network.has_data_statistics


def test_statistics_that_cannot_be_used(folder):
    edit(folder / "dataset_statistics.json", lambda s: s["tiny"]["action"].update(q99=[1.0, float("nan")]))
    fails("corrupt", "dataset_statistics.json", "q01, q99", checkpoint=str(folder))


def test_another_action_space(folder):
    space = srpo.ActionSpace(["dx", "dy", "dz", "gripper"], [-1] * 4, [1] * 4)
    env = srpo.EnvSpec([srpo.Camera("front", 64, 64)], space)
    expected = ("7 action dimensions, the env has 4: dx, dy, dz, gripper", 'statistics = "compute"')
    fails("mismatch", *expected, checkpoint=str(folder), env=env)
    p = policy(env, checkpoint=str(folder), statistics="compute", unnorm_key="mine")
    observation = srpo.Observation({"front": cases.frame(0, 64, 64)}, None, "lift the cup")
    assert p.act([srpo.ActItem("0/t/0/0", 0, observation, 0)], srpo.Sampling())[0].actions.shape == (8, 4)


def test_missing_camera():
    fails("not found", "policy openvla, setting camera", "no camera 'wrist'", "agentview", camera="wrist")
    bad = srpo.ActItem("0/t/0/0", 8, srpo.Observation({}, None, "x"), 0)
    with pytest.raises(srpo.Error, match="no image from camera 'agentview'") as e:
        policy().act([bad], srpo.Sampling())
    assert e.value.place == "episode 0/t/0/0, step 8" and "policy.openvla.camera" in e.value.hint


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    fails("not found", "tokenizer.json", checkpoint=str(folder))


def test_token_outside_the_vocabulary(folder):
    text = (folder / "tokenizer.json").read_text()
    assert '"basket":' in text
    changed = json.loads(text)
    changed["model"]["vocab"]["basket"] = 40000
    (folder / "tokenizer.json").write_text(json.dumps(changed))
    p = policy(checkpoint=str(folder))
    p.act([item(1)], srpo.Sampling())  # another instruction
    with pytest.raises(srpo.Error, match="token 40000, but the model has 32064") as e:
        p.act([item(0)], srpo.Sampling())
    assert e.value.place.startswith("episode 0/t/0/0")


def test_a_missing_device():
    fails("unavailable", "cuda:7", "cpu works", device="cuda:7")


def test_out_of_memory_hints_at_settings_to_lower(monkeypatch):
    p = policy()
    record(p)

    errors = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ]

    def refused(call):
        with pytest.raises(srpo.Error, match="out of memory while") as e:
            call()
        assert e.value.kind == "exhausted" and "micro_batch" in e.value.hint and "--resume" in e.value.hint

    for error in errors:

        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as m:
            m.setattr(p.network, "_parallel_hidden", fail)
            refused(lambda: p.update(update(), lambda _: None))
            refused(lambda: p.act([item(0)], srpo.Sampling()))
        with monkeypatch.context() as m:
            m.setattr(optimiser, "Snapshot", fail)
            refused(lambda: p.update(update(), lambda _: None))
    p.update(update(), lambda _: None)  # nothing was lost


def test_more_records_than_record_mb():
    with pytest.raises(srpo.Error, match="record_mb = 1") as e:
        p = policy(record_mb=1)
        for _ in range(3):
            record(p)
            p.records["other" + str(len(p.records))] = p.records.pop("0/t/0/0")
    assert e.value.kind == "exhausted"


def test_invalid_demonstrations():
    p = policy()
    d = demonstration()
    bad = [
        (vars(d) | {"success": False}, "no successful demonstration, 1 failed"),
        (vars(d) | {"actions": np.zeros((12, 4), np.float32)}, r"want \[T, 7\]"),
        (vars(d) | {"images": {"front": d.images["agentview"]}}, "no image from camera 'agentview'"),
    ]
    for values, message in bad:
        with pytest.raises(srpo.Error, match=message):
            p.imitate(srpo.Imitate(1, 0, 1), iter([srpo.Demonstration(**values)]), lambda *_: None)
    assert p.network.source.statistics["tiny"]["num_transitions"] == 0


def test_no_env():
    with pytest.raises(srpo.Error, match="no env"):
        policy(None)
