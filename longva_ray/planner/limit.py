"""What stops a longer sequence, and what would make room for one.

limit_of(setup, budget) -> Limit | None
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from longva_ray.planner.memory import MAX_TOKENS, Budget, at_the_peak, longest, peak, terms
from longva_ray.planner.setup import Setup
from longva_ray.planner.switches import ALWAYS_ON, switches
from longva_ray.planner.term import Term

FEW = 3
"""Terms that are worth naming."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remedy:
    """An option that makes a longer sequence fit, all else as planned."""

    option: str
    longest: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limit:
    """Why the next longer sequence does not fit."""

    place: Literal["gpu", "host"]
    """Whose memory runs out. Where both do, the one that lacks more of what it has."""
    needed: float
    """Bytes on each GPU, or of its share of the host."""
    usable: float
    largest: Sequence[Term]
    """What takes most there, most first."""
    remedies: Sequence[Remedy]
    """Best first; empty where no option helps."""


def limit_of(setup: Setup, budget: Budget) -> Limit | None:
    """None where the sequence may be as long as the search goes."""
    fits = longest(setup, budget)
    if fits >= MAX_TOKENS // setup.ring_size * setup.ring_size:
        return None
    found = terms(setup, fits // setup.ring_size + 1)
    gpu, host = peak(found)
    place: Literal["gpu", "host"] = "gpu"
    needed, usable, taking = gpu, budget.usable_gpu, at_the_peak(found)
    if budget.host is not None and host / budget.host > gpu / budget.usable_gpu:
        place, needed, usable, taking = "host", host, budget.host, found
    taking.sort(key=lambda term: -bytes_at(term, place))
    largest = [term for term in taking[:FEW] if bytes_at(term, place)]
    return Limit(
        place=place,
        needed=needed,
        usable=usable,
        largest=largest,
        remedies=_remedies(setup, budget, fits),
    )


def bytes_at(term: Term, place: Literal["gpu", "host"]) -> float:
    """Bytes of a term on a GPU, or on its share of the host."""
    return term.gpu if place == "gpu" else term.host


def _remedies(setup: Setup, budget: Budget, fits: int) -> list[Remedy]:
    """The other side of each switch, where that is longer."""
    remedies = []
    for switch in switches(setup):
        if switch.option == ALWAYS_ON:
            continue
        for option, other in ((switch.option_off, switch.off), (switch.option, switch.on)):
            if (length := longest(other, budget)) > fits:
                remedies.append(Remedy(option=option, longest=length))
    return sorted(remedies, key=lambda remedy: -remedy.longest)
