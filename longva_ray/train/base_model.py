"""The model that text extension starts from, as a plain Hugging Face folder.

    folder, hub name, or file.gguf -> folder or hub name that every worker loads

A GGUF file holds weights, architecture and tokenizer in one; transformers reads it, but its weights
only whole, and ZeRO, checks and later stages all want a folder. So it is converted once.

What it does not do: quantise. The converted weights are float32.
"""

import copy
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from longva_ray.lm.weights import save_folder

logger = logging.getLogger(__name__)


def prepare_base(model: str, folder: Path) -> str:
    """What to load instead of `model`: itself, or `folder` with the content of a GGUF file.

    Raises ValueError for a GGUF file that is not there.
    """
    if not model.endswith(".gguf"):
        return model
    file = Path(model)
    if not file.is_file():
        raise ValueError(f"there is no file {model}")
    if not folder.exists():
        logger.info("converting %s to %s", file, folder)
        arguments = {"gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **arguments)
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **arguments)
        # A model read from GGUF counts as quantised, which transformers refuses to write.
        config = copy.deepcopy(read.config)
        del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        with save_folder(folder) as fresh:
            tokenizer.save_pretrained(fresh)
            plain.save_pretrained(fresh)
    return str(folder)
