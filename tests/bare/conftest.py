"""Fixtures of the tests that need no Ray."""

from collections.abc import Iterator

import pytest
from worker_pool import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Worker processes for jobs on 1, 2 and 4 ranks."""
    workers = WorkerPool()
    yield workers
    workers.stop()
