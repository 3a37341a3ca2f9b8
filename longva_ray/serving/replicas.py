"""The workers of the application: one reads cached tokens and answers, one encodes new videos.

Both are plain classes that `app.build_app` deploys. Model code blocks, so it runs in threads. The
event loop of the replica stays free for health checks and cancellation.
"""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import torch

from longva_ray.answer.engine import AnswerEngine, Prompt
from longva_ray.answer.generate import AnswerPiece
from longva_ray.answer.score import best_option
from longva_ray.lm.prompt import Message
from longva_ray.serving.api import FramesRead, PromptUsage
from longva_ray.settings.answering import GenerationSettings, ServeConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames, encode_one_video

T = TypeVar("T")


async def _in_thread(
    function: Callable[..., T], *arguments: Any, unwanted: threading.Event | None = None
) -> T:
    """`asyncio.to_thread` whose request ends only after its thread, so that the limit on requests
    also limits threads. When the client hangs up, `unwanted` is set to tell the thread."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if unwanted is not None:
            unwanted.set()
        await asyncio.wait([work])
        raise


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoRef:
    """A video of the store and how many of its frames a question wants (None: all)."""

    video_id: str
    num_frames: int | None


class LanguageModel:
    """Reads visual tokens from the store and answers with the language model."""

    def __init__(
        self, checkpoint: str, store_root: str, spec: EncodingSpec, config: ServeConfig
    ) -> None:
        self._store = ShardStore(store_root)
        self._spec = spec
        self._engine = AnswerEngine(
            checkpoint,
            dtype=config.dtype,
            prefill_chunk=config.prefill_chunk,
            max_prompt_tokens=config.max_prompt_tokens,
        )

    def check_health(self) -> None:
        """Serve calls this every ten seconds and replaces the replica when it keeps failing."""
        self._engine.check_device()

    async def chat(
        self,
        messages: Sequence[Message],
        videos: Sequence[VideoRef],
        settings: GenerationSettings,
        answer_tokens: int,
    ) -> AsyncIterator[tuple[PromptUsage, AnswerPiece]]:
        """Stream (what was read, next piece of the answer).

        Raises ValueError when the prompt and an answer of `answer_tokens` are longer than allowed.
        An answer that grows longer than that ends at the limit."""
        prompt, read = await self._read(messages, videos, answer_tokens)
        pieces = self._engine.stream(prompt, settings)
        try:
            while (piece := await _in_thread(next, pieces, None)) is not None:
                yield read, piece
        finally:
            pieces.close()

    async def score(
        self, messages: Sequence[Message], videos: Sequence[VideoRef], answers: Sequence[str]
    ) -> tuple[PromptUsage, dict[str, Any]]:
        """(what was read; teacher-forced scores of the answers and the index of the likeliest,
        ready for JSON).

        Raises ValueError when the prompt and the longest answer are longer than allowed."""
        answer_ids = await _in_thread(lambda: [*map(self._engine.answer_ids, answers)])
        prompt, read = await self._read(messages, videos, max(map(len, answer_ids)))
        scores = await _in_thread(self._engine.score, prompt, answer_ids)
        described = [
            {
                "answer": answer,
                "exact_match": score.exact_match,
                "logprob": score.logprob,
                "mean_logprob": score.mean_logprob,
                "token_logprobs": score.token_logprobs,
                "predicted": self._engine.text(score.predicted_ids),
            }
            for answer, score in zip(answers, scores, strict=True)
        ]
        return read, {"scores": described, "best": best_option(scores)}

    async def _read(
        self, messages: Sequence[Message], videos: Sequence[VideoRef], answer_tokens: int
    ) -> tuple[Prompt, PromptUsage]:
        """The longest videos take minutes, so this ends early when the client hangs up."""
        unwanted = threading.Event()

        def read() -> tuple[Prompt, PromptUsage]:
            ids = {video.video_id for video in videos}
            opened = {video_id: self._store.open(video_id, self._spec) for video_id in ids}
            frames = [_frames(ref, opened[ref.video_id]) for ref in videos]
            prompt_ids_T = self._engine.prompt_ids(
                messages,
                [each.frames_read * self._spec.tokens_per_frame for each in frames],
                answer_tokens=answer_tokens,
            )
            tokens = [
                _tokens(opened[ref.video_id], each.frames_read)
                for ref, each in zip(videos, frames, strict=True)
            ]
            prompt = self._engine.read_ids(prompt_ids_T, tokens, unwanted)
            return prompt, PromptUsage(prompt_tokens=len(prompt_ids_T), videos=frames)

        return await _in_thread(read, unwanted=unwanted)


def _frames(ref: VideoRef, video: EncodedVideo) -> FramesRead:
    there = video.num_frames
    return FramesRead(frames_read=min(ref.num_frames or there, there), frames_available=there)


def _tokens(video: EncodedVideo, num_frames: int) -> torch.Tensor:
    """Tokens FQD of so many frames, spread evenly over those of the video."""
    return video.tokens(video.evenly(num_frames))


class VideoEncoder:
    """Encodes a video that is not in the store yet, with the workers of the batch job."""

    def __init__(
        self, checkpoint: str, store_root: str, spec: EncodingSpec, config: EncodeConfig
    ) -> None:
        self._store = ShardStore(store_root)
        self._spec = spec
        self._encode_frames = EncodeFrames(checkpoint, config)

    async def encode(self, path: str) -> str:
        """Encode one file and return its video id. Raises VideoError when it cannot be decoded."""
        record = await _in_thread(
            encode_one_video, path, self._store, self._spec, self._encode_frames
        )
        return record.video_id
