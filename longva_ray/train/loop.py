"""The training loop of one worker, whatever the stage: step, watch, save, stop.

    run(stage, config, mesh, device, link) -> Outcome

The loop knows no Ray: whatever reaches beyond this process (records, checkpoints, the wish to stop)
goes through a `Link`, so that tests and notebooks can run it alone. All decisions depend only on
numbers that every rank has, so all ranks decide the same in the same step. Two small all-reduces a
step carry the number of labels, by which the loss is divided, and whether anybody asked to stop.

A loss or gradient that is not finite, of held-out rows too, ends the run before anything is saved:
what is saved is good.

Held-out rows are read between two steps, where the settings say so, and change nothing that is
trained. What the loop does not do: read ahead while the device computes.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
import torch.distributed as dist

from longva_ray.ring.mesh import RingMesh
from longva_ray.settings.training import TrainConfig
from longva_ray.train import checkpoints
from longva_ray.train.engine import Engine
from longva_ray.train.plain import TorchEngine
from longva_ray.train.records import Outcome, StepRecord
from longva_ray.train.schedule import learning_rate
from longva_ray.train.speed import matmul_peak
from longva_ray.train.stage import DTYPES, MicroBatch, Stage
from longva_ray.train.sums import sum_over_ranks

logger = logging.getLogger(__name__)


class Link(Protocol):
    """A worker's link to the world outside."""

    def stop_requested(self) -> bool:
        """Whether this rank was asked to stop after the step; must not wait."""
        ...

    def doing(self, what: str) -> None:
        """What this rank does from now on, to find one that hangs; must not wait."""
        ...

    def record(self, record: StepRecord) -> None:
        """A step is done; called on rank 0."""
        ...

    def checkpoint_folder(self) -> Path:
        """A new local folder for this rank's share of a checkpoint."""
        ...

    def keep(self, folder: Path, record: StepRecord, *, wait: bool) -> None:
        """Persist a written folder, on all ranks; `wait` until it is safe."""
        ...

    def latest(self) -> AbstractContextManager[Path | None]:
        """The last checkpoint, with the shares of all ranks, as a local folder."""
        ...

    def final_folder(self) -> AbstractContextManager[Path]:
        """A local folder whose content is published when the context ends; called on rank 0."""
        ...


def run(
    stage: Stage, config: TrainConfig, mesh: RingMesh, device: torch.device, link: Link
) -> Outcome:
    """Train from the last checkpoint, or from the start, to the end; every rank calls it."""
    module = stage.build(mesh, device)
    engine = make_engine(module, stage.parameter_groups(), config, device)
    stage.check()
    with link.latest() as folder:
        start = 0
        if folder is not None:
            start = checkpoints.restore(engine, folder, stage.identity(), config)
    logger.info("training from step %d to %d", start, config.steps)

    for step in range(start, config.steps):
        with _named_waits(mesh, step + 1, config.collective_timeout_s):
            record = _train_step(stage, engine, config, device, link, step)
            if math.isfinite(record.grad_norm) and config.validates_after(record.step):
                link.doing(f"reads the held-out rows after step {record.step}")
                record = dataclasses.replace(record, held_out=_validate(stage, engine))
            stop = _stop_requested(link, device)
        if message := _not_finite(record, stage, config):
            return Outcome(status="diverged", step=step, message=message)
        if _rank(mesh) == 0:
            link.record(record)
        last = record.step == config.steps
        if stop or last or record.step % config.checkpoint_every == 0:
            link.doing(f"saves after step {record.step}")
            folder = link.checkpoint_folder()
            checkpoints.save(engine, folder, record.step, stage.identity(), config)
            link.keep(folder, record, wait=stop or last)
        if stop and not last:
            return Outcome(status="stopped", step=record.step)

    _publish(stage, engine, link, mesh)
    peak = matmul_peak(device, DTYPES[config.dtype])
    return Outcome(status="finished", step=config.steps, peak_flops=peak)


