"""The mailbox of a run: step records for the driver, the wish to stop for the workers.

    rank 0 --push--> records --take--> driver --request_stop--> all ranks

It runs in a separate process, so it imports next to nothing: with torch it would take seconds to
start and hundreds of MiB.
"""

import asyncio

from longva_ray.train.records import StepRecord


class Monitor:
    """Mailbox between the ranks and the driver; runs as an actor on the driver's node."""

    def __init__(self) -> None:
        self._records: list[StepRecord] = []
        self._doing: dict[int, str] = {}
        self._started = False
        self._stop = asyncio.Event()

    async def start(self) -> None:
        """Workers are about to train."""
        self._started = True

    async def push(self, record: StepRecord) -> None:
        self._records.append(record)

    async def take(self) -> list[StepRecord]:
        """Records since the last call."""
        taken, self._records = self._records, []
        return taken

    async def note(self, rank: int, what: str) -> None:
        """What a rank does now."""
        self._doing[rank] = what

    async def doing(self) -> dict[int, str]:
        """What every rank did last."""
        return dict(sorted(self._doing.items()))

    async def request_stop(self) -> bool:
        """Ask the workers to stop after their step; whether there are any."""
        self._stop.set()
        return self._started

    async def wait_for_stop(self) -> None:
        """Returns when somebody asked the workers to stop."""
        await self._stop.wait()
