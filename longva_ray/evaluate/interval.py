"""How sure a share of successes is: Wilson's interval."""

from math import sqrt
from statistics import NormalDist


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
