"""The models of Table 5 and Figure 4, by the names that every evaluation takes in `--models`.

    --models longva=A longva-anyres=B llava-next=C training-free=C   ->   four panels of Figure 4

A name says what its checkpoint has to be; figures and tables show it as the paper writes it. The
last of them is no checkpoint of its own: a model whose RoPE base is raised without training, to
each of several bases in turn, the best of which is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PAPER_ROPE_BASES = (3e6, 1e7, 3e7, 1e8, 3e8, 1e9)
"""Section 5.1: "by choosing from [3M, 10M, 30M, 100M, 300M, 1B]"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A model of Table 5."""

    title: str
    """What figures and tables call it."""
    rope_bases: tuple[float, ...] = ()
    """Bases to try without training, unless the settings of the test name others."""


LONGVA = Baseline(title="LongVA")
"""The extended language model, aligned under UniRes."""


LONGVA_ANYRES = Baseline(title="LongVA (AnyRes)")
"""The extended language model, aligned under AnyRes."""


LLAVA_NEXT = Baseline(title="LLaVA-NeXT-style")
"""Aligned like LongVA, but on the language model that was not extended. (LLaVA-Next-Qwen2 of Table
5 was also aligned under AnyRes.)"""


TRAINING_FREE = Baseline(title="training-free RoPE", rope_bases=PAPER_ROPE_BASES)
"""Any model, as a rule that of `LLAVA_NEXT`, under raised RoPE bases."""


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "longva": LONGVA,
        "longva-anyres": LONGVA_ANYRES,
        "llava-next": LLAVA_NEXT,
        "training-free": TRAINING_FREE,
    }
)
"""By what `--models` calls them; any other name is free."""
