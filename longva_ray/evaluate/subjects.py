"""The language model under test: any causal one that transformers loads, or a LongVA checkpoint's.

    folder | hub name | file.gguf | LongVA checkpoint -> (model, tokenizer)

The RoPE base may be raised on the way: that is the whole training-free baseline (paper, section
5.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from longva_ray.files.places import model_place
from longva_ray.lm.base_models import is_longva, transformers_source
from longva_ray.lm.load import load_language_model, load_longva_config
from longva_ray.lm.rope import assert_rope
from longva_ray.settings.base import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model under test, and how it is run."""

    name: str
    """What figures and tables call it."""
    path: str
    """Folder, name on the hub, or GGUF file."""
    dtype: Dtype
    rope_base: float | None = None
    """RoPE base instead of the checkpoint's."""
    training_length: int | None = None
    """Tokens that its language model was trained on: the dotted line. None asks the checkpoint."""


def named_subjects(
    models: Sequence[str], training_lengths: Sequence[int], dtype: Dtype
) -> list[Subject]:
    """Subjects from a command line: `name=path` each, and their training lengths or none at all.

    Raises ValueError for no words or other ones, a name given twice, or another number of lengths.
    """
    if not models:
        raise ValueError("no model to test; give --models name=path")
    if training_lengths and len(training_lengths) != len(models):
        raise ValueError(
            f"{len(training_lengths)} training lengths for {len(models)} models; give one for "
            "each, or none"
        )
    named = [model.partition("=") for model in models]
    names = [name for name, _, _ in named]
    if not all(name and path for name, _, path in named) or len(set(names)) < len(names):
        raise ValueError(f"models are {list(models)}; want name=path, every name once")
    return [
        Subject(
            name=name,
            path=model_place(path),
            dtype=dtype,
            training_length=training_lengths[place] if training_lengths else None,
        )
        for place, (name, _, path) in enumerate(named)
    ]


def load_subject(
    subject: Subject, *, attention: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer, in evaluation mode, on this process's GPU if it sees one.

    Args:
        subject: which model, its number format and its RoPE base.
        attention: name of an attention implementation; None leaves the choice to transformers.

    Raises:
        ValueError: no such checkpoint, or a tokenizer that cannot tell where its tokens lie.
    """
    dtype = getattr(torch, subject.dtype)
    if is_longva(subject.path):
        loaded = load_language_model(
            subject.path,
            dtype=dtype,
            attn_implementation=attention,
            rope_theta=subject.rope_base,
        )
        model, tokenizer = loaded.model, loaded.tokenizer
    else:
        place, source = transformers_source(subject.path)
        config = text_config(subject)
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        model = AutoModelForCausalLM.from_pretrained(
            place, config=config, dtype=dtype, attn_implementation=attention, **source
        )
        assert_rope(model, config)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval(), tokenizer


def text_config(subject: Subject) -> PreTrainedConfig:
    """Configuration of the subject's language model, with the subject's RoPE base; no weights."""
    if is_longva(subject.path):
        config = load_longva_config(subject.path).text
    else:
        place, source = transformers_source(subject.path)
        config = AutoConfig.from_pretrained(place, **source)
    if subject.rope_base is not None:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": subject.rope_base}
    return config
