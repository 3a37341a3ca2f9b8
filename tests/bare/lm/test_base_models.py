"""Which checkpoint a path holds, and the language model that anything of them gives."""

import json
from pathlib import Path

import pytest
import torch

from longva_ray.lm.base_models import is_longva, kind_of_checkpoint
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.lm.language_model import language_config, load_language_model


def folder_with(tmp_path: Path, **config: object) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LongVAForConditionalGeneration"]}, "longva"),
        # What LongVA-7B on the hub says of itself: only the architecture tells it from Qwen2.
        ({"architectures": ["LlavaQwenForCausalLM"], "model_type": "qwen2"}, "released"),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "causal"),
        ({"model_type": "longva"}, "causal"),
    ],
)
def test_the_architecture_decides(tmp_path: Path, config: dict[str, object], kind: str) -> None:
    folder = folder_with(tmp_path, **config)
    assert kind_of_checkpoint(folder) == kind
    assert is_longva(folder) == (kind in ("longva", "released"))


def test_a_gguf_file_is_told_by_its_name() -> None:
    assert kind_of_checkpoint("somewhere/model.gguf") == "gguf"
    assert not is_longva("somewhere/model.gguf")


def test_a_folder_without_a_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json; the result of a run is in its"):
        kind_of_checkpoint(tmp_path)


def test_any_language_model_is_loaded_alike(random_lm: str, tiny_checkpoint: str) -> None:
    plain = load_language_model(random_lm, dtype=torch.float32)
    assert (tuple(plain.placeholder_ids), plain.max_prompt_tokens) == ((), None)
    assert plain.model.generation_config.eos_token_id == plain.tokenizer.eos_token_id
    half = load_language_model(tiny_checkpoint, dtype=torch.float32)
    assert list(half.placeholder_ids) == half.tokenizer.convert_tokens_to_ids(
        ["<image>", "<video>"]
    )
    for path, loaded in ((random_lm, plain), (tiny_checkpoint, half)):
        assert not loaded.model.training
        raised = load_language_model(path, dtype=torch.float32, rope_theta=1e7)
        assert raised.model.config.rope_parameters["rope_theta"] == 1e7
        assert language_config(path, rope_theta=1e7).rope_parameters["rope_theta"] == 1e7
        own = language_config(path)
        assert own.rope_parameters == loaded.model.config.rope_parameters
        assert own.hidden_size == loaded.model.config.hidden_size


def test_fingerprints_are_of_what_decides_answers(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, architectures=["Qwen2ForCausalLM"])
    (folder / "model.safetensors").write_bytes(b"weights")
    first = fingerprint_checkpoint(str(folder))
    (folder / "README.md").write_text("A model.")
    assert fingerprint_checkpoint(str(folder)) == first
    (folder / "model.safetensors").write_bytes(b"others")
    assert fingerprint_checkpoint(str(folder)) != first
