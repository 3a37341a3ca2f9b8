"""Which documents or samples are held out, to validate on: those with the smallest digests.

    number of each (`digest_number`), how many are wanted -> a mask

A number follows from the seed and from what a document says, or what a sample shows, so equal ones
are held out together or not at all, whatever stands between them. Where they repeat, more of them
are held out than were asked for.

Shapes: D documents or samples.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from longva_ray.files.digest import digest_of

logger = logging.getLogger(__name__)

SampleT = TypeVar("SampleT")


def digest_number(seed: int, content: str | bytes | memoryview) -> int:
    """A number of 64 bits for some content."""
    return int(digest_of(f"{seed} ", content, num_bytes=8), 16)


def choose_held_out(number_D: npt.NDArray[np.uint64], wanted: float) -> npt.NDArray[np.bool_]:
    """True for those that are held out.

    Args:
        number_D: `digest_number` of each.
        wanted: how many; below 1 a share of all.

    Raises ValueError if nothing would be left to train on.
    """
    total = len(number_D)
    count = max(1, round(wanted * total)) if wanted < 1 else int(wanted)
    if count < total:
        is_held_out_D: npt.NDArray[np.bool_] = (
            number_D <= np.partition(number_D, count - 1)[count - 1]
        )
        if not is_held_out_D.all():
            return is_held_out_D
    raise ValueError(
        f"holding out {wanted:g} of {total} leaves nothing to train on; hold out fewer, or give "
        "more data"
    )


def hold_out(
    samples: Sequence[SampleT], shown: Callable[[SampleT], str], wanted: float, seed: int
) -> tuple[list[SampleT], list[SampleT]]:
    """(samples that are held out, all others), each in their order.

    Args:
        shown: what a sample shows; those that show the same stay together.
        wanted: as `choose_held_out`.
    """
    numbers = [digest_number(seed, shown(sample)) for sample in samples]
    chosen = choose_held_out(np.array(numbers, np.uint64), wanted).tolist()
    logger.info("%d of %d samples are held out", sum(chosen), len(chosen))
    held_out = [sample for sample, is_chosen in zip(samples, chosen, strict=True) if is_chosen]
    others = [sample for sample, is_chosen in zip(samples, chosen, strict=True) if not is_chosen]
    return held_out, others
