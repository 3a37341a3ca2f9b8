"""GGUF: one file that holds weights, architecture and tokenizer, as llama.cpp reads it.

file.gguf -> (folder, {"gguf_file": name}) for transformers' `from_pretrained`
"""

import importlib.util
from pathlib import Path
from typing import Any


def is_gguf(model: str) -> bool:
    return model.endswith(".gguf")


def gguf_source(file: str | Path) -> tuple[str, dict[str, Any]]:
    """Where transformers loads a GGUF file from, and the keyword it takes.

    Raises ValueError for a file that is not there, or without the packages that read it.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise ValueError(f"no GGUF file {file}; give its path, ending in .gguf")
    if not all(importlib.util.find_spec(package) for package in ("gguf", "accelerate")):
        raise ValueError(
            f"{file}: transformers reads it with gguf and accelerate; pip install "
            "'longva-ray[gguf]'"
        )
    return str(file.parent), {"gguf_file": file.name}
