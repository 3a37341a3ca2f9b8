"""A question -> its prompt, what the model says, and whether it is right.

The video or image stands before the text, so questions about one begin alike and its tokens are
read once. An option is chosen by likelihood, which is exact, or its letter is read from a free
answer (`rules`).

Shapes: F frames, Q visual tokens of a frame, S visual tokens of an image, D width of the language
model.
"""

from collections.abc import Callable, Sequence
from string import ascii_uppercase as LETTERS

import torch

from longva_ray.answer.engine import AnswerEngine, Question
from longva_ray.answer.score import best_option
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.rules import choice_prompt, judge_free_answer
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.questions import Decide, QuestionsConfig


def prompt_text(record: QuestionRecord, decide: Decide) -> str:
    """What stands after the video or image."""
    return choice_prompt(record.question, () if decide == "text" else record.options)


def ask(
    engine: AnswerEngine, record: QuestionRecord, tokens: torch.Tensor, config: QuestionsConfig
) -> TrialOutcome:
    """Ask about the video (FQD) or image (SD) with these tokens, and decide; see `decide`."""
    text = prompt_text(record, config.decide)
    content = [{"type": record.item.kind}, {"type": "text", "text": text}]
    question = Question(messages=[{"role": "user", "content": content}], items=[tokens])
    prompt = engine.read(question)

    def choose(candidates: Sequence[str]) -> tuple[int, list[float]]:
        scores = engine.score(prompt, [engine.answer_ids(each) for each in candidates])
        return best_option(scores), [score.logprob for score in scores]

    def answer() -> str:
        return engine.answer(prompt, GenerationSettings(max_new_tokens=config.max_new_tokens))

    return decide(record, config.decide, choose, answer)


def decide(
    record: QuestionRecord,
    by: Decide,
    choose: Callable[[Sequence[str]], tuple[int, list[float]]],
    answer: Callable[[], str],
) -> TrialOutcome:
    """What a model says to a question, and whether it is right.

    Args:
        choose: answers -> the place of the likeliest, and the log-probability of each.
        answer: the model's free answer.

    Returns:
        right; said, the letter chosen or the open answer, None when no letter could be read;
        logprobs of all options, and text of the free answer, each None when it was not needed.
    """
    if record.options and by != "generate":
        best, logprobs = choose(
            LETTERS[: len(record.options)] if by == "letter" else record.options
        )
        said = LETTERS[best]
        return {"right": said == record.answer, "said": said, "logprobs": logprobs, "text": None}
    free = answer()
    right, free_said = judge_free_answer(free, record.options, record.answer)
    return {"right": right, "said": free_said, "logprobs": None, "text": free}
