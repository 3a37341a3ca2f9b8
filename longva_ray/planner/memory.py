"""How much memory a training step of a language model takes, term by term, before anything runs.

    setup = Setup(model=ModelShape.of(config), gpus=8, train=TrainConfig(...))
    peak(terms(setup, tokens=28_000))   ->   bytes on each GPU, bytes of its share of the host
    longest(setup, Budget(...))         ->   tokens of the longest sequence that fits

A step's peak is what it holds all the time (`planner.states` and what the forward pass leaves) plus
the largest of its moments (`planner.activations`).

What it does not do: throughput; the vision tower; memory inside kernels and allocators, for which
`RESERVE_BYTES` and `RESERVE_SHARE` are set aside.
"""

import dataclasses

from longva_ray.planner.activations import activation_terms
from longva_ray.planner.setup import Setup
from longva_ray.planner.states import state_terms
from longva_ray.planner.term import Moment, Term

GIB = 2**30

RESERVE_BYTES = 3 * GIB // 2
"""Set aside on every GPU for the CUDA context and the buffers of NCCL."""

RESERVE_SHARE = 0.05
"""Share of the rest set aside for fragmentation and for what kernels allocate."""

MAX_TOKENS = 2**28
"""Where the search for the longest sequence gives up."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Bytes there are on each GPU, and on the host for each GPU (None: not limited)."""

    gpu: float
    host: float | None = None

    @property
    def usable_gpu(self) -> float:
        """Without what is set aside."""
        return (self.gpu - RESERVE_BYTES) * (1 - RESERVE_SHARE)

    def holds(self, found: "list[Term]") -> bool:
        gpu, host = peak(found)
        return gpu <= self.usable_gpu and (self.host is None or host <= self.host)


def terms(setup: Setup, tokens: int) -> list[Term]:
    """Every term for `tokens` tokens on each GPU."""
    return [*state_terms(setup), *activation_terms(setup, tokens)]


def peak(found: list[Term]) -> tuple[float, float]:
    """Bytes on a GPU and on its share of the host: what is held and the largest moment."""
    return sum(term.gpu for term in at_the_peak(found)), sum(term.host for term in found)


def at_the_peak(found: list[Term]) -> list[Term]:
    """The terms that a GPU has at once where it has most: what is held and the largest moment."""
    moments: dict[Moment, float] = {}
    for term in found:
        if term.moment != "held":
            moments[term.moment] = moments.get(term.moment, 0.0) + term.gpu
    largest = max(moments, key=lambda moment: moments[moment], default="held")
    return [term for term in found if term.moment in ("held", largest)]


def longest(setup: Setup, budget: Budget) -> int:
    """Tokens of the longest sequence (over its whole ring) whose step fits; 0 if none does."""
    ring = setup.ring_size
    low, high = 0, MAX_TOKENS // ring
    while low < high:
        middle = (low + high + 1) // 2
        if budget.holds(terms(setup, middle)):
            low = middle
        else:
            high = middle - 1
    return low * ring
