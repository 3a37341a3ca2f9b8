"""Which checkpoint is this? The one answer, for everybody who is given a model by name.

    folder | hub name | file.gguf -> "longva" | "released" | "causal" | "gguf"

Told by the file's suffix and by `architectures` in config.json, never by `model_type` or a folder's
name: the published LongVA-7B calls itself "qwen2".
"""

from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from longva_ray.lm import released
from longva_ray.lm.auto_classes import register_config
from longva_ray.lm.gguf import gguf_source, is_gguf
from longva_ray.lm.longva_config import ARCHITECTURE
from longva_ray.lm.weights import checkpoint_folder, read_json, reads_folder

Kind = Literal["longva", "released", "causal", "gguf"]
"""LongVA in our layout or in the released one, any other model in a folder, or a GGUF file."""


def kind_of_checkpoint(path: str | Path) -> Kind:
    """What a path or hub name holds.

    Raises ValueError when there is no such checkpoint, or a folder without a config.json.
    """
    if is_gguf(path):
        return "gguf"
    architectures = read_config(path).get("architectures") or []
    if not isinstance(architectures, list):
        raise ValueError(f"config.json of {path} has architectures {architectures!r}, want a list")
    if ARCHITECTURE in architectures:
        return "longva"
    return "released" if released.ARCHITECTURE in architectures else "causal"


def is_longva(path: str | Path) -> bool:
    """Whether a checkpoint has eyes: LongVA in either layout, and no plain language model."""
    return kind_of_checkpoint(path) in ("longva", "released")


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a folder or hub name, as it is written.

    Raises ValueError when there is none, or a damaged one.
    """
    file = checkpoint_folder(path) / "config.json"
    if not file.exists():
        raise ValueError(
            f"{file.parent} has no config.json; the result of a run is in its folder final"
        )
    return read_json(file)


def stored_dtype(path: str | Path) -> torch.dtype:
    """The number format that a checkpoint's config.json names; float32, which holds any, where it
    names none."""
    config = read_config(path)
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(
            f"config.json of {path} names {name!r} as its number format; want float32, float16 or "
            "bfloat16"
        )
    return dtype


def load_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, hub name or GGUF file; fetches no weights from the hub.

    Raises ValueError when there is none.
    """
    register_config()
    place, source = gguf_source(checkpoint) if is_gguf(checkpoint) else (checkpoint, {})
    try:
        with reads_folder(place):
            return AutoTokenizer.from_pretrained(place, **source)
    except ValueError as error:
        raise ValueError(f"cannot load a tokenizer from {checkpoint}: {error}") from error
