"""The two verdicts on an answer: by teacher forcing, which is the paper's rule, and free.

engine, prompt that was read, true answer -> what both needle tests record of a trial
"""

from collections.abc import Callable, Sequence

from longva_ray.answer.engine import AnswerEngine, Prompt
from longva_ray.evaluate.ledger import TrialOutcome
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.needles import NeedleConfig

BEFORE_NUMBER, AFTER_NUMBER = r"(?<!\d)(?<!\d[.,])", r"(?!\d)(?![.,]\d)"
"""Patterns: what stands there is no part of a longer number, such as 1,234 or 0.5."""


def judge(
    engine: AnswerEngine,
    prompt: Prompt,
    answer: str,
    answer_ids: Sequence[int],
    config: NeedleConfig,
    *,
    gives: Callable[[str], bool],
) -> TrialOutcome:
    """Both verdicts; the free one, and its text, are None if none is wanted, or over a ring.

    Args:
        answer: the true one, of which `answer_ids` are the scored tokens.
        gives: whether a free answer gives the true one.
    """
    (score,) = engine.score(prompt, [answer_ids])
    text = None
    if config.generate and engine.can_generate:
        longest = len(answer_ids) + config.extra_tokens
        text = engine.answer(prompt, GenerationSettings(max_new_tokens=longest))
    return {
        "exact": score.exact_match,
        "generated": None if text is None else gives(text),
        "logprob": score.logprob,
        "answer": answer,
        "predicted": engine.text(score.predicted_ids),
        "predicted_ids": list(score.predicted_ids),
        "text": text,
    }
