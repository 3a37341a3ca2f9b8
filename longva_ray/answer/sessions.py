"""The KV of videos that were asked about, kept for the next question about them.

    key of everything before the question -> Trunk, read now or before

A question about a video that was read reads its own words only. What is kept is bounded in bytes.
Whatever was not asked about for the longest time goes first; what is evicted costs time, never an
answer, and a question that is being answered keeps its own hold on what it needs.

Two questions share a trunk only where their keys are equal, compared whole and not by a digest.

What it does not do: move to host memory or disk what does not fit, or share between replicas.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Hashable

from longva_ray.answer.branch import Trunk

_LOOK_S = 0.1
"""How often somebody who waits for another's reading looks whether the client is still there."""


@dataclasses.dataclass(kw_only=True, slots=True)
class SessionCounts:
    """What became of all questions so far, and what is kept."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    kept: int = 0
    kept_bytes: int = 0


class _Reading:
    """A trunk that somebody reads now."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.trunk: Trunk | None = None
        """What was read; None as long as nothing is, and after a failure."""


class Sessions:
    """Trunks by key, the least recently used first. For any number of threads."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: of all that is kept; a trunk that is larger is not kept: those who wait
        for it have it, too, and then it is gone."""
        self._max_bytes = max_bytes
        self._kept: collections.OrderedDict[Hashable, Trunk] = collections.OrderedDict()
        self._being_read: dict[Hashable, _Reading] = {}
        self._lock = threading.Lock()
        self._counts = SessionCounts()

    def trunk(
        self,
        key: Hashable,
        read: Callable[[], Trunk],
        *,
        num_bytes: int,
        unwanted: threading.Event | None = None,
    ) -> tuple[Trunk, bool]:
        """(the trunk of a key, whether it was there). Of several that want a new one, the first
        reads it, and the others wait and are given the same, whether it is kept or not.

        Args:
            num_bytes: about how many the trunk has, so that there is room before it is read.
            unwanted: when it is set, nobody waits for the result.

        Raises InterruptedError when the result is unwanted, and whatever `read` raises; the next
        who waits then reads.
        """
        while True:
            with self._lock:
                if (found := self._kept.get(key)) is not None:
                    self._kept.move_to_end(key)
                    self._counts.hits += 1
                    return found, True
                other = self._being_read.get(key)
                if other is None:
                    mine = self._being_read[key] = _Reading()
                    self._counts.misses += 1
                    self._make_room(num_bytes)
                    break
            while not other.ended.wait(_LOOK_S):
                if unwanted is not None and unwanted.is_set():
                    raise InterruptedError("the client of this prompt has gone")
            if other.trunk is not None:
                with self._lock:
                    self._counts.hits += 1
                return other.trunk, True
        try:
            mine.trunk = read()
            with self._lock:
                self._keep(key, mine.trunk)
            return mine.trunk, False
        finally:
            with self._lock:
                del self._being_read[key]
            mine.ended.set()

    def counts(self) -> SessionCounts:
        """As they are now."""
        with self._lock:
            return dataclasses.replace(self._counts)

    def _keep(self, key: Hashable, trunk: Trunk) -> None:
        if trunk.num_bytes > self._max_bytes:
            return
        self._make_room(trunk.num_bytes)
        self._kept[key] = trunk
        self._counts.kept += 1
        self._counts.kept_bytes += trunk.num_bytes

    def _make_room(self, num_bytes: int) -> None:
        """Evict until that many more bytes fit, or nothing is left; nothing for what never fits."""
        if num_bytes > self._max_bytes:
            return
        while self._kept and self._counts.kept_bytes + num_bytes > self._max_bytes:
            _, trunk = self._kept.popitem(last=False)
            self._counts.kept -= 1
            self._counts.kept_bytes -= trunk.num_bytes
            self._counts.evictions += 1
