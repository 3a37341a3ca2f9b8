"""Files of weights that cannot be read: the error names the file, what it is, and what helps."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from longva_ray.lm.base_models import kind_of_checkpoint
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
