"""Messages + visual tokens -> scores or text: a language model with its tokenizer, ready to be
asked.

    checkpoint -> AnswerEngine;  question -> Prompt (read) -> AnswerScore | text | AnswerPiece ...

One engine for everybody who asks: the Serve replica, `longva ask`, the quiz and the needle tests.
It loads the language model alone; visual tokens come from shards, so no vision tower is ever in
memory here. Prompts are read into a KV cache, each anew, or going on from what it shares with the
last one (`prefix`) or with any before (`sessions`). With a ring of processes a prompt is spread
over all of them (`ring_score`): then answers can be scored, not generated.

Shapes: F frames, Q visual tokens of one frame, S visual tokens of an image, T tokens of the prompt,
D width of the language model.
"""

import dataclasses
import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from longva_ray.answer.attention import use_cached_attention
from longva_ray.answer.attention_mass import attention_of_answer
from longva_ray.answer.branch import Trunk, branch_cache
from longva_ray.answer.cache import bytes_per_token
from longva_ray.answer.generate import AnswerPiece, stream_answer
from longva_ray.answer.prefill import Prefill, prefill
from longva_ray.answer.prefix import PrefixReader
from longva_ray.answer.ring_score import (
    RingPrompt,
    nll_over_ring,
    ring_attention_name,
    score_over_ring,
)
from longva_ray.answer.score import AnswerScore, score_answer, token_nll
from longva_ray.answer.sessions import Sessions
from longva_ray.lm.fused import fuse
from longva_ray.lm.language_model import LoadedLanguageModel, load_language_model
from longva_ray.lm.prompt import Message, build_prompt, check_prompt_length, check_unicode
from longva_ray.lm.splice import embed_prompt, placeholder_mask
from longva_ray.settings.answering import GenerationSettings
from longva_ray.settings.base import Dtype

Prompt = Prefill | RingPrompt
"""A question that was read: in a KV cache, or on every process of a ring."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A conversation and the visual tokens of each image (SD) or video (FQD) that it mentions, in
    order."""

    messages: Sequence[Message]
    items: Sequence[torch.Tensor]


