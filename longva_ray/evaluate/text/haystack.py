"""Essays -> a haystack of exactly n tokens, and the places where a sentence ends in it.

    text, tokenizer -> token ids, and every index at which something may be inserted

A needle must not cut a sentence in two. Where sentences end is read from the text, and which token
ends there from the offsets that the tokenizer reports. So the rule holds for any tokenizer,
whatever id its full stop has, even if it has none.

Source: appendix A; the released script looks for two token ids of another tokenizer.
"""

import bisect
import re
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from longva_ray.files.places import check_file

SHIPPED = Path(__file__).parent / "essays"


_SENTENCE_END = re.compile(r"""[.!?]+["')\]]*(?=\s|\Z)\s*|\s*\n\s*""")


def read_essays(folder: str | None) -> str:
    """All .txt files of a folder, in the order of their names, a blank line between them.

    Raises ValueError when there are none, or one is not UTF-8.
    """
    place = SHIPPED if folder is None else Path(folder)
    files = sorted(place.glob("*.txt"))
    text = "\n\n".join(_read(file) for file in files)
    if not text:
        raise ValueError(f"no text in {place}/*.txt; give a folder of essays as .txt files")
    return text + "\n\n"


def _read(file: Path) -> str:
    check_file(file)
    try:
        return file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8 (byte {error.start}: {error.reason}); convert it, as with iconv"
        ) from error


class Haystack:
    """Essays as tokens, repeated as often as a length asks for; shorter ones are their beginnings.

    Raises ValueError for a tokenizer that does not report where its tokens lie.
    """

    def __init__(self, text: str, tokenizer: PreTrainedTokenizerBase, *, min_tokens: int) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not tell where its tokens lie in the text; use "
                "a fast tokenizer (tokenizer.json)"
            )
        ids, ends = _tokenize(tokenizer, text)
        self.repeats = max(1, -(-min_tokens // len(ids)))
        """How often the essays follow each other; above 1 when they are shorter than asked for."""
        if self.repeats > 1:
            text = text * self.repeats
            ids, ends = _tokenize(tokenizer, text)
            # Where texts meet, a tokenizer may save a token.
            while len(ids) < min_tokens:
                self.repeats += 1
                text += text[: len(text) // (self.repeats - 1)]
                ids, ends = _tokenize(tokenizer, text)
        self.token_ids: list[int] = ids
        self._text = text
        self._ends = ends

    @cached_property
    def cuts(self) -> list[int]:
        """Indices between tokens at which a sentence ends, ascending, 0 included."""
        found = [0]
        sentence_ends = _SENTENCE_END.finditer(self._text)
        span = next(sentence_ends, None)
        for index, end in enumerate(self._ends, start=1):
            while span is not None and span.end() < end:
                span = next(sentence_ends, None)
            if span is None:
                break
            closes = span.start() + len(span.group().rstrip()) <= end
            # Tokens that share a character all end after it: only the last one completes it.
            whole = index == len(self._ends) or self._ends[index] > end
            if closes and whole:
                found.append(index)
        return found

    def snap(self, target: float, num_tokens: int) -> int:
        """The cut nearest to `target` (a number of tokens) inside the first `num_tokens`."""
        cuts = self.cuts
        stop = bisect.bisect_right(cuts, num_tokens)
        after = bisect.bisect_left(cuts, target, 0, stop)
        near = cuts[max(0, after - 1) : min(after + 1, stop)]
        return min(near, key=lambda cut: abs(cut - target))


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids, and where in the text each token ends."""
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
    )
    return list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
