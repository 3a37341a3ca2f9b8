"""The mailbox of a run: what goes in comes out once, and its process stays small."""

import asyncio
import subprocess
import sys

from longva_ray.train.records import StepRecord
from longva_ray.train.run.monitor import Monitor


def record(step: int) -> StepRecord:
    return StepRecord(
        step=step,
        loss=1.0,
        grad_norm=1.0,
        learning_rate=0.1,
        labels=1,
        tokens=1,
        flops=1.0,
        seconds=1.0,
        memory_gib=0.5,
    )


def test_records_are_taken_once_and_ranks_are_in_order() -> None:
    async def talk() -> None:
        monitor = Monitor()
        for step in (1, 2):
            await monitor.push(record(step))
        assert [each.step for each in await monitor.take()] == [1, 2]
        assert await monitor.take() == []
        for rank, what in ((1, "reads"), (0, "reads"), (0, "computes")):
            await monitor.note(rank, what)
        assert list((await monitor.doing()).items()) == [(0, "computes"), (1, "reads")]

    asyncio.run(talk())


def test_a_wish_to_stop_is_heard_and_says_whether_anybody_works() -> None:
    async def talk() -> bool:
        monitor = Monitor()
        assert not await monitor.request_stop()
        await monitor.start()
        waiting = asyncio.create_task(monitor.wait_for_stop())
        started = await monitor.request_stop()
        await asyncio.wait_for(waiting, timeout=10)
        return started

    assert asyncio.run(talk())


def test_it_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, longva_ray.train.run.monitor\n"
        "print(*{'torch', 'transformers', 'ray', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