def _train_step(
    stage: Stage,
    engine: Engine,
    config: TrainConfig,
    device: torch.device,
    link: Link,
    step: int,
) -> StepRecord:
    """One optimizer step, unless its loss is not finite."""
    started = time.perf_counter()
    link.doing(f"reads the rows of step {step + 1}")
    batches = stage.micro_batches(step)
    link.doing(f"computes step {step + 1}")
    totals = _totals(batches, device)
    num_labels = int(totals[0])
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for batch in batches:
        share = engine(**batch.inputs, denominator=num_labels)
        engine.backward(share, last=batch is batches[-1])
        loss += share.detach()
    value, norm = float(loss), math.nan
    rate = learning_rate(
        step,
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        steps=config.steps,
        schedule=config.schedule,
    )
    if math.isfinite(value):
        norm = engine.step(rate)
    return StepRecord(
        step=step + 1,
        loss=value,
        grad_norm=norm,
        learning_rate=rate,
        labels=num_labels,
        tokens=int(totals[1]),
        flops=float(totals[2]),
        seconds=time.perf_counter() - started,
        memory_gib=_memory_gib(device),
        measured=stage.measured(),
    )


def _not_finite(record: StepRecord, stage: Stage, config: TrainConfig) -> str:
    """What of a step is not finite, and why if that is known; empty if all is."""
    numbers = {"loss": record.loss, "gradient norm": record.grad_norm}
    numbers |= {f"held-out {name}": value for name, value in record.held_out.items()}
    if all(map(math.isfinite, numbers.values())):
        return ""
    told = ", ".join(f"{name} {value}" for name, value in numbers.items())
    if record.step > 1:
        return f"step {record.step}: {told}"
    return (
        f"step 1: {told}; nothing was trained before it, so the weights of "
        f"{stage.identity().get('base')} are damaged or leave the range of {config.dtype}"
    )


def _totals(batches: list[MicroBatch], device: torch.device) -> torch.Tensor:
    """Labels, tokens and FLOPs of a step over all ranks."""
    sums = [
        sum(batch.num_labels for batch in batches),
        sum(batch.num_tokens for batch in batches),
        sum(batch.flops for batch in batches),
    ]
    return sum_over_ranks(sums, device)


@torch.no_grad()
def _validate(stage: Stage, engine: Engine) -> dict[str, float]:
    """What the stage says of its held-out rows under the weights of now."""
    engine.module.eval()
    try:
        return stage.validate(engine)
    finally:
        engine.module.train()


def _stop_requested(link: Link, device: torch.device) -> bool:
    """Whether any rank was asked to stop; all get the same answer. Asked after a step, so that a
    request is heard before another long step begins."""
    return bool(sum_over_ranks([link.stop_requested()], device))


def _publish(stage: Stage, engine: Engine, link: Link, mesh: RingMesh) -> None:
    """Collect the whole weights on rank 0 and let the stage write them."""
    link.doing("publishes the result")
    weights = engine.whole_weights(stage.model())
    if _rank(mesh) == 0:
        with link.final_folder() as folder:
            stage.save(weights, folder)
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def _named_waits(mesh: RingMesh, step: int, timeout_s: int) -> Iterator[None]:
    """Say who waited, and where, when a collective fails."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        if "timed out" in text or "timeout" in text:
            what = f"waited more than {timeout_s} s for another rank, which hangs or is gone"
        elif "connection" in text:
            what = "lost the connection to another rank"
        else:
            raise
        raise RuntimeError(
            f"rank {_rank(mesh)} (ring {mesh.data_rank}, place {mesh.ring_rank} in it) {what}, in "
            f"step {step}: {error}"
        ) from error


def _rank(mesh: RingMesh) -> int:
    return mesh.data_rank * mesh.ring_size + mesh.ring_rank


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def make_engine(
    module: torch.nn.Module,
    groups: list[dict[str, Any]],
    config: TrainConfig,
    device: torch.device,
) -> Engine:
    """The engine that `config.zero_stage` asks for."""
    if config.zero_stage == 0:
        return TorchEngine(module, groups, config, device)
    from longva_ray.train.zero import DeepSpeedEngine

    return DeepSpeedEngine(module, groups, config, device)
