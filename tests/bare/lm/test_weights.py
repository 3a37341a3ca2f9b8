"""Files of weights that cannot be read: the error names the file, what it is, and what helps."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longva_ray.lm.base_models import kind_of_checkpoint, load_tokenizer, stored_dtype
from longva_ray.lm.join import assemble_longva
from longva_ray.lm.language_model import load_language_model
from longva_ray.lm.load import load_frame_encoder, load_longva
from longva_ray.lm.split import split_longva
from longva_ray.lm.weights import check_readable, read_tensors

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 15000000\n"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (LFS, "a Git-LFS pointer.*git lfs pull"),
        (b"<html>log in</html>", "a web page"),
        (b"", "it is empty"),
        (None, "has [0-9,]+ bytes and is cut short"),
        (pickle.dumps({"a": Path("b")}), "of another format"),
    ],
)
def test_a_damaged_file_says_what_it_looks_like(
    tmp_path: Path, name: str, content: bytes | None, looks_like: str
) -> None:
    file = tmp_path / name
    tensors = {"a": torch.ones(1000)}
    if name.endswith(".bin"):
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    assert read_tensors(tmp_path, str, torch.float32)["a"].sum() == 1000
    check_readable(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ValueError, match=f"{name} cannot be read: .*{looks_like}.*download"):
        read_tensors(tmp_path, str, torch.float32)
    with pytest.raises(ValueError, match="cannot be read"):
        check_readable(tmp_path)


def test_a_damaged_json_file_says_so_too(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(LFS)
    with pytest.raises(ValueError, match=r"config\.json cannot be read: .*git lfs pull"):
        kind_of_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"index\.json cannot be read: .*git lfs pull"):
        read_tensors(tmp_path, str, torch.float32)


FP32 = torch.float32


@pytest.fixture
def whole(tiny_checkpoint: str, tmp_path: Path) -> Path:
    """longva-tiny, to be damaged."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "whole"))


@pytest.fixture
def language(tiny_checkpoint: str, tmp_path: Path) -> Path:
    """Its language model alone, as transformers stores one."""
    split_longva(tiny_checkpoint, tmp_path / "halves")
    return tmp_path / "halves" / "language_model"


