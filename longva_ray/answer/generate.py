"""Prompt -> answer text, piece by piece, with a KV cache.

A plain loop over tokens, written as a generator: whoever stops iterating (a client that hung up, a
stop string) stops the model too, without threads or callbacks. The sampling rules themselves are
transformers' logits processors, and the greedy path gives exactly the tokens of `model.generate`.
One prompt at a time; beams and batches are `model.generate`'s work.

Shapes: W words of the vocabulary.
"""

import dataclasses
from collections.abc import Generator, Iterable
from typing import Any, Literal

import torch
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from longva_ray.answer.finite import check_finite
from longva_ray.answer.prefill import Prefill
from longva_ray.settings.answering import GenerationSettings

FinishReason = Literal["stop", "length"]


GREEDY_BELOW = 1e-4
"""Colder sampling than this is greedy: logits divided by less may overflow float32, and a lead of
.01 already decides."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPiece:
    """A piece of text that will not change any more; the last piece carries the reason for
    ending."""

    text: str
    num_tokens: int
    """Tokens generated so far."""
    finish_reason: FinishReason | None = None


def generate_tokens(
    model: PreTrainedModel, prompt: Prefill, settings: GenerationSettings
) -> Generator[int]:
    """Token ids after a prompt, up to but without the end-of-text token, at most `max_new_tokens`
    of them.

    The checkpoint's own repetition penalty is applied (LongVA's is 1.05, also when greedy), over
    generated tokens only, as `model.generate` does for prompts given as embeddings. Appends to the
    prompt's cache and crops it back at the end.

    Raises FloatingPointError when the model's logits are not finite, ValueError for a checkpoint
    without an end-of-text token."""
    processors = _logits_processors(model, settings)
    ends = _end_token_ids(model)
    device = prompt.next_logits_W.device
    random = None
    if settings.seed is not None:
        random = torch.Generator(device).manual_seed(settings.seed)
    generated: Any = torch.empty((1, 0), dtype=torch.long, device=device)
    logits_W = prompt.next_logits_W
    try:
        for step in range(settings.max_new_tokens):
            with torch.inference_mode():
                # The maximum is NaN where any logit is. A -inf may forbid a token.
                highest = logits_W.max()
                check_finite(highest, f"the highest logit for token {step} of the answer", model)
                scores_W = processors(generated, logits_W[None])[0]
                if settings.temperature < GREEDY_BELOW:
                    token = scores_W.argmax()
                else:
                    token = torch.multinomial(scores_W.softmax(-1), 1, generator=random)[0]
            if int(token) in ends:
                return
            yield int(token)
            generated = torch.cat([generated, token.view(1, 1)], dim=1)
            if step + 1 < settings.max_new_tokens:
                with torch.inference_mode():
                    output = model(
                        input_ids=token.view(1, 1), past_key_values=prompt.cache, use_cache=True
                    )
                logits_W = output.logits[0, -1].float()
    finally:
        prompt.rewind()


def stream_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prefill,
    settings: GenerationSettings,
) -> Generator[AnswerPiece]:
    """Answer text in pieces, cut before the first stop string; the last piece has a finish reason.

    Text is held back while it may still change: an unfinished UTF-8 character, or the start of a
    stop string."""
    held, num_tokens = "", 0
    tokens = generate_tokens(model, prompt, settings)
    for num_tokens, text in _texts(tokenizer, tokens):
        held += text
        stop_at = _find_stop(held, settings.stop)
        if stop_at is not None:
            tokens.close()
            yield AnswerPiece(text=held[:stop_at], num_tokens=num_tokens, finish_reason="stop")
            return
        settled = len(held) - _started_stop(held, settings.stop)
        if settled:
            yield AnswerPiece(text=held[:settled], num_tokens=num_tokens)
            held = held[settled:]
    finish_reason: FinishReason = "stop" if num_tokens < settings.max_new_tokens else "length"
    yield AnswerPiece(text=held, num_tokens=num_tokens, finish_reason=finish_reason)


def _texts(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int]) -> Generator[tuple[int, str]]:
    """(tokens so far, text that the last of them finished), and at the end what none finished.

    What a token spells depends on its neighbours alone, so only the last few are decoded again."""
    before: list[int] = []  # the tokens of the last text, which `new` follows
    new: list[int] = []
    number, text = 0, ""
    for number, token in enumerate(tokens, start=1):
        new.append(token)
        skipped = len(tokenizer.decode(before, skip_special_tokens=True))
        text = str(tokenizer.decode(before + new, skip_special_tokens=True))[skipped:]
        if text and not text.endswith("\ufffd"):  # else in the middle of a UTF-8 character
            yield number, text
            before, new, text = new, [], ""
    yield number, text


def _logits_processors(model: PreTrainedModel, settings: GenerationSettings) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    penalty = model.generation_config.repetition_penalty
    if penalty is not None and penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if settings.temperature >= GREEDY_BELOW:
        processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_p < 1:
            processors.append(TopPLogitsWarper(settings.top_p))
    return processors


def _end_token_ids(model: PreTrainedModel) -> set[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        raise ValueError(
            "the checkpoint's generation_config.json has no eos_token_id, so an answer could never "
            "end; add one"
        )
    return set(ends) if isinstance(ends, list) else {ends}


def _find_stop(text: str, stops: tuple[str, ...]) -> int | None:
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    return min(found, default=None)


def _started_stop(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of the text that may turn out to begin a stop string."""
    partial = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max(partial, default=0)
