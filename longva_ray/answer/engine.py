"""Messages + visual tokens -> scores or streamed text: the language model with its tokenizer, ready
to be asked.

One object for everybody who asks: the Serve replica, `longva ask` and the evaluations. It loads the
language model alone; the visual tokens come from shards, so no vision tower is ever in memory here.

Shapes: F frames, Q visual tokens of one frame, D width of the language model.
"""

import dataclasses
import threading
from collections.abc import Generator, Sequence
from typing import Any

import torch

from longva_ray.answer.generate import AnswerPiece, stream_answer
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.score import AnswerScore, score_answer
from longva_ray.config import Dtype, GenerationSettings
from longva_ray.lm.checkpoint import load_language_model
from longva_ray.lm.prompt import Message, build_prompt
from longva_ray.lm.splice import embed_prompt


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A conversation and the visual tokens FQD of each video that it mentions, in order."""

    messages: Sequence[Message]
    videos: Sequence[torch.Tensor]


class AnswerEngine:
    """A language model that answers questions about already encoded videos."""

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: Dtype,
        prefill_chunk: int = 2048,
        max_prompt_tokens: int | None = None,
    ) -> None:
        self._lm = load_language_model(
            checkpoint, dtype=getattr(torch, dtype), max_prompt_tokens=max_prompt_tokens
        )
        device: Any = "cuda" if torch.cuda.is_available() else "cpu"
        self._lm.model.to(device)
        self._prefill_chunk = prefill_chunk
        # Threads share it, and how it treats control tokens is set on it, not handed to each call.
        self._tokenizer_lock = threading.Lock()

    def read(self, question: Question, unwanted: threading.Event | None = None) -> Prefill:
        """Put a question into a KV cache.

        Raises ValueError when placeholders and videos do not match or the prompt is longer than
        allowed, InterruptedError once `unwanted` is set."""
        visual_tokens = [video_FQD.flatten(0, 1) for video_FQD in question.videos]
        with self._tokenizer_lock:
            prompt_ids_T = build_prompt(
                self._lm.tokenizer,
                question.messages,
                [len(tokens) for tokens in visual_tokens],
                max_prompt_tokens=self._lm.config.max_prompt_tokens,
            )
        embeds_1TD = embed_prompt(self._lm, prompt_ids_T, visual_tokens)
        return prefill(self._lm.model, embeds_1TD, chunk=self._prefill_chunk, unwanted=unwanted)

    def stream(self, prompt: Prefill, settings: GenerationSettings) -> Generator[AnswerPiece]:
        """Answer a question that was read, piece by piece."""
        return stream_answer(self._lm.model, self._lm.tokenizer, prompt, settings)

    def score(self, prompt: Prefill, answers: Sequence[str]) -> list[AnswerScore]:
        """Teacher-forced score of each answer to a question that was read."""
        scores = []
        for answer in answers:
            # An answer is text even where it spells a control token.
            with self._tokenizer_lock:
                answer_ids = self._lm.tokenizer.encode(
                    answer, add_special_tokens=False, split_special_tokens=True
                )
            scores.append(score_answer(self._lm.model, prompt, answer_ids))
        return scores

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self._lm.tokenizer.decode(list(token_ids)))
