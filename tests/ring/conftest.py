"""Fixtures of the ring tests, and the way to `ring_workers` and `ring_reference`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Worker processes inherit sys.path, so the helpers are importable there too.
sys.path.insert(0, str(Path(__file__).parent))

from ring_workers import WorkerPool


@pytest.fixture(scope="session")
def pool() -> Iterator[WorkerPool]:
    """Worker processes for jobs on 1, 2 and 4 ranks."""
    workers = WorkerPool()
    yield workers
    workers.stop()
