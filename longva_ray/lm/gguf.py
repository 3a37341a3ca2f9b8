"""GGUF files: weights, architecture and tokenizer of a language model in one file.

    file.gguf -> folder that every worker loads

Transformers reads such a file, but always all of its weights, and ZeRO, checks and later stages
want a folder. So training converts it once; the tests of a model read it as it is.

What it does not do: quantise. The converted weights are float32.
"""

import copy
import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from longva_ray.files.places import expanded
from longva_ray.lm.weights import checkpoint_folder, looks_like, save_folder

ORIGIN = "converted_from.json"
"""File in a converted folder that says which GGUF file it was."""


MAGIC = b"GGUF"
"""What every GGUF file begins with."""


logger = logging.getLogger(__name__)


def is_gguf(model: str | Path) -> bool:
    """Whether a model is named as a GGUF file."""
    return str(model).endswith(".gguf")


def gguf_source(file: str | Path) -> tuple[str, dict[str, Any]]:
    """Where transformers loads a GGUF file from, and the keyword it takes.

    Raises ValueError for a file that is not there or no GGUF file, or without the packages that
    read it.
    """
    file = expanded(file)
    if not file.is_file():
        raise ValueError(f"no GGUF file {file}; give its path, ending in .gguf")
    with file.open("rb") as content:
        if content.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{file} is no GGUF file: {looks_like(file)}; download it again")
    if not all(importlib.util.find_spec(package) for package in ("gguf", "accelerate")):
        raise ValueError(
            f"{file}: transformers reads it with gguf and accelerate; pip install "
            "'longva-ray[gguf]'"
        )
    return str(file.parent), {"gguf_file": file.name}


def transformers_source(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Where transformers loads from, and the keyword that a GGUF file takes."""
    return gguf_source(path) if is_gguf(path) else (str(checkpoint_folder(path)), {})


def prepare_base(model: str, folder: Path) -> str:
    """What training loads instead of `model`: itself, or `folder` with what a GGUF file holds.

    Raises ValueError for a GGUF file that is not there, without the packages that read it, or for a
    folder that holds another file's content.
    """
    if not is_gguf(model):
        return model
    place, source = gguf_source(model)
    origin = describe_origin(expanded(model))
    if not folder.exists():
        logger.info("converting %s to %s", model, folder)
        _convert(place, source, folder, origin)
    elif (folder / ORIGIN).read_text() != origin:
        raise ValueError(
            f"{folder} was converted from another file than {model}; delete it, or give this run "
            "another name"
        )
    return str(folder)


def describe_origin(file: Path) -> str:
    """What is kept with converted weights: which file they come from."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return json.dumps({"file": file.name, "sha256": digest}, indent=2) + "\n"


def _convert(place: str, source: dict[str, Any], folder: Path, origin: str) -> None:
    # Here, because a model's classes take seconds to load: whoever only asks what a file is should
    # not wait for them.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place, **source)
    read = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **source)
    # A model read from GGUF counts as quantised, which transformers refuses to write.
    config = copy.deepcopy(read.config)
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    with save_folder(folder) as fresh:
        tokenizer.save_pretrained(fresh)
        plain.save_pretrained(fresh)
        (fresh / ORIGIN).write_text(origin)
