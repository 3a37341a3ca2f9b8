"""The up-sampling rule, against its own formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longva_ray.data.text.mixture import count_copies

LONG = 4096


def corpus(seed: int, num_documents: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    domains = rng.choice(4, num_documents, p=[0.7, 0.2, 0.08, 0.02])
    scale = np.array([6.0, 7.0, 8.0, 9.0])[domains]
    lengths = np.maximum(1, rng.lognormal(scale, 1.2)).astype(np.int64)
    return lengths, domains


def copies_of(lengths: np.ndarray, domains: np.ndarray, **changed: object) -> np.ndarray:
    options = {"longer_than": LONG, "factor": 5.0, "target_tokens": None, "seed": 3} | changed
    return count_copies(lengths, domains, **options)


@pytest.mark.parametrize("target", [None, 2_000_000, 30_000_000])
def test_shares_are_kept_and_long_documents_taken_more_often(target: int | None) -> None:
    lengths, domains = corpus(0)
    copies = copies_of(lengths, domains, target_tokens=target)
    wanted = target or lengths.sum()
    for domain in range(4):
        here = domains == domain
        budget = wanted * lengths[here].sum() / lengths.sum()
        short, long = here & (lengths <= LONG), here & (lengths > LONG)
        rate = budget / (lengths[short].sum() + 5 * lengths[long].sum())
        assert abs((copies * lengths)[here].sum() - budget) < 0.002 * budget
        long_error = (copies * lengths)[long].sum() - 5 * rate * lengths[long].sum()
        assert abs(long_error) < 2 * lengths[here].max() + LONG
        sampled = (copies >= np.floor(5 * rate)) & (copies <= np.ceil(5 * rate))
        assert (~sampled[long]).sum() <= 3  # only the few that make up the rest


def test_without_up_sampling_every_document_is_taken_once() -> None:
    lengths, domains = corpus(1)
    np.testing.assert_array_equal(copies_of(lengths, domains, factor=1.0), np.ones_like(lengths))


def test_the_choice_is_as_likely_for_every_document_of_a_class() -> None:
    lengths = np.array([100] * 10 + [9000] * 4)
    domains = np.zeros(14, dtype=np.int64)
    total = sum(copies_of(lengths, domains, factor=2.0, seed=seed) for seed in range(400))
    rate = lengths.sum() / (1000 + 2 * 36000)
    # Long: 400 draws of a rate of about 1.01; short: what the long ones leave of the budget.
    assert abs(total[10:] / 400 - 2 * rate).max() < 0.1
    assert np.ptp(total[:10] / 400) < 0.15 * max(1, total[:10].mean() / 400)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 2)), min_size=1, max_size=60),
    st.floats(1, 20),
    st.integers(1, 10**6),
    st.integers(0, 5),
)
def test_every_domain_misses_its_budget_by_less_than_one_document(
    documents: list[tuple[int, int]], factor: float, target: int, seed: int
) -> None:
    lengths, domains = (np.array(column, dtype=np.int64) for column in zip(*documents, strict=True))
    copies = copies_of(lengths, domains, factor=factor, target_tokens=target, seed=seed)
    assert (copies >= 0).all()
    for domain in np.unique(domains):
        here = domains == domain
        budget = target * lengths[here].sum() / lengths.sum()
        assert abs((copies * lengths)[here].sum() - budget) < lengths[here].max() + 1e-6
