"""Which rows belong to which optimizer step: a function of seed and step, and of nothing else.

    step, seed, number of rows -> the row indices of that step, for one ring
    number of rows             -> the batches in which one ring reads all of them once, in order

Every epoch goes through all rows once, in a new order. No position has to be stored or
iterated to: a run that continues at step 700 computes the rows of step 700. The rows of a step are
the same whatever the number of rings, so the mesh changes who computes and never what.

What it does not do: it reads no rows.
"""

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


def rows_of_step(
    step: int, *, num_rows: int, rows_per_step: int, seed: int, data_rank: int, data_size: int
) -> list[int]:
    """Row indices that ring `data_rank` of `data_size` trains on in `step` (counted from 0).

    `rows_per_step` is a multiple of `data_size`; ring r takes rows r, r + data_size, ... of the
    step.
    """
    assert rows_per_step % data_size == 0
    first = step * rows_per_step
    mine = range(first + data_rank, first + rows_per_step, data_size)
    return list(_permuted(mine, num_rows, seed))


def batches_in_order(
    num_rows: int, *, rows_per_batch: int, data_rank: int, data_size: int
) -> list[list[int | None]]:
    """Row indices of the batches that ring `data_rank` of `data_size` reads, so that together the
    rings read every row once. All have as many batches, and each batch as many rows: where rows
    have run out stands None."""
    abreast = data_size * rows_per_batch
    places = range(-(-num_rows // abreast) * abreast)
    rows = [place if place < num_rows else None for place in places]
    first = data_rank * rows_per_batch
    return [rows[start : start + rows_per_batch] for start in range(first, len(rows), abreast)]


def _permuted(places: range, num_rows: int, seed: int) -> Iterator[int]:
    for place in places:
        epoch, position = divmod(place, num_rows)
        yield int(_permutation(num_rows, seed, epoch)[position])


@functools.lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_rows)
