"""GGUF files: where transformers finds one, what is said when it cannot, and converting once."""

from pathlib import Path

import pytest

from longva_ray.lm import gguf
from longva_ray.lm.gguf import ORIGIN, describe_origin, gguf_source, is_gguf, prepare_base


def test_only_the_suffix_decides() -> None:
    assert is_gguf("models/SmolLM2.Q4_1.gguf")
    assert not is_gguf("Qwen/Qwen2-7B-Instruct-GGUF")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no GGUF file .*missing\.gguf"):
        gguf_source(tmp_path / "missing.gguf")
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"pointer\.gguf is no GGUF file: .*git lfs pull"):
        gguf_source(tmp_path / "pointer.gguf")


def test_folder_and_name_or_the_packages_that_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: name)
    assert gguf_source(file) == (str(tmp_path), {"gguf_file": "model.gguf"})
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'longva-ray\[gguf\]'"):
        gguf_source(file)


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
    (folder / ORIGIN).write_text(describe_origin(first))
    assert prepare_base(str(first), folder) == str(folder)
    with pytest.raises(ValueError, match=r"converted from another file than .*second\.gguf"):
        prepare_base(str(second), folder)
