"""What is asked, and which free answers are right: texts alone.

    What falls?
    A. Rain
    B. Snow
    Answer with the option's letter from the given choices directly.

This is the prompt of multiple choices in the released code and in lmms-eval's Video-MME. A free
answer to an open question is right when it is the true one, apart from case, spaces, and
punctuation around it: no synonym counts, and no judge is asked.

Only Python's own library is imported, since lmms-eval also loads this file, by its path, in an
environment that has nothing else of this package (`evaluate/lmms_tasks`).
"""

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase as LETTERS

INSTRUCTION = "Answer with the option's letter from the given choices directly."

_AROUND = " .,;:!?\"'\u201c\u201d\u2018\u2019\u00ab\u00bb\u3001\u3002"

_ONLY_A_LETTER = re.compile(r"\W*([A-Za-z])\W*")

_LETTER = re.compile(
    r"(?:^|(?i:\b(?:answer|option|choice)(?:\s+is)?\b))\W*([A-Z])[ \t]*(?:$|[\n.):,\]*])"
)
"""A letter that opens the answer or is announced in it, and that no sentence goes on from: "B. The
snow", "(B)", "The answer is B.", but not "A man walks"."""


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """A multiple choice with its options listed; the question alone when there are none."""
    if not options:
        return question
    listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *listed, INSTRUCTION])


def judge_free_answer(text: str, options: Sequence[str], answer: str) -> tuple[bool, str | None]:
    """(whether it is right; what was said: the letter of an option or None, the whole text where
    there are no options)."""
    if options:
        letter = letter_in(text, options)
        return letter == answer, letter
    return normalised(text) == normalised(answer), text


def letter_in(text: str, options: Sequence[str]) -> str | None:
    """The option that a free answer names: by its letter, or by its whole text; None when it names
    none."""
    text = unicodedata.normalize("NFKC", text)
    found = _ONLY_A_LETTER.fullmatch(text) or _LETTER.search(text)
    letters = LETTERS[: len(options)]
    if found is not None and (letter := found[1].upper()) in letters:
        return letter
    same = [
        letter
        for letter, option in zip(letters, options, strict=True)
        if normalised(option) == normalised(text)
    ]
    return same[0] if len(same) == 1 else None


def normalised(text: str) -> str:
    """Text by which open answers are compared."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_AROUND) or folded
