"""Bad input that only pi0-fast can have. For the rest see pi0's test_bad_input.py."""

import json
import shutil

import numpy as np
import pytest
import srpo_sdk as srpo
from cases import policy
from safetensors.torch import load_file, save_file

from vla_lerobot.testing.cases import demonstration, item


@pytest.fixture
def folder(checkpoint_folder, tmp_path):
    """A copy of a good checkpoint that a test may damage."""
    out = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, out)
    return out


def fails(kind: str, message: str, hint: str = "", **settings) -> None:
    with pytest.raises(srpo.Error) as e:
        policy(**settings)
    assert e.value.kind == kind, e.value
    assert message in str(e.value), e.value
    assert hint in e.value.hint, e.value.hint


def test_no_fast_tokenizer(folder):
    (folder / "action_tokenizer" / "processor_config.json").unlink()
    fails("not found", "no processor_config.json", "lerobot/fast-action-tokenizer", checkpoint=str(folder))
    shutil.rmtree(folder / "action_tokenizer")
    fails("not found", "no tokenizer.json, processor_config.json", "action_tokenizer", checkpoint=str(folder))


def test_a_fast_tokenizer_that_cannot_be_read(folder):
    (folder / "action_tokenizer" / "processor_config.json").write_text('{"scale": 0, "min_token": 1}')
    fails("corrupt", "scale is 0", checkpoint=str(folder))


def test_tokenizers_of_another_model(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "fast_skip_tokens": 1900}))
    fails("mismatch", "FAST tokens end at token 147", "another model", checkpoint=str(folder))


def test_another_architecture(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "type": "pi0"}))
    fails("mismatch", "type is 'pi0', want 'pi0_fast'", "--policy pi0", checkpoint=str(folder))


def test_weights_that_are_not_finite(folder):
    weights = load_file(str(folder / "model.safetensors"))
    weights["model.paligemma_with_expert.paligemma.lm_head.weight"][3] = float("nan")
    save_file(weights, str(folder / "model.safetensors"))
    fails("corrupt", "lm_head.weight has numbers that are not finite", "earlier checkpoint", checkpoint=str(folder))


def test_a_demonstration_with_too_many_tokens(folder):
    p = policy(checkpoint=str(folder), statistics="keep")
    d = demonstration()
    large = srpo.Demonstration(**{**vars(d), "actions": np.sign(np.sin(np.arange(84.0) ** 2)).reshape(12, 7)})
    p.network.config.max_action_tokens = 40
    with pytest.raises(srpo.Error, match="tokens, the checkpoint takes 40") as e:
        p.imitate(srpo.Imitate(1, 5, 2), iter([large]), lambda *_: None)
    assert "max_action_tokens" in e.value.hint
    p.act([item(0)], srpo.Sampling())


def test_too_few_tokens():
    fails("invalid", "max_tokens is 2", "256 is usual", max_tokens=2)


def test_one_matrix_for_embedding_and_head(folder):
    """As in PaliGemma's own files."""
    weights = load_file(str(folder / "model.safetensors"))
    head = weights.pop("model.paligemma_with_expert.paligemma.lm_head.weight")
    save_file(weights, str(folder / "model.safetensors"))
    p = policy(checkpoint=str(folder))
    assert not np.array_equal(p.network.head.weight.detach().numpy(), head.numpy())
    embedding = p.network.joined.paligemma.get_input_embeddings().weight
    np.testing.assert_array_equal(p.network.head.weight.detach().numpy(), embedding.detach().numpy())


def change_fast(folder, change) -> None:
    """Changes the FAST tokenizer of a checkpoint: change gets the contents of its two files."""
    paths = [folder / "action_tokenizer" / name for name in ("tokenizer.json", "processor_config.json")]
    tokenizer, config = (json.loads(path.read_text()) for path in paths)
    change(tokenizer, config)
    for path, value in zip(paths, (tokenizer, config)):
        path.write_text(json.dumps(value))


def test_a_fast_tokenizer_without_a_token_for_a_number(folder):
    """As one that was fitted to few demonstrations. tokenizers leaves such characters out."""
    before = policy(checkpoint=str(folder), statistics="compute").network.fast

    def remove(tokenizer, config):
        for number in (21, 22, 23):  # of the gripper, which is -1 or +1 in most chunks: sqrt(8) * 10 = 28
            tokenizer["model"]["vocab"].pop(chr(number - config["min_token"]))
        tokenizer["model"]["vocab"] = {name: i for i, name in enumerate(tokenizer["model"]["vocab"])}

    change_fast(folder, remove)
    p = policy(checkpoint=str(folder), statistics="compute")
    actions = np.zeros((8, 7))
    actions[:, 2] = 22 / 10 / np.sqrt(8)
    assert before.lost(actions) == ""
    np.testing.assert_allclose(before.decode(before.encode(actions), 8, 7), actions, atol=0.05)
    assert np.abs(p.network.fast.decode(p.network.fast.encode(actions), 8, 7) - actions).max() > 0.5
    assert p.network.fast.lost(actions) == "the tokenizer has no token for coefficient 22"

    d = demonstration()
    with pytest.raises(srpo.Error, match=r"cannot represent [0-9]+ of 12 chunks of the demonstrations: .*2[123]$") as e:
        p.imitate(srpo.Imitate(1, 5, 2), iter([d]), lambda *_: pytest.fail("it trains"))
    assert e.value.kind == "invalid" and e.value.place.startswith("demonstration demo0, step ")
    assert "lerobot/fast-action-tokenizer" in e.value.hint
    assert not p.network.has_data_statistics
    p.act([item(0)], srpo.Sampling())


def test_coefficients_out_of_the_range_of_fast(folder):
    change_fast(folder, lambda tokenizer, config: config.update(min_token=-5))
    p = policy(checkpoint=str(folder), statistics="compute")
    with pytest.raises(srpo.Error, match="is below the tokenizer's smallest, -5"):
        p.imitate(srpo.Imitate(1, 5, 2), iter([demonstration()]), lambda *_: None)
    assert p.network.fast.lost(np.full((8, 7), 1e6)).endswith("is too large")
    assert p.network.fast.lost(np.full((8, 7), np.nan))
