"""The workers of the application: one reads cached tokens and answers, one encodes what is new.

Both are plain classes that `app.build_app` deploys. Model code blocks, so it runs in threads. The
event loop of the replica stays free for health checks and cancellation.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from longva_ray.answer.engine import AnswerEngine, Prompt
from longva_ray.answer.generate import AnswerPiece
from longva_ray.answer.score import best_option
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.lm.prompt import Message
from longva_ray.serving.api import FramesRead, ImageRead, PromptUsage
from longva_ray.serving.items import ItemRef, ItemStore
from longva_ray.settings.answering import GenerationSettings, ServeConfig
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.given_frames import encode_given_frames, given_spec
from longva_ray.shards.image_encoder import ImageEncoder
from longva_ray.shards.images import ImageSpec, ImageStore
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


class LanguageModel:
    """Reads visual tokens from the store and answers with the language model."""

    def __init__(self, checkpoint: str, store_root: str, config: ServeConfig) -> None:
        self._checkpoint = checkpoint
        self._fingerprint: str | None = None
        self._items = ItemStore(store_root)
        self._engine = AnswerEngine(
            checkpoint,
            dtype=config.dtype,
            prefill_chunk=config.prefill_chunk,
            max_prompt_tokens=config.max_prompt_tokens,
            session_bytes=int(config.session_gib * 2**30),
        )

    def check_health(self) -> None:
        """Serve calls this every ten seconds and replaces the replica when it keeps failing."""
        self._engine.check_device()

    async def fingerprint(self) -> str:
        """Of the checkpoint; reads all weights when it is first asked for."""
        if self._fingerprint is None:
            self._fingerprint = await _in_thread(fingerprint_checkpoint, self._checkpoint)
        return self._fingerprint

    async def chat(
        self,
        messages: Sequence[Message],
        items: Sequence[ItemRef],
        settings: GenerationSettings,
        answer_tokens: int,
    ) -> AsyncIterator[tuple[PromptUsage, AnswerPiece]]:
        """Stream (what was read, next piece of the answer).

        Raises ValueError when the prompt and an answer of `answer_tokens` are longer than allowed.
        An answer that grows longer than that ends at the limit."""
        prompt, read = await self._read(messages, items, answer_tokens)
        pieces = self._engine.stream(prompt, settings)
        try:
            while (piece := await _in_thread(next, pieces, None)) is not None:
                yield read, piece
        finally:
            pieces.close()

    async def score(
        self, messages: Sequence[Message], items: Sequence[ItemRef], answers: Sequence[str]
    ) -> tuple[PromptUsage, dict[str, Any]]:
        """(what was read; teacher-forced scores of the answers and the index of the likeliest,
        ready for JSON).

        Raises ValueError when the prompt and the longest answer are longer than allowed."""
        answer_ids = await _in_thread(lambda: [*map(self._engine.answer_ids, answers)])
        prompt, read = await self._read(messages, items, max(map(len, answer_ids)))
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
        self, messages: Sequence[Message], items: Sequence[ItemRef], answer_tokens: int
    ) -> tuple[Prompt, PromptUsage]:
        """The longest videos take minutes, so this ends early when the client hangs up."""
        unwanted = threading.Event()

        def read() -> tuple[Prompt, PromptUsage]:
            opened = {ref: self._items.open(ref) for ref in set(items)}
            found = [opened[ref] for ref in items]
            prompt_ids_T = self._engine.prompt_ids(
                messages, [item.num_tokens for item in found], answer_tokens=answer_tokens
            )
            prompt, cached_tokens = self._engine.read_session(
                prompt_ids_T,
                [item.key for item in found],
                lambda: [item.tokens() for item in found],
                unwanted,
            )
            reads = [item.read for item in found]
            usage = PromptUsage(
                prompt_tokens=len(prompt_ids_T),
                cached_tokens=cached_tokens,
                videos=[read for read in reads if isinstance(read, FramesRead)],
                images=[read for read in reads if isinstance(read, ImageRead)],
            )
            return prompt, usage

        return await _in_thread(read, unwanted=unwanted)


class MediaEncoder:
    """Encodes what is not in the store yet: videos with the workers of the batch job, images as in
    alignment."""

    def __init__(
        self,
        checkpoint: str,
        store_root: str,
        spec: EncodingSpec,
        image_spec: ImageSpec,
        config: EncodeConfig,
        max_pixels: int,
    ) -> None:
        """`max_pixels`: most pixels of an image."""
        self._store = ShardStore(store_root)
        self._spec = spec
        self._encode_frames = EncodeFrames(checkpoint, config)
        self._encode_image = ImageEncoder(
            self._encode_frames.encoder, image_spec, ImageStore(store_root), max_pixels=max_pixels
        )
        self._max_pixels = max_pixels

    async def encode(self, path: str) -> None:
        """Encode a video file. Raises VideoError when it cannot be decoded."""
        await _in_thread(encode_one_video, path, self._store, self._spec, self._encode_frames)

    async def encode_image(self, content: bytes, what: str) -> None:
        """Encode an image. Raises ImageError, which calls it `what`, when it cannot be decoded."""
        await _in_thread(self._encode_image, content, what)

    async def encode_frames(self, frames: Sequence[bytes]) -> None:
        """Encode the frames of a video, each the content of an image file. Raises ImageError."""

        def encode() -> None:
            spec = given_spec(self._spec)
            encode_given_frames(
                frames, self._store, spec, self._encode_frames, max_pixels=self._max_pixels
            )

        await _in_thread(encode)
