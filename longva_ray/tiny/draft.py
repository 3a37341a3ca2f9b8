"""A document of the tiny corpus while it is written, and which of its characters are labels.

Only what can be known from the text before is a label. No step of training is then spent on what
cannot be known.
"""

from __future__ import annotations

Span = tuple[int, int]
"""Characters [start, stop)."""


class Draft:
    """Text that is added piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self.labels: list[Span] = []

    def add(self, text: str, *, label: bool = False) -> None:
        if label:
            self.labels.append((len(self.text), len(self.text) + len(text)))
        self.text += text
