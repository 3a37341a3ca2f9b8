"""Outcomes of trials -> scores of cells with intervals, and averages.

A cell is one length and depth; its score the share of right trials, by the paper's teacher-forced
rule and by free generation, each with Wilson's 95% interval. An average over the grid pools its
trials.
"""

from collections.abc import Callable, Iterable, Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

from longva_ray.evaluate.ledger import TrialOutcome

VERDICTS = ("exact", "generated")


def rate(outcomes: Sequence[TrialOutcome], verdict: str) -> dict[str, Any] | None:
    """Share of outcomes with that verdict and its interval; None when it was not asked for."""
    verdicts = [outcome[verdict] for outcome in outcomes if outcome[verdict] is not None]
    return _rate(sum(verdicts), len(verdicts)) if verdicts else None


def pool_rates(several: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The rate of all trials that several rates are of; None when one of them was not asked for."""
    found = [each for each in several if each is not None]
    if len(found) < len(several):
        return None
    right = sum(round(each["score"] * each["trials"]) for each in found)
    return _rate(right, sum(each["trials"] for each in found))


def _rate(right: int, trials: int) -> dict[str, Any]:
    return {
        "score": right / trials,
        "interval_95": list(wilson(right, trials)),
        "trials": trials,
    }


def rates(outcomes: Sequence[TrialOutcome]) -> dict[str, Any]:
    """Both verdicts: `exact` (teacher-forced, the paper's rule) and `generated`."""
    return {verdict: rate(outcomes, verdict) for verdict in VERDICTS}


def describe_rates(both: dict[str, Any] | None) -> list[str]:
    """A line for a person for each verdict that there is."""
    return [
        f"{verdict}: {found['score']:.3f} "
        f"[{found['interval_95'][0]:.3f}, {found['interval_95'][1]:.3f}] of {found['trials']}"
        for verdict, found in (both or {}).items()
        if found
    ]


def by_cell(
    outcomes: Iterable[TrialOutcome], cell: Callable[[TrialOutcome], tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[TrialOutcome]]:
    """TrialOutcomes of each cell, cells in ascending order."""
    cells: dict[tuple[Any, ...], list[TrialOutcome]] = {}
    for outcome in outcomes:
        cells.setdefault(cell(outcome), []).append(outcome)
    return dict(sorted(cells.items()))


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval of a probability, from `successes` of `trials` independent trials.

    Keeps its coverage for few trials and near 0 and 1, where mean +- 2 standard errors does not: 5
    of 5 gives (0.57, 1.0). Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Raises ValueError for no trials or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials; want 0 <= successes <= trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    # At 0 and 1 the formula's own bounds, which rounding may miss by an ulp.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high
