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

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.generate import AnswerPiece, stream_answer
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.score import AnswerScore, score_answer
from longva_ray.lm.load import load_language_model
from longva_ray.lm.prompt import Message, build_prompt, check_prompt_length
from longva_ray.lm.splice import embed_prompt
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype


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
        use_cached_attention(self._lm.model.to(device))
        self._prefill_chunk = prefill_chunk
        # For `check_device`, which must neither wait behind what a long prompt has queued nor need
        # memory when prompts have taken it all.
        self._probe = torch.ones(1, device=device)
        self._probe_stream = torch.cuda.Stream(device) if device == "cuda" else None
        # Threads share it, and how it treats control tokens is set on it, not handed to each call.
        self._tokenizer_lock = threading.Lock()

    def prompt_ids(
        self,
        messages: Sequence[Message],
        visual_tokens: Sequence[int],
        *,
        answer_tokens: int = 1,
    ) -> torch.Tensor:
        """Token ids T of a question, from how many visual tokens each of its videos has: what may
        be loaded is known before it is.

        Raises ValueError when placeholders and videos do not match, or the prompt with an answer of
        `answer_tokens` is longer than allowed."""
        limit = self._lm.config.max_prompt_tokens
        # First, since even the placeholders of very many videos would fill the memory.
        check_prompt_length(sum(visual_tokens), limit)
        with self._tokenizer_lock:
            prompt_ids_T = build_prompt(
                self._lm.tokenizer, messages, visual_tokens, max_prompt_tokens=limit
            )
        room = self._room(len(prompt_ids_T))
        if room is not None and answer_tokens > room:
            raise ValueError(
                f"prompt of {len(prompt_ids_T)} tokens and answer of {answer_tokens} exceed the "
                f"limit of {limit} for both; ask for an answer of at most {room}, give fewer "
                "frames, or raise max_prompt_tokens"
            )
        return prompt_ids_T

    def read(self, question: Question, unwanted: threading.Event | None = None) -> Prefill:
        """Put a question into a KV cache.

        Raises ValueError as `prompt_ids` does, InterruptedError once `unwanted` is set."""
        lengths = [video_FQD.shape[0] * video_FQD.shape[1] for video_FQD in question.videos]
        prompt_ids_T = self.prompt_ids(question.messages, lengths)
        return self.read_ids(prompt_ids_T, question.videos, unwanted)

    def read_ids(
        self,
        prompt_ids_T: torch.Tensor,
        videos: Sequence[torch.Tensor],
        unwanted: threading.Event | None = None,
    ) -> Prefill:
        """Put a question whose `prompt_ids` are known into a KV cache, with tokens FQD of each of
        its videos.

        Raises InterruptedError once `unwanted` is set."""
        embeds_1TD = embed_prompt(self._lm, prompt_ids_T, videos)
        return prefill(self._lm.model, embeds_1TD, chunk=self._prefill_chunk, unwanted=unwanted)

    def stream(self, prompt: Prefill, settings: GenerationSettings) -> Generator[AnswerPiece]:
        """Answer a question that was read, piece by piece, up to the limit of prompt and answer at
        most."""
        room = self._room(prompt.length)
        if room is not None and room < settings.max_new_tokens:
            settings = dataclasses.replace(settings, max_new_tokens=room)
        return stream_answer(self._lm.model, self._lm.tokenizer, prompt, settings)

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer to be scored; it is text even where it spells a control token."""
        with self._tokenizer_lock:
            return self._lm.tokenizer.encode(
                answer, add_special_tokens=False, split_special_tokens=True
            )

    def score(self, prompt: Prefill, answers: Sequence[Sequence[int]]) -> list[AnswerScore]:
        """Teacher-forced score of each answer, given by its `answer_ids`, to a question that was
        read."""
        return [score_answer(self._lm.model, prompt, answer_ids) for answer_ids in answers]

    def check_device(self) -> None:
        """Raises RuntimeError when the model's device takes no more work: after an assertion failed
        in a kernel, a CUDA context never does."""
        with torch.cuda.stream(self._probe_stream):
            self._probe.item()

    def _room(self, prompt_tokens: int) -> int | None:
        """Tokens that an answer to a prompt that long may have; None, any number."""
        limit = self._lm.config.max_prompt_tokens
        return None if limit is None else limit - prompt_tokens

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self._lm.tokenizer.decode(list(token_ids)))
