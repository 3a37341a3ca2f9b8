"""Which rows a step trains on: complete, disjoint, and the same on every mesh."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from longva_ray.train.order import rows_of_step


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
