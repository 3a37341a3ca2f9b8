"""What a replica does besides answering."""

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest
from encoded_video import SPEC, VIDEO_ID, write_video

from longva_ray.answer.generate import AnswerPiece
from longva_ray.serving.api import FramesRead, PromptUsage
from longva_ray.serving.items import VideoRef
from longva_ray.serving.replicas import LanguageModel, _in_thread
from longva_ray.settings.answering import GenerationSettings, ServeConfig
from longva_ray.shards.store import ShardStore

MESSAGES = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what?"}]}]


WIDE = dataclasses.replace(SPEC, width=128)


LIMIT = 100


@pytest.fixture
def store(tmp_path: Path) -> ShardStore:
    """Holds a video of 12 frames of 4 tokens."""
    store = ShardStore(tmp_path / "store")
    write_video(store, WIDE)
    return store


@pytest.fixture
def replica(tiny_checkpoint: str, store: ShardStore) -> LanguageModel:
    config = ServeConfig(dtype="float32", max_prompt_tokens=LIMIT)
    return LanguageModel(tiny_checkpoint, store.root, config)


def chat(
    replica: LanguageModel, *, videos: int = 1, num_frames: int | None = None, answer_tokens: int
) -> list[tuple[PromptUsage, AnswerPiece]]:
    async def all_pieces() -> list[tuple[PromptUsage, AnswerPiece]]:
        refs = [VideoRef(video_id=VIDEO_ID, spec=WIDE, num_frames=num_frames)] * videos
        settings = GenerationSettings(max_new_tokens=256)
        messages = MESSAGES * videos
        return [piece async for piece in replica.chat(messages, refs, settings, answer_tokens)]

    return asyncio.run(all_pieces())


def test_what_is_too_long_is_refused_before_anything_is_loaded(
    replica: LanguageModel, store: ShardStore
) -> None:
    for part in Path(store.root).rglob("part-*.arrow"):
        part.unlink()  # whoever loads something now fails otherwise
    for frames, videos in ((None, 2), (None, 100_000), (6, 4)):
        with pytest.raises(ValueError, match=f"exceeds the limit of {LIMIT}"):
            chat(replica, videos=videos, num_frames=frames, answer_tokens=1)
    with pytest.raises(ValueError, match=f"answer of {LIMIT} exceed the limit of {LIMIT} for both"):
        chat(replica, answer_tokens=LIMIT)
    refs = [VideoRef(video_id=VIDEO_ID, spec=WIDE, num_frames=None)]
    with pytest.raises(ValueError, match=f"exceed the limit of {LIMIT} for both"):
        asyncio.run(replica.score(MESSAGES, refs, ["red", "red star " * LIMIT]))


def test_an_answer_without_a_limit_of_its_own_ends_at_the_models(replica: LanguageModel) -> None:
    read, last = chat(replica, answer_tokens=1)[-1]
    assert read.prompt_tokens + last.num_tokens <= LIMIT < read.prompt_tokens + 256


def test_fewer_frames_leave_room_and_are_told(replica: LanguageModel) -> None:
    (whole, _), *_ = chat(replica, answer_tokens=1)
    (some, _), *_ = chat(replica, num_frames=5, answer_tokens=1)
    (as_many, _), *_ = chat(replica, num_frames=50, answer_tokens=1)
    assert whole.prompt_tokens - some.prompt_tokens == (12 - 5) * 4
    assert as_many.videos == whole.videos
    assert (whole.cached_tokens, some.cached_tokens) == (0, 0)
    assert 12 * 4 < as_many.cached_tokens < whole.prompt_tokens
    assert list(whole.videos) == [FramesRead(frames_read=12, frames_available=12)]
    assert list(some.videos) == [FramesRead(frames_read=5, frames_available=12)]
    refs = [VideoRef(video_id=VIDEO_ID, spec=WIDE, num_frames=few) for few in (2, 3)]
    scored, _ = asyncio.run(replica.score(MESSAGES * 2, refs, ["red"]))
    assert [each.frames_read for each in scored.videos] == [2, 3]


def test_a_further_question_reads_its_own_words_only(
    replica: LanguageModel, store: ShardStore, tiny_checkpoint: str
) -> None:
    first = chat(replica, answer_tokens=1)
    for part in Path(store.root).rglob("part-*.arrow"):
        part.write_bytes(b"")  # whoever reads tokens now fails
    again = chat(replica, answer_tokens=1)
    assert [piece for _, piece in again] == [piece for _, piece in first]
    with pytest.raises(ValueError, match="part-"):
        chat(replica, num_frames=5, answer_tokens=1)
    config = ServeConfig(dtype="float32", max_prompt_tokens=LIMIT, session_gib=0)
    with pytest.raises(ValueError, match="part-"):
        chat(LanguageModel(tiny_checkpoint, store.root, config), answer_tokens=1)


def test_a_replica_that_works_is_healthy(replica: LanguageModel) -> None:
    replica.check_health()


def test_a_request_that_is_hung_up_ends_after_its_thread() -> None:
    started, unwanted = threading.Event(), threading.Event()
    ended = []

    def work() -> None:
        started.set()
        assert unwanted.wait(30), "nobody told the thread that its client is gone"
        ended.append(True)

    async def hang_up() -> None:
        request = asyncio.create_task(_in_thread(work, unwanted=unwanted))
        await asyncio.to_thread(started.wait)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert ended

    asyncio.run(hang_up())


def test_a_failure_in_the_thread_is_the_requests() -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(_in_thread(lambda: 1 / 0))
