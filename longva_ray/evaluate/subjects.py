"""The models under test, and how each is run. Naming them takes no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longva_ray.evaluate.baselines import BASELINES, Baseline
from longva_ray.files.places import model_place
from longva_ray.settings.base import Dtype
from longva_ray.settings.sweep import SweepConfig

if TYPE_CHECKING:
    import torch.distributed as dist

    from longva_ray.answer.engine import AnswerEngine


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A model under test, and how it is run."""

    name: str
    """What figures and tables call it."""
    path: str
    """Folder, name on the hub, or GGUF file; of questions in bulk, also the URL of a server."""
    dtype: Dtype
    rope_base: float | None = None
    """RoPE base instead of the checkpoint's: the training-free baseline (paper, section 5.1)."""
    try_bases: tuple[float, ...] = ()
    """RoPE bases to try one after another: the best stands for this subject. None given, it is
    tested as it is."""
    training_length: int | None = None
    """Tokens that its language model was trained on: the dotted line. None asks the checkpoint."""

    @property
    def is_served(self) -> bool:
        """Whether it is asked over HTTP."""
        return _is_server(self.path)


def named_subjects(
    models: Sequence[str], training_lengths: Sequence[int], dtype: Dtype, *, servers: bool = False
) -> list[Subject]:
    """Subjects from a command line: `name=path` each, and their training lengths or none at all.

    The names of `baselines` are shown as the paper has them; all others are free.

    Args:
        servers: a path may also be the URL of a server.

    Raises ValueError for words that are not name=path, a name given twice, or a number of lengths
    that is neither zero nor that of the subjects.
    """
    if not models:
        raise ValueError("no model to test; give --models name=path")
    if training_lengths and len(training_lengths) != len(models):
        raise ValueError(
            f"{len(training_lengths)} training lengths for {len(models)} models; give one for "
            "each, or none"
        )
    named = [model.partition("=") for model in models]
    kinds = [BASELINES.get(name, Baseline(title=name)) for name, _, _ in named]
    titles = {kind.title for kind in kinds}
    if not all(name and path for name, _, path in named) or len(titles) < len(named):
        raise ValueError(f"models are {list(models)}; want name=path, every name once")
    return [
        Subject(
            name=kind.title,
            path=path if servers and _is_server(path) else model_place(path),
            dtype=dtype,
            try_bases=kind.rope_bases,
            training_length=training_lengths[place] if training_lengths else None,
        )
        for place, (kind, (_, _, path)) in enumerate(zip(kinds, named, strict=True))
    ]


def _is_server(path: str) -> bool:
    return path.startswith(("http://", "https://"))


def load_subject(
    subject: Subject, config: SweepConfig, ring: dist.ProcessGroup | None = None
) -> AnswerEngine:
    """The engine that a subject answers with: dense, or over a ring of processes. It takes prompts
    of any length, since how a model fails beyond its limit is what the tests measure.

    Raises ValueError for a checkpoint that cannot be loaded.
    """
    from longva_ray.answer.engine import AnswerEngine
    from longva_ray.lm.prompt import UNLIMITED

    return AnswerEngine(
        subject.path,
        dtype=subject.dtype,
        prefill_chunk=config.prefill_chunk,
        max_prompt_tokens=UNLIMITED,
        rope_base=subject.rope_base,
        reuse_prefix=config.reuse_prefix and ring is None,
        ring=ring,
    )
