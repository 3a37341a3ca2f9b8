"""Prompt -> answer text, piece by piece, with a KV cache.

A plain loop over tokens, written as a generator: whoever stops iterating (a client that hung up, a
stop string) stops the model too, without threads or callbacks. The sampling rules themselves are
transformers' logits processors, and the greedy path gives exactly the tokens of `model.generate`.
One prompt at a time; beams and batches are `model.generate`'s work.

Shapes: W words of the vocabulary.
"""

import dataclasses
from collections.abc import Generator
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

from longva_ray.answer.prefill import Prefill
from longva_ray.config import GenerationSettings

FinishReason = Literal["stop", "length"]


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
    prompt's cache and crops it back at the end."""
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
                scores_W = processors(generated, logits_W[None])[0]
                if settings.temperature == 0:
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
    ids: list[int] = []
    sent = 0
    finish_reason: FinishReason = "length"
    tokens = generate_tokens(model, prompt, settings)
    for token in tokens:
        ids.append(token)
        text = str(tokenizer.decode(ids, skip_special_tokens=True))
        stop_at = _find_stop(text, settings.stop)
        if stop_at is not None:
            tokens.close()
            yield AnswerPiece(text=text[sent:stop_at], num_tokens=len(ids), finish_reason="stop")
            return
        settled = len(text) - _unsettled(text, settings.stop)
        if settled > sent:
            yield AnswerPiece(text=text[sent:settled], num_tokens=len(ids))
            sent = settled
    if len(ids) < settings.max_new_tokens:
        finish_reason = "stop"
    rest = str(tokenizer.decode(ids, skip_special_tokens=True))[sent:]
    yield AnswerPiece(text=rest, num_tokens=len(ids), finish_reason=finish_reason)


def _logits_processors(model: PreTrainedModel, settings: GenerationSettings) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    penalty = model.generation_config.repetition_penalty
    if penalty is not None and penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(penalty))
    if settings.temperature > 0:
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


def _unsettled(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of the text that the next token may still change."""
    unfinished = len(text) - len(text.rstrip("\ufffd"))
    partial = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max([unfinished, *partial])
