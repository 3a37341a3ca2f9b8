"""The model that text extension starts from, as a plain Hugging Face folder.

    folder, hub name, or file.gguf -> folder or hub name that every worker loads

A GGUF file holds weights, architecture and tokenizer in one; transformers reads it, but its weights
only whole, and ZeRO, checks and later stages all want a folder. So it is converted once.

What it does not do: quantise. The converted weights are float32.
"""

import copy
import hashlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from longva_ray.lm import released
from longva_ray.lm.layout import OUR_ARCHITECTURE
from longva_ray.lm.weights import resolve, save_folder

ORIGIN = "converted_from.json"


logger = logging.getLogger(__name__)


def prepare_base(model: str, folder: Path) -> str:
    """What to load instead of `model`: itself, or `folder` with the content of a GGUF file.

    Raises ValueError for a GGUF file that is not there, without the packages that read it, or for a
    folder that holds another file's content.
    """
    if not is_gguf(model):
        return model
    place, source = gguf_source(model)
    this = origin(Path(model).expanduser())
    if folder.exists() and (folder / ORIGIN).read_text() != this:
        raise ValueError(
            f"{folder} was converted from another file than {model}; delete it, or give this run "
            "another name"
        )
    if not folder.exists():
        logger.info("converting %s to %s", model, folder)
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
            (fresh / ORIGIN).write_text(this)
    return str(folder)


def origin(file: Path) -> str:
    """What is kept beside converted weights: which file they are."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return json.dumps({"file": file.name, "sha256": digest}, indent=2) + "\n"


def is_longva(path: str) -> bool:
    """Whether a path holds a LongVA checkpoint, ours or a released one, and no plain language
    model."""
    if is_gguf(path):
        return False
    config = json.loads((resolve(path) / "config.json").read_text())
    known = {OUR_ARCHITECTURE, released.ARCHITECTURE}
    return bool(known & set(config.get("architectures") or []))


def fingerprint_checkpoint(path: str) -> str:
    """32 hex digits over a checkpoint's files that decide its answers; reads all weights once.

    Raises ValueError when there is no such checkpoint.
    """
    place, source = transformers_source(path)
    names = [source["gguf_file"]] if source else _files(resolve(path))
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        file = (Path(place) if source else resolve(path)) / name
        digest.update(name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> list[str]:
    kinds = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt")
    names = {file.name for kind in kinds for file in folder.glob(kind)}
    return sorted(names - {"README.md", "model.safetensors.index.json", "recipe.json"})


def transformers_source(path: str) -> tuple[str, dict[str, Any]]:
    """Where transformers loads from, and the keyword that a GGUF file takes."""
    return gguf_source(path) if is_gguf(path) else (str(resolve(path)), {})


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


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, Hugging Face id or GGUF file.

    Raises ValueError when there is none.
    """
    from longva_ray.lm.layout import register_longva

    register_longva()
    place, source = gguf_source(checkpoint) if is_gguf(checkpoint) else (checkpoint, {})
    try:
        return AutoTokenizer.from_pretrained(place, **source)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a tokenizer from {checkpoint}: {error}") from error


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """32 hex digits over the serialised tokenizer: equal for tokenizers that give equal tokens.

    Truncation and padding are left out: they are state that a call leaves behind, and no shard is
    made with them. A tokenizer without a serialised form is known by its class and vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        described = json.loads(backend.to_str())
        described.pop("truncation", None)
        described.pop("padding", None)
    else:
        described = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    text = json.dumps(described, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
