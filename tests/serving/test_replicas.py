"""What a replica does beside answering."""

import asyncio
import threading

import pytest

from longva_ray.serving.replicas import _in_thread


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
