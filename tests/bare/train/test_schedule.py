"""Learning rates at the places that matter."""

import pytest

from longva_ray.train.schedule import learning_rate


def test_constant_by_default_reaches_its_peak_after_the_warmup() -> None:
    rates = [
        learning_rate(step, peak=8.0, warmup_steps=3, steps=10, schedule="constant")
        for step in range(6)
    ]
    assert rates == [2.0, 4.0, 6.0, 8.0, 8.0, 8.0]


def test_cosine_falls_to_zero() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, peak=1.0, warmup_steps=10, steps=110, schedule="cosine")

    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.5)
    assert rate(110) == pytest.approx(0.0)
