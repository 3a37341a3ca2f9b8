"""Start a training run on a Ray cluster and stay with it until it ends.

    train(stage, config, storage="/data/runs", name="extend-1", ...) -> Outcome

Mistakes that can be found before a worker starts are reported before. The same name under the same
storage continues a run: after a crash of the driver, after a stop, or by Ray Train itself when a
worker is lost. The first SIGTERM or Ctrl-C lets the workers finish their step and save; the second
one ends the run immediately.

    storage/name/metrics.jsonl, tensorboard/   numbers of every step
    storage/name/step_0000200/                 checkpoints (`train.checkpoints`)
    storage/name/final/                        the result, with recipe and provenance

Trade-off: trackers write where the driver is. Where storage is a URI, metrics are copied to it with
every checkpoint and when the run ends.
"""

import contextlib
import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
import ray.train.torch
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from longva_ray.cluster.job import connect
from longva_ray.files.folder import lock
from longva_ray.files.places import is_uri
from longva_ray.settings.training import TrainConfig
from longva_ray.train import checkpoints
from longva_ray.train.records import Outcome
from longva_ray.train.run.failure import explain, mistake_in
from longva_ray.train.run.monitor import Monitor
from longva_ray.train.run.ray_internals import Trainer
from longva_ray.train.run.storage import drop_damaged_index, probe_storage, tracker_folder
from longva_ray.train.run.trackers import check_installed
from longva_ray.train.run.watch import Watch
from longva_ray.train.run.worker import work
from longva_ray.train.stage import Stage

logger = logging.getLogger(__name__)


def train(
    stage: Stage,
    config: TrainConfig,
    *,
    storage: str,
    name: str,
    documents: dict[str, Any],
) -> Outcome:
    """Run a stage to its end, on the cluster that this process is connected to, or connects to.

    Args:
        storage: absolute folder or URI that driver and all workers reach.
        documents: what is written as JSON next to the result, by file name.

    Raises ValueError for storage that cannot be used, trackers that are not installed, a
    checkpoint under this name that belongs to another run, a run of this name in the same folder
    that is not over, or a user's mistake that only a worker could find.
    """
    check_installed(config.trackers)
    filesystem, root = probe_storage(storage, name)
    run, remote = f"{root}/{name}", is_uri(storage)
    with contextlib.nullcontext() if remote else lock(Path(run) / ".lock"):
        checkpoint, step = find_checkpoint(stage, config, filesystem, run) or (None, 0)
        already = step == config.steps
        # Only on a local disk is a result whole as soon as it is there.
        if already and not remote and Path(run, "final").is_dir():
            return Outcome(status="finished", step=step, already=True)
        drop_damaged_index(filesystem, run)
        connect()
        _warn_of_small_cluster(config)
        monitor = _start_monitor()
        settings = {
            "stage": stage,
            "config": config,
            "monitor": monitor,
            "checkpoint": checkpoint,
            "final": f"{run}/final",
            "documents": documents,
        }
        trainer = _make_trainer(settings, config, root, name, filesystem if remote else None)
        with tracker_folder(filesystem, run, remote=remote) as (folder, publish):
            watch = Watch(monitor, config, folder=folder, name=name, publish=publish)
            outcome = watch.follow(lambda: _fit(trainer, monitor))
            return dataclasses.replace(outcome, already=already)


def train_to_end(
    stage: Stage, config: TrainConfig, *, storage: str, name: str, documents: dict[str, Any]
) -> Path:
    """`train` in a folder, for those who want the result: returns where it is.

    Raises ValueError also for a run that was stopped, failed or diverged.
    """
    outcome = train(stage, config, storage=storage, name=name, documents=documents)
    if outcome.status != "finished":
        raise ValueError(f"{name}: {outcome.status} after step {outcome.step}. {outcome.message}")
    return Path(storage) / name / "final"


def find_checkpoint(
    stage: Stage, config: TrainConfig, filesystem: pyarrow.fs.FileSystem, folder: str
) -> tuple[str, int] | None:
    """The last complete checkpoint in a run's folder, which the run goes on from, and its step.

    Logs which settings have changed. Raises ValueError when it belongs to another run.
    """
    found = checkpoints.newest_complete(filesystem, folder)
    if found is None:
        return None
    path, progress = found
    checkpoints.check_same_run(progress, stage.identity(), config)
    for change in checkpoints.changed_settings(progress, config):
        logger.warning("going on from step %d with another setting: %s", progress.step, change)
    return path, progress.step


def _fit(trainer: TorchTrainer, monitor: Any) -> Outcome:
    """Run the trainer; a run that fails or diverges names its last good checkpoint. Raises a user's
    mistake that a worker found."""
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as error:
        mistake = mistake_in(error)
        if mistake is not None:
            raise mistake from error
        return Outcome(
            status="failed", step=0, message=explain(error, ray.get(monitor.doing.remote()))
        )
    outcome: Outcome = result.return_value
    if outcome.status != "diverged":
        return outcome
    good = result.checkpoint.path if result.checkpoint else "none was written"
    return Outcome(
        status="diverged",
        step=outcome.step,
        message=f"{outcome.message}; last good checkpoint: {good}",
    )


def _make_trainer(
    settings: dict[str, Any],
    config: TrainConfig,
    root: str,
    name: str,
    filesystem: pyarrow.fs.FileSystem | None,
) -> TorchTrainer:
    # Ranks wait for each other when they report a checkpoint too; Ray itself sets no limit.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(config.collective_timeout_s)
    return Trainer(
        work,
        train_loop_config={"settings": ray.put(settings)},
        torch_config=TorchConfig(
            backend="nccl" if config.gpus_per_worker else "gloo",
            timeout_s=config.collective_timeout_s,
        ),
        scaling_config=_scaling(config),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=root,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=config.keep_checkpoints),
        ),
    )


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    resources = {"CPU": config.cpus_per_worker}
    if config.gpus_per_worker:
        resources["GPU"] = config.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=resources,
    )


def _start_monitor() -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(Monitor)
    return actor.options(num_cpus=0, scheduling_strategy=here).remote()


def _warn_of_small_cluster(config: TrainConfig) -> None:
    have = ray.cluster_resources()
    for kind, each in (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker)):
        need = each * config.num_workers
        if need > have.get(kind, 0):
            logger.warning(
                "%d workers need %g %ss and the cluster shows %g: waiting for it to grow",
                config.num_workers,
                need,
                kind,
                have.get(kind, 0),
            )