def edit(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """Write other weights, or leave out those that become None."""
    file = folder / "model.safetensors"
    found = {name: change(name, weight) for name, weight in load_file(file).items()}
    kept = {name: weight.contiguous() for name, weight in found.items() if weight is not None}
    save_file(kept, file, metadata={"format": "pt"})


SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize("name", SMALL)
def test_any_small_file_that_is_damaged_is_named(whole: Path, language: Path, name: str) -> None:
    for folder in (whole, language):
        for content in (LFS, b"", b"<html>", b"[1]", b"null", b'{"a": '):
            (folder / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{folder}/{name} cannot be read: "):
                load_language_model(folder, dtype=FP32)
            if name != "generation_config.json":
                with pytest.raises(ValueError, match=rf"{folder}/{name} cannot be read: "):
                    load_tokenizer(str(folder))


def test_a_file_that_is_valid_and_says_nothing_names_its_folder(whole: Path) -> None:
    (whole / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=rf"{whole} cannot be read: KeyError"):
        load_longva(whole, dtype=FP32)


def divided(folder: Path) -> dict[str, str]:
    """Divide the weights into two files with an index; returns what the index maps."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {
        name: f"model-{2 * place // len(names)}.safetensors" for place, name in enumerate(names)
    }
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, files)
    return files


def write_index(folder: Path, weight_map: object) -> None:
    content = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def test_an_index_that_is_wrong_is_named(whole: Path, language: Path) -> None:
    for folder in (whole, language):
        files = divided(folder)
        load_language_model(folder, dtype=FP32)
        for wrong in (None, [1], {"a": 1}):
            write_index(folder, wrong)
            with pytest.raises(ValueError, match=rf"{folder}/.*index.json has no weight_map"):
                load_language_model(folder, dtype=FP32)
        write_index(folder, files)
        (folder / "model-1.safetensors").unlink()
        with pytest.raises(ValueError, match=rf"{folder}/model-1.safetensors is not there"):
            load_language_model(folder, dtype=FP32)


def test_an_index_that_names_another_file_for_a_weight_is_told(whole: Path) -> None:
    files = divided(whole)
    name = "frame_encoder.projector.linear_1.bias"
    write_index(whole, files | {name: "model-1.safetensors"})
    with pytest.raises(ValueError, match=rf"model-1.safetensors lacks {name}, which the index"):
        load_frame_encoder(whole, dtype=FP32)


def test_weights_that_are_missing_or_of_another_shape_name_their_folder(
    whole: Path, language: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    for folder in (whole, language):
        edit(folder, lambda name, weight: weight[:-1] if "q_proj.weight" in name else weight)
        with pytest.raises(ValueError, match=rf"{folder} has .* of another shape.*\[127, 128\]"):
            load_language_model(folder, dtype=FP32)
        with pytest.raises(ValueError, match=rf"{folder} with .* of another shape"):
            assemble_longva(folder, tiny_checkpoint, seed=0, path=tmp_path / "joined")
    with pytest.raises(ValueError, match=rf"{whole} has .* of another shape.*\[95, 96\]"):
        load_frame_encoder(whole, dtype=FP32)
    edit(language, lambda name, weight: None if "layers.1" in name else weight)
    with pytest.raises(ValueError, match=rf"{language} lacks 13 weight"):
        load_language_model(language, dtype=FP32)  # transformers alone would draw random ones


def test_weights_that_no_layer_takes_are_refused(whole: Path, language: Path) -> None:
    """A model of fewer layers, or without its biases, would answer wrongly and say nothing."""
    for folder, load in ((whole, load_longva), (whole, load_language_model)):
        config = json.loads((folder / "config.json").read_text())
        for change in ({"num_hidden_layers": 1}, {"attention_bias": False}):
            changed = {**config, "text_config": {**config["text_config"], **change}}
            (folder / "config.json").write_text(json.dumps(changed))
            with pytest.raises(ValueError, match=r"whole has .* that no layer of its config"):
                load(folder, dtype=FP32)
        (folder / "config.json").write_text(json.dumps(config))
        load(folder, dtype=FP32)
    config = json.loads((language / "config.json").read_text())
    (language / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"layers\.1\."):
        load_language_model(language, dtype=FP32)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_numbers_that_are_no_weights_by_themselves_are_refused(
    whole: Path, dtype: torch.dtype
) -> None:
    edit(whole, lambda _, weight: weight.to(dtype))
    for load in (load_language_model, load_longva, load_frame_encoder):
        with pytest.raises(ValueError, match=rf"{whole}/model.safetensors has .* is quantised"):
            load(whole, dtype=FP32)


@pytest.mark.parametrize("content", [[torch.ones(3)], torch.ones(3), None])
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin cannot be read: .*want tensors"):
        read_tensors(tmp_path, str, FP32)
    torch.save({"a": torch.ones(3), "step": 5}, tmp_path / "pytorch_model.bin")
    assert list(read_tensors(tmp_path, str, FP32)) == ["a"]


@pytest.mark.parametrize(("name", "dtype"), [("torch.float16", torch.float16), (None, FP32)])
def test_the_number_format_that_a_checkpoint_names(
    whole: Path, name: str | None, dtype: torch.dtype
) -> None:
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps(config | {"dtype": name}))
    assert stored_dtype(whole) == dtype
    for wrong in ("int8", "nonsense", "float8_e4m3fn", "nn"):
        (whole / "config.json").write_text(json.dumps(config | {"dtype": wrong}))
        with pytest.raises(ValueError, match=rf"names '{wrong}' as its number format"):
            stored_dtype(whole)
