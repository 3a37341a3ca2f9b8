"""Where transformers finds a GGUF file, and what is said when it cannot."""

from pathlib import Path

import pytest

from longva_ray.lm import base_models as gguf
from longva_ray.lm.base_models import gguf_source, is_gguf


def test_only_the_suffix_decides() -> None:
    assert is_gguf("models/SmolLM2.Q4_1.gguf")
    assert not is_gguf("Qwen/Qwen2-7B-Instruct-GGUF")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no GGUF file .*missing\.gguf"):
        gguf_source(tmp_path / "missing.gguf")


def test_folder_and_name_or_the_packages_that_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: name)
    assert gguf_source(file) == (str(tmp_path), {"gguf_file": "model.gguf"})
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'longva-ray\[gguf\]'"):
        gguf_source(file)
