"""Up-sampling of long documents inside each domain, with the domains' shares kept.

    lengths, domains -> how many times each document is taken

The rule ("per-source length up-sampling" of Fu et al. 2024, which section 3.1 of the paper cites):
let domain d hold S_d tokens in documents of at most `longer_than` tokens and L_d tokens in longer
ones, let N be all tokens, B the tokens to write (N by default), and f the up-sampling factor. Then

    B_d = B (S_d + L_d) / N         every domain keeps its share of the tokens
    r_d = B_d / (S_d + f L_d)       how often a short document of the domain is taken
    f r_d                           how often a long one is

A rate of 2.3 takes every document twice and three in ten a third time. Which ones: documents of one
class are sorted by length and sampled systematically (every 1/0.3th, from a random start), so that
the tokens taken differ from rate x tokens by less than the longest document of the class, for any
seed. The difference to B_d is then made up by as few documents as possible, longest first, each
taken once more or once less. Every domain ends within one short document of its B_d.

What it does not do: change anything with f = 1 and B = N; every rate is then exactly 1.

Shapes: D documents.
"""

import numpy as np

from longva_ray.data.text.packing import IntArray


def count_copies(
    lengths_D: IntArray,
    domains_D: IntArray,
    *,
    longer_than: int,
    factor: float,
    target_tokens: int | None,
    seed: int,
) -> IntArray:
    """How many times each document is taken, (D,): by the module's rule.

    Args:
        lengths_D: tokens of each document, separators included; all positive.
        domains_D: number of each document's domain.
        longer_than: a document of more tokens is long.
        factor: f, at least 1.
        target_tokens: B; None means as many tokens as the documents hold.
    """
    total = int(lengths_D.sum())
    wanted = total if target_tokens is None else target_tokens
    if factor == 1 and wanted == total:
        return np.ones_like(lengths_D)
    copies_D = np.zeros_like(lengths_D)
    is_long_D = lengths_D > longer_than
    for domain in np.unique(domains_D):
        long = np.flatnonzero((domains_D == domain) & is_long_D)
        short = np.flatnonzero((domains_D == domain) & ~is_long_D)
        long_tokens, short_tokens = int(lengths_D[long].sum()), int(lengths_D[short].sum())
        budget = wanted * (long_tokens + short_tokens) / total
        rate = budget / (short_tokens + factor * long_tokens)
        rng = np.random.default_rng([seed, int(domain)])
        copies_D[long] = _take(lengths_D[long], factor * rate, rng)
        copies_D[short] = _take(lengths_D[short], rate, rng)
        here = np.concatenate([short, long])
        copies_D[here] += _correction(lengths_D[here], copies_D[here], budget, rng)
    return copies_D


def _take(lengths: IntArray, rate: float, rng: np.random.Generator) -> IntArray:
    """Copies of each document of one class: floor or ceiling of `rate`, and `rate` on average.

    Partial sums of (copies - rate) stay inside (-1, 1) by construction. Over sorted lengths l, Abel
    summation turns that into |sum of (copies - rate) x l| < max l.
    """
    order = np.lexsort((rng.permutation(len(lengths)), lengths))  # equal lengths in random order
    steps = np.floor(rate * np.arange(len(lengths) + 1) + rng.random()).astype(np.int64)
    copies = np.empty_like(lengths)
    copies[order] = np.diff(steps)
    return copies


def _correction(
    lengths: IntArray, copies: IntArray, budget: float, rng: np.random.Generator
) -> IntArray:
    """One copy more or less of few documents, so that the tokens taken come up to the budget."""
    missing = budget - float((copies * lengths).sum())
    step = 1 if missing > 0 else -1
    candidates = rng.permutation(np.flatnonzero(copies + step >= 0))
    candidates = candidates[np.argsort(lengths[candidates], kind="stable")]
    sorted_lengths = lengths[candidates]
    change = np.zeros_like(copies)
    left, end = abs(missing), len(candidates)
    while (fitting := min(end, int(np.searchsorted(sorted_lengths, left, side="right")))) > 0:
        end = fitting - 1  # the longest document that fits, each at most once
        change[candidates[end]] = step
        left -= float(sorted_lengths[end])
    return change