class AnswerEngine:
    """A language model that answers questions about images and videos that are encoded already, or
    about text."""

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: Dtype,
        prefill_chunk: int = 2048,
        max_prompt_tokens: int | None = None,
        rope_base: float | None = None,
        reuse_prefix: bool = False,
        session_bytes: int = 0,
        ring: dist.ProcessGroup | None = None,
    ) -> None:
        """
        Args:
            checkpoint: LongVA, or any causal language model that transformers loads.
            dtype: of the weights.
            prefill_chunk: tokens of a prompt in one forward pass.
            max_prompt_tokens: longest prompt instead of the checkpoint's limit.
            rope_base: RoPE base instead of the checkpoint's.
            reuse_prefix: keep the last prompt, and compute of the next one only what differs. Each
                prompt then lives until the next is read, so this is for one caller at a time.
            session_bytes: KV of images and videos that is kept for further questions about them
                (`read_session`), in bytes.
            ring: processes that share every prompt. Each has its own engine, and all of them call
                the same methods with the same arguments.

        Raises ValueError for a checkpoint that cannot be loaded.
        """
        self._lm = _load(checkpoint, dtype, rope_base, max_prompt_tokens, ring)
        self._chunk = prefill_chunk
        self._ring = ring
        branches = ring is None and use_cached_attention(self._lm.model)
        self.sessions = Sessions(session_bytes) if session_bytes and branches else None
        self.prefix_reader = (
            PrefixReader(self._lm.model, chunk=prefill_chunk) if reuse_prefix else None
        )
        # For `check_device`, which must neither wait for what a long prompt has queued nor need
        # memory when prompts have taken it all.
        self._probe = torch.ones(1, device=self.device)
        on_gpu = self.device.type == "cuda"
        self._probe_stream = torch.cuda.Stream(self.device) if on_gpu else None
        # Threads share it, and how it treats control tokens is set on it, not handed to each call.
        self._tokenizer_lock = threading.Lock()

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._lm.tokenizer

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return self._lm.model.device

    @property
    def can_generate(self) -> bool:
        """Whether there is a KV cache to append to, as there is none over a ring."""
        return self._ring is None

    def prompt_ids(
        self,
        messages: Sequence[Message],
        visual_tokens: Sequence[int],
        *,
        answer_tokens: int = 1,
    ) -> torch.Tensor:
        """Token ids T of a question, from how many visual tokens each of its images and videos has,
        so that a prompt is known to be allowed before its tokens are loaded.

        Raises ValueError when placeholders and items do not match, or the prompt with an answer of
        `answer_tokens` is longer than allowed."""
        limit = self._lm.max_prompt_tokens
        # First, since even the placeholders of very many items would fill the memory.
        check_prompt_length(sum(visual_tokens), limit)
        with self._tokenizer_lock:
            prompt_ids_T = build_prompt(
                self.tokenizer, messages, visual_tokens, max_prompt_tokens=limit
            )
        room = self._room(len(prompt_ids_T))
        if room is not None and answer_tokens > room:
            raise ValueError(
                f"prompt of {len(prompt_ids_T)} tokens and answer of {answer_tokens} exceed the "
                f"limit of {limit} for both; ask for an answer of at most {room}, give fewer "
                "frames or images, or raise max_prompt_tokens"
            )
        return prompt_ids_T

    def answer_ids(self, answer: str) -> list[int]:
        """Token ids of an answer to be scored; it is text even where it spells a control token.

        Raises ValueError for text that is not Unicode."""
        check_unicode(answer, "an answer to score")
        with self._tokenizer_lock:
            return self.tokenizer.encode(
                answer, add_special_tokens=False, split_special_tokens=True
            )

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens included."""
        return str(self.tokenizer.decode(list(token_ids)))

    def read(self, question: Question, unwanted: threading.Event | None = None) -> Prompt:
        """Read a question.

        Raises ValueError as `prompt_ids` does, InterruptedError once `unwanted` is set."""
        lengths = [tokens.shape[:-1].numel() for tokens in question.items]
        prompt_ids_T = self.prompt_ids(question.messages, lengths)
        return self.read_ids(prompt_ids_T, question.items, unwanted)

    @torch.inference_mode()
    def read_ids(
        self,
        prompt_ids_T: torch.Tensor,
        items: Sequence[torch.Tensor] = (),
        unwanted: threading.Event | None = None,
    ) -> Prompt:
        """Read a prompt whose token ids are known, with the tokens of each image and video.

        Raises InterruptedError once `unwanted` is set."""
        embeds_1TD = embed_prompt(self._lm, prompt_ids_T, items)
        if self._ring is not None:
            return RingPrompt(embeds_1TD=embeds_1TD)
        if self.prefix_reader is not None:
            return self.prefix_reader.read(embeds_1TD, unwanted)
        return prefill(self._lm.model, embeds_1TD, chunk=self._chunk, unwanted=unwanted)

    @torch.inference_mode()
    def read_session(
        self,
        prompt_ids_T: torch.Tensor,
        item_keys: Sequence[Hashable],
        load: Callable[[], Sequence[torch.Tensor]],
        unwanted: threading.Event | None = None,
    ) -> tuple[Prompt, int]:
        """Read a prompt, but of what ends with its last image or video only what no prompt before
        began with: (the prompt, tokens that were there already).

        Args:
            item_keys: what each image and video is, by content: where they are equal, so are the
                visual tokens.
            load: gives the tokens of each, if they are needed.

        Raises InterruptedError once `unwanted` is set, and whatever `load` raises."""
        visual = placeholder_mask(prompt_ids_T, self._lm.placeholder_ids).nonzero()
        if self.sessions is None or not len(visual):
            return self.read_ids(prompt_ids_T, load(), unwanted), 0
        model, end = self._lm.model, int(visual[-1]) + 1

        def read_trunk() -> Trunk:
            embeds_1TD = embed_prompt(self._lm, prompt_ids_T[:end], load())
            read = prefill(model, embeds_1TD, chunk=self._chunk, spare=0, unwanted=unwanted)
            return Trunk.of(read.cache)

        trunk, was_there = self.sessions.trunk(
            (prompt_ids_T[:end].numpy().tobytes(), *item_keys),
            read_trunk,
            num_bytes=end * bytes_per_token(model),
            unwanted=unwanted,
        )
        rest_1TD = embed_prompt(self._lm, prompt_ids_T[end:], [])
        cache = branch_cache(trunk)
        prompt = prefill(model, rest_1TD, chunk=self._chunk, cache=cache, unwanted=unwanted)
        return prompt, end if was_there else 0

    def score(self, prompt: Prompt, answers: Sequence[Sequence[int]]) -> list[AnswerScore]:
        """Teacher-forced score of each answer, given by its `answer_ids`, to a question that was
        read."""
        model = self._lm.model
        if isinstance(prompt, RingPrompt):
            return [score_over_ring(model, prompt, answer, self._ring) for answer in answers]
        return [score_answer(model, prompt, answer) for answer in answers]

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Generator[AnswerPiece]:
        """Answer a question that was read, piece by piece, up to the limit of prompt and answer at
        most.

        Raises ValueError over a ring."""
        if isinstance(prompt, RingPrompt):
            raise ValueError("over a ring answers are scored, not generated; use one process")
        room = self._room(prompt.length)
        if room is not None and room < settings.max_new_tokens:
            settings = dataclasses.replace(settings, max_new_tokens=room)
        return stream_answer(self._lm.model, self.tokenizer, prompt, settings)

    def answer(self, prompt: Prompt, settings: GenerationSettings) -> str:
        """What `stream` gives, as one text."""
        return "".join(piece.text for piece in self.stream(prompt, settings))

    def attention(
        self, question: Question, prompt: Prompt, answer: str
    ) -> list[torch.Tensor] | None:
        """How much of its attention to images and videos an answer paid to each token of them: S of
        an image, FQ of a video, together 1.

        None where nobody knows: over a ring, for an empty answer, and for a model that keeps an
        attention of its own."""
        answer_ids, items = self.answer_ids(answer), question.items
        if isinstance(prompt, RingPrompt) or not answer_ids or not items:
            return None
        mass_T = attention_of_answer(self._lm.model, prompt, answer_ids)
        if mass_T is None:
            return None
        shapes = [tokens.shape[:-1] for tokens in items]
        prompt_ids_T = self.prompt_ids(question.messages, [shape.numel() for shape in shapes])
        visual = mass_T.cpu()[placeholder_mask(prompt_ids_T, self._lm.placeholder_ids)]
        parts = (visual / visual.sum()).split([shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def token_nll(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Negative log-likelihood of tokens 1 .. T-1 of a text, each given all before it: (T-1)
        float32."""
        ids_T = torch.tensor(token_ids, device=self.device)
        if self._ring is not None:
            return nll_over_ring(self._lm.model, ids_T, self._ring)
        return token_nll(self._lm.model, ids_T, chunk=self._chunk)

    def check_device(self) -> None:
        """Raises RuntimeError when the model's device takes no more work: after an assertion failed
        in a kernel, a CUDA context never does."""
        with torch.cuda.stream(self._probe_stream):
            self._probe.item()

    def _room(self, prompt_tokens: int) -> int | None:
        """Tokens that an answer to a prompt that long may have; None, any number."""
        limit = self._lm.max_prompt_tokens
        return None if limit is None else limit - prompt_tokens


def _load(
    checkpoint: str,
    dtype: Dtype,
    rope_base: float | None,
    max_prompt_tokens: int | None,
    ring: dist.ProcessGroup | None,
) -> LoadedLanguageModel:
    """The language model on this process's GPU, if it sees one."""
    loaded = load_language_model(
        checkpoint,
        dtype=getattr(torch, dtype),
        attn_implementation=None if ring is None else ring_attention_name(),
        rope_theta=rope_base,
        max_prompt_tokens=max_prompt_tokens,
    )
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
    loaded.model.to(device)
    if device == "cuda":
        fuse(loaded.model)
    return loaded
