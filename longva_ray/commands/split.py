"""`longva split`: a LongVA checkpoint becomes two folders, its language model and its tower."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Options:
    """Take a LongVA checkpoint apart, into OUT/language_model and OUT/tower. Commands here need no
    such folders: they take the half they want from the checkpoint."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LONGVA")]
    """A LongVA checkpoint: a folder or a Hugging Face id."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The new folder."""


def run(options: Options) -> int:
    """Write both halves. Raises ValueError when the folder exists, or for another checkpoint."""
    from longva_ray.lm.split import split_longva

    split_longva(options.model, options.out)
    print(
        f"wrote {options.out}/language_model and {options.out}/tower; the projector, which fits "
        "only the two together, was left out"
    )
    return 0
