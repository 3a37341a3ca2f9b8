"""Which rows a step trains on: complete, disjoint, and the same on every mesh."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from longva_ray.train.order import batches_in_order, rows_of_step


@given(
    num_rows=st.integers(1, 40),
    rings=st.sampled_from([1, 2, 4]),
    share=st.integers(1, 4),
    step=st.integers(0, 50),
)
def test_rings_share_the_rows_of_one_ring(num_rows: int, rings: int, share: int, step: int) -> None:
    def rows(rank: int, size: int) -> list[int]:
        return rows_of_step(
            step,
            num_rows=num_rows,
            rows_per_step=rings * share,
            seed=3,
            data_rank=rank,
            data_size=size,
        )

    together = [rows(rank, rings) for rank in range(rings)]
    assert all(len(part) == share for part in together)
    assert Counter(row for part in together for row in part) == Counter(rows(0, 1))


def test_an_epoch_is_every_row_once_and_epochs_differ() -> None:
    def epoch(number: int) -> list[int]:
        steps = range(5 * number, 5 * number + 5)
        return [
            row
            for step in steps
            for row in rows_of_step(
                step, num_rows=20, rows_per_step=4, seed=0, data_rank=0, data_size=1
            )
        ]

    assert sorted(epoch(0)) == sorted(epoch(1)) == list(range(20))
    assert epoch(0) != epoch(1)
    assert epoch(0) != list(range(20))


@given(
    num_rows=st.integers(1, 40), rings=st.sampled_from([1, 2, 4]), rows_per_batch=st.integers(1, 3)
)
def test_rings_read_every_row_once_in_batches_of_one_size(
    num_rows: int, rings: int, rows_per_batch: int
) -> None:
    read = [
        batches_in_order(num_rows, rows_per_batch=rows_per_batch, data_rank=ring, data_size=rings)
        for ring in range(rings)
    ]
    assert len({len(batches) for batches in read}) == 1
    assert all(len(batch) == rows_per_batch for batches in read for batch in batches)
    rows = [row for abreast in zip(*read, strict=True) for batch in abreast for row in batch]
    assert rows[:num_rows] == list(range(num_rows))
    assert set(rows[num_rows:]) <= {None}
    assert len(rows) - num_rows < rings * rows_per_batch
