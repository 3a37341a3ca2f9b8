"""`longva join`: a language model and a vision tower become one checkpoint, ready for alignment."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from longva_ray.settings.base import Dtype
from longva_ray.video.fitting import Fitting
from longva_ray.vision.encoding import Encoding
from longva_ray.vision.projector import ProjectorKind
from longva_ray.vision.unires import GridRule


@dataclass(frozen=True, kw_only=True)
class Options:
    """Give a language model a vision tower. A projector joins the two, as a rule a new one;
    alignment trains it (section 3.2 of the paper)."""

    language_model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LM")]
    """A Qwen2- or Llama-shaped checkpoint, or the language model of a LongVA one: a folder or a
    Hugging Face id."""
    tower: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TOWER")]
    """A CLIP checkpoint, or the tower of a LongVA one."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The new folder."""
    encoding: Encoding = "unires"
    """How images become grids; anyres is the paper's ablation."""
    grid_rule: GridRule = "paper"
    """Which numbers of grids UniRes allows: the paper's, or those of the released code."""
    frame_fitting: Fitting = "letterbox"
    """How a frame fits the square of the tower."""
    projector: ProjectorKind = "mlp"
    """mlp: the paper's two layers. align: an average of word embeddings follows (AlignVLM)."""
    projector_of: str | None = None
    """A LongVA checkpoint whose trained projector is taken, of any kind; None, a fresh one."""
    dtype: Dtype = "bfloat16"
    """Number format of the saved weights."""
    seed: int = 0
    """Seed of a fresh projector's weights."""


def run(options: Options) -> int:
    """Write the joined checkpoint. Raises ValueError when the folder exists."""
    import torch

    from longva_ray.lm.join import assemble_longva

    assemble_longva(
        options.language_model,
        options.tower,
        seed=options.seed,
        path=options.out,
        dtype=getattr(torch, options.dtype),
        grid_rule=options.grid_rule,
        frame_fitting=options.frame_fitting,
        encoding=options.encoding,
        projector=options.projector,
        projector_of=options.projector_of,
    )
    is_trained = "untrained" if options.projector_of is None else "a trained one"
    print(f"wrote {options.out}; its projector is {is_trained}, jobs/align_vision.py trains it")
    return 0
