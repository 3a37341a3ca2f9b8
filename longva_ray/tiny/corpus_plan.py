"""What a corpus of the tiny world is to hold; `tiny.corpus` writes it."""

from __future__ import annotations

import dataclasses
import math

SHORTEST = 48
"""Tokens of the shortest document that any domain can fill."""

DOMAINS = ("recitals", "figures", "lists", "numbers", "essays", "chats")
"""Kinds of documents."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """How much text, in documents of which lengths and domains."""

    num_tokens: int
    """About how many tokens in all documents together."""
    shortest: int
    longest: int
    """Tokens of a document: spread evenly over the logarithm between the two."""
    shares: tuple[tuple[str, float], ...]
    """Domains and their shares of the documents."""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.shortest <= self.longest:
            raise ValueError(
                f"want {SHORTEST} <= shortest <= longest tokens, got {self.shortest} and "
                f"{self.longest}"
            )
        unknown = [name for name, _ in self.shares if name not in DOMAINS]
        if unknown or not math.isclose(sum(share for _, share in self.shares), 1.0):
            raise ValueError(
                f"want shares of {', '.join(DOMAINS)} that add up to 1, got {dict(self.shares)}"
            )
