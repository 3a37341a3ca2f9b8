"""What training starts from: a folder as it is, or what a GGUF file was converted into."""

from pathlib import Path

import pytest

from longva_ray.lm import base_models as gguf
from longva_ray.lm.base_models import ORIGIN, origin, prepare_base


def test_anything_but_a_gguf_file_is_itself(tmp_path: Path) -> None:
    assert prepare_base("Qwen/Qwen2-7B-Instruct", tmp_path / "base") == "Qwen/Qwen2-7B-Instruct"
    assert not (tmp_path / "base").exists()


def test_what_was_converted_from_another_file_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: name)
    first, second, folder = tmp_path / "first.gguf", tmp_path / "second.gguf", tmp_path / "base"
    first.write_bytes(b"GGUF 1")
    second.write_bytes(b"GGUF 2")
    folder.mkdir()
    (folder / ORIGIN).write_text(origin(first))
    assert prepare_base(str(first), folder) == str(folder)
    with pytest.raises(ValueError, match=r"converted from another file than .*second\.gguf"):
        prepare_base(str(second), folder)
