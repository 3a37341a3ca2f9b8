"""One line of a memory plan: how many bytes of what, where, and when."""

import dataclasses
from typing import Literal, TypeAlias

Moment: TypeAlias = Literal["held", "loss", "mlp", "norms", "attention", "tower"]
"""`held` all the time, or at one of five moments of a step that never coincide."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """Bytes of one thing on each GPU and on each GPU's share of the host."""

    name: str
    formula: str
    moment: Moment = "held"
    gpu: float = 0.0
    host: float = 0.0
