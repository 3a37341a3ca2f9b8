"""Rates that are pooled are those of all trials together."""

from hypothesis import given
from hypothesis import strategies as st

from longva_ray.evaluate.rates import pool_rates, rate

verdicts = st.lists(st.booleans(), min_size=1, max_size=50)


@given(st.lists(verdicts, min_size=1, max_size=4))
def test_pooled_rates_are_those_of_all_trials(several: list[list[bool]]) -> None:
    parts = [rate([{"exact": each} for each in part], "exact") for part in several]
    whole = rate([{"exact": each} for part in several for each in part], "exact")
    assert pool_rates(parts) == whole


def test_what_one_part_was_not_asked_has_no_rate() -> None:
    assert pool_rates([rate([{"exact": True}], "exact"), None]) is None
