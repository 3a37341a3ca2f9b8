"""A question -> its prompt, and whether the model answers it right.

    What falls?
    A. Rain
    B. Snow
    Answer with the option's letter from the given choices directly.

This is the prompt of multiple choices in the released code and in lmms-eval's Video-MME. The video
or image stands before it, so questions about one begin alike and its tokens are read once.

An option is chosen by likelihood, which is exact, or its letter is read from a free answer. A free
answer to an open question is right when it is the true one, apart from case, spaces, and
punctuation around it: no synonym counts, and no judge is asked.

Shapes: F frames, Q visual tokens of a frame, S visual tokens of an image, D width of the language
model.
"""

import re
import unicodedata
from string import ascii_uppercase as LETTERS

import torch

from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.answer.score import best_option
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.questions import Decide, QuestionsConfig

INSTRUCTION = "Answer with the option's letter from the given choices directly."

_AROUND = " .,;:!?\"'\u201c\u201d\u2018\u2019\u00ab\u00bb\u3001\u3002"

_ONLY_A_LETTER = re.compile(r"\W*([A-Za-z])\W*")

_LETTER = re.compile(
    r"(?:^|(?i:\b(?:answer|option|choice)(?:\s+is)?\b))\W*([A-Z])[ \t]*(?:$|[\n.):,\]*])"
)
"""A letter that opens the answer or is announced in it, and that no sentence goes on from: "B. The
snow", "(B)", "The answer is B.", but not "A man walks"."""


def prompt_text(record: QuestionRecord, decide: Decide) -> str:
    """What stands after the video or image."""
    if not record.options or decide == "text":
        return record.question
    listed = [
        f"{letter}. {option}" for letter, option in zip(LETTERS, record.options, strict=False)
    ]
    return "\n".join([record.question, *listed, INSTRUCTION])


def ask(
    engine: AnswerEngine, record: QuestionRecord, tokens: torch.Tensor, config: QuestionsConfig
) -> TrialOutcome:
    """Ask about the video (FQD) or image (SD) with these tokens, and decide.

    Returns:
        right; said, the letter chosen or the open answer, None when no letter could be read;
        logprobs of all options, and text of the free answer, each None when it was not needed.
    """
    text = prompt_text(record, config.decide)
    content = [{"type": record.item.kind}, {"type": "text", "text": text}]
    question = Question(messages=[{"role": "user", "content": content}], items=[tokens])
    prompt = engine.read(question)
    if record.options and config.decide != "generate":
        by_letter = config.decide == "letter"
        candidates = LETTERS[: len(record.options)] if by_letter else record.options
        scores = engine.score(prompt, [engine.answer_ids(each) for each in candidates])
        said = LETTERS[best_option(scores)]
        logprobs = [score.logprob for score in scores]
        return {"right": said == record.answer, "said": said, "logprobs": logprobs, "text": None}
    free = engine.answer(prompt, GenerationSettings(max_new_tokens=config.max_new_tokens))
    if record.options:
        letter = letter_in(free, record.options)
        return {"right": letter == record.answer, "said": letter, "logprobs": None, "text": free}
    right = normalised(free) == normalised(record.answer)
    return {"right": right, "said": free, "logprobs": None, "text": free}


def letter_in(text: str, options: tuple[str, ...]) -> str | None:
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
