"""Perplexity by position, up to and beyond the length that a model was trained on.

    token ids -> mean negative log-likelihood in stretches of positions

A second look at a context, next to the needle test: it shows where a model breaks down, not what
it can find. Windows of plain essays, every token predicted from all before it.
"""

import dataclasses
import itertools

from longva_ray.answer.engine import AnswerEngine

STRETCHES = 32
"""How many stretches of equal length positions are averaged in."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One of several stretches of plain text."""

    number: int
    count: int

    @property
    def key(self) -> str:
        """Name in the ledger; where a window begins depends on how many there are."""
        return f"window-{self.number}-of-{self.count}"


def nll_by_position(engine: AnswerEngine, token_ids: list[int]) -> tuple[list[int], list[float]]:
    """Edges of at most `STRETCHES` stretches of positions, and the mean negative log-likelihood
    inside each; position p is where token p + 1 is predicted."""
    nll_T = engine.token_nll(token_ids)
    stretches = min(STRETCHES, len(nll_T))
    edges = [round(number * len(nll_T) / stretches) for number in range(stretches + 1)]
    means = [float(nll_T[start:stop].mean()) for start, stop in itertools.pairwise(edges)]
    return edges, means
