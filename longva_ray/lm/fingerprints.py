"""Fingerprints of a checkpoint and of a tokenizer: equal where answers or tokens would be."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from longva_ray.files.digest import Digest, digest_of
from longva_ray.lm.gguf import transformers_source

_DECIDING = ("*.safetensors", "*.bin", "*.json", "*.model", "*.txt")


_NOT_DECIDING = {"README.md", "model.safetensors.index.json", "recipe.json"}


def fingerprint_checkpoint(path: str) -> str:
    """32 hex digits over a checkpoint's files that decide its answers; reads all weights once.

    Raises ValueError when there is no such checkpoint.
    """
    place, source = transformers_source(path)
    folder = Path(place)
    names = [source["gguf_file"]] if source else _deciding_files(folder)
    digest = Digest()
    for name in names:
        digest.add(name).add_file(folder / name)
    return digest.hex()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """32 hex digits over the serialised tokenizer: equal for tokenizers that give equal tokens.

    Truncation and padding are left out: they are state that a call leaves in the tokenizer, and no
    shard is made with them. A tokenizer without a serialised form is known by its class and
    vocabulary.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        described = json.loads(backend.to_str())
        described.pop("truncation", None)
        described.pop("padding", None)
    else:
        described = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return digest_of(json.dumps(described, sort_keys=True))


def _deciding_files(folder: Path) -> list[str]:
    names = {file.name for kind in _DECIDING for file in folder.glob(kind)}
    return sorted(names - _NOT_DECIDING)
