"""Either half of a checkpoint: a LongVA one goes wherever one of its halves goes; cut towers."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from longva_ray.lm.halves import language_half, tower_half
from longva_ray.lm.join import assemble_longva
from longva_ray.lm.language_model import language_config, load_language_model
from longva_ray.lm.load import load_frame_encoder, load_longva
from longva_ray.lm.longva import LongVAForConditionalGeneration
from longva_ray.lm.longva_config import LongVAConfig
from longva_ray.lm.split import split_longva

MakeConfig = Callable[..., LongVAConfig]

FP32 = torch.float32


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: value for name, value in config.items() if value}))


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    weights = other.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.fixture(scope="module")
def halves(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """longva-tiny, split."""
    out = tmp_path_factory.mktemp("split") / "out"
    split_longva(tiny_checkpoint, out)
    return out


def test_both_halves_are_plain_folders_of_transformers(halves: Path, tiny_checkpoint: str) -> None:
    whole, processor = load_longva(tiny_checkpoint, dtype=FP32)
    language = AutoModelForCausalLM.from_pretrained(halves / "language_model")
    assert language.dtype == FP32
    assert same_weights(whole.language_model, language)
    tokenizer = AutoTokenizer.from_pretrained(halves / "language_model")
    assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    tower = CLIPVisionModel.from_pretrained(halves / "tower")
    assert (tower.config.num_hidden_layers, tower.config.layers_of_whole_tower) == (3, 4)
    assert same_weights(whole.frame_encoder.tower.clip, tower)
    files = [file for file in halves.rglob("*") if file.is_file()]
    assert len({file.stat().st_mode for file in files}) == 1  # the weights are not ours alone


@pytest.mark.parametrize("language", ["whole", "half"])
@pytest.mark.parametrize("tower", ["whole", "half"])
def test_a_checkpoint_is_joined_from_itself_or_its_halves(
    halves: Path, tiny_checkpoint: str, tmp_path: Path, language: str, tower: str
) -> None:
    """The same tower is read at the same layer, however it was stored."""
    assemble_longva(
        tiny_checkpoint if language == "whole" else halves / "language_model",
        tiny_checkpoint if tower == "whole" else halves / "tower",
        seed=1,
        path=tmp_path / "joined",
        projector="align",
    )
    model, processor = load_longva(tmp_path / "joined", dtype=FP32)
    first, first_processor = load_longva(tiny_checkpoint, dtype=FP32)
    assert model.config.placeholder_ids == first.config.placeholder_ids
    assert processor.tokenizer.get_vocab() == first_processor.tokenizer.get_vocab()
    assert same_weights(model.language_model, first.language_model)
    assert (model.config.vision.num_hidden_layers, model.config.vision_feature_layer) == (4, -2)
    assert same_weights(model.frame_encoder.tower, first.frame_encoder.tower)


@pytest.mark.parametrize(("feature_layer", "kept"), [(-1, 4), (-2, 3), (-3, 2), (1, 1)])
def test_a_cut_tower_is_read_at_its_last_layer(
    make_config: MakeConfig,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    feature_layer: int,
    kept: int,
) -> None:
    """Not at the one before, which is what counting from the end of what is left would give."""
    config = copy.deepcopy(make_config())
    config.vision.num_hidden_layers, config.vision_feature_layer = 4, feature_layer
    whole = LongVAForConditionalGeneration(config)
    clip = whole.frame_encoder.tower.clip
    clip.save_pretrained(tmp_path / "cut")
    whole.language_model.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    assemble_longva(tmp_path / "text", tmp_path / "cut", seed=0, path=tmp_path / "joined")
    encoder = load_frame_encoder(tmp_path / "joined", dtype=FP32)
    assert len(encoder.tower.clip.encoder.layers) == kept
    assert same_weights(clip, encoder.tower.clip)
    # As saved by a program that does not say how many layers there were.
    change_config(tmp_path / "cut", layers_of_whole_tower=None)
    refusal = f"holds {kept} layers and no post_layernorm.*whole tower"
    if kept == 1:
        refusal = "selects no layer of a tower with 1"
    with pytest.raises(ValueError, match=refusal):
        assemble_longva(tmp_path / "text", tmp_path / "cut", seed=0, path=tmp_path / "again")
    change_config(tmp_path / "cut", layers_of_whole_tower=4)
    assert tower_half(tmp_path / "cut").feature_layer == kept - 5


def test_a_whole_tower_of_as_many_layers_is_no_cut_one(
    clip_config: CLIPVisionConfig, tmp_path: Path
) -> None:
    CLIPVisionModel(clip_config).save_pretrained(tmp_path)
    tower = tower_half(tmp_path)
    assert (tower.config.num_hidden_layers, tower.feature_layer) == (3, -2)
    assert {name.split(".")[5] for name in tower.tensors(FP32) if ".layers." in name} == {"0", "1"}


def test_what_lacks_a_half_says_so(
    clip_config: CLIPVisionConfig, halves: Path, tmp_path: Path
) -> None:
    CLIPVisionModel(clip_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="CLIPVisionConfig, want a language model or a LongVA"):
        language_half(tmp_path)
    with pytest.raises(ValueError, match="LlamaConfig, want a CLIP vision tower"):
        tower_half(halves / "language_model")
    with pytest.raises(ValueError, match="is a GGUF file, want a folder"):
        language_half("model.gguf")


def test_the_language_model_of_longva_is_stretched_like_any_other(
    halves: Path, tiny_checkpoint: str
) -> None:
    """What training starts from, whichever of the two is named."""
    for path in (tiny_checkpoint, halves / "language_model"):
        loaded = load_language_model(path, dtype=FP32, rope_theta=1e7, max_positions=4096).model
        config = language_config(path, rope_theta=1e7, max_positions=4096)
        for each in (loaded.config, config):
            assert each.rope_parameters["rope_theta"] == 1e7
            assert (each.max_position_embeddings, each.vocab_size) == (4096, 664)
    own = AutoConfig.from_pretrained(halves / "language_model")
    assert (own.max_position_embeddings, language_config(tiny_checkpoint).vocab_size) == (1024, 664)


def test_a_trained_projector_goes_into_a_new_checkpoint(
    tiny_checkpoint: str, tmp_path: Path
) -> None:
    """To AnyRes, which adds a newline, and back; its words are those of the language model."""

    def joined(name: str, **changes: Any) -> LongVAForConditionalGeneration:
        assemble_longva(tiny_checkpoint, tiny_checkpoint, seed=0, path=tmp_path / name, **changes)
        return load_longva(tmp_path / name, dtype=FP32)[0]

    first = joined("first", projector_of=tiny_checkpoint)
    whole, _ = load_longva(tiny_checkpoint, dtype=FP32)
    for layer in ("linear_1", "linear_2"):
        trained = whole.frame_encoder.projector.get_submodule(layer)
        assert same_weights(trained, first.frame_encoder.projector.get_submodule(layer))
    words = first.frame_encoder.projector.words
    assert words is not None
    assert torch.equal(words.embeddings_WD, first.get_input_embeddings().weight)
    assert (first.config.projector, first.config.encoding) == ("align", "unires")

    anyres = joined("anyres", encoding="anyres", projector_of=tiny_checkpoint)
    assert same_weights(first, anyres)
    newline = anyres.frame_encoder.projector.newline
    assert newline is not None
    assert newline.weight.std() > 0
    assert same_weights(
        anyres, joined("again", encoding="anyres", projector_of=tmp_path / "anyres")
    )
    back = joined("back", projector_of=tmp_path / "anyres")
    assert same_weights(back, first)
    assert back.frame_encoder.projector.newline is None
