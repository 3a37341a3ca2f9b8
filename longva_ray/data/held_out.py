"""Which documents or samples are held out, to validate on: those with the smallest digests.

    number of each (`digest_number`), how many are wanted -> a mask

A number follows from the seed and from what a document says, or what a sample shows, so equal ones
are held out together or not at all, whatever stands between them. Where they repeat, more of them
are held out than were asked for.

Shapes: D documents or samples.
"""

import numpy as np
import numpy.typing as npt

from longva_ray.files.digest import digest_of


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
