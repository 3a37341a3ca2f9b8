"""The model that text extension starts from, as a plain Hugging Face folder.

    folder, hub name, or file.gguf -> folder or hub name that every worker loads

A GGUF file holds weights, architecture and tokenizer in one; transformers reads it, but its weights
only whole, and ZeRO, checks and later stages all want a folder. So it is converted once.

What it does not do: quantise. The converted weights are float32.
"""

import copy
import hashlib
import json
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longva_ray.lm.gguf import gguf_source, is_gguf
from longva_ray.lm.weights import save_folder

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
