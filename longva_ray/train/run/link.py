"""A worker's connection to Ray Train: checkpoints, step records, and the wish to stop.

Checkpoints are written to a local folder and uploaded to the run's storage in the background while
training goes on; the last one is waited for. Step records, what every rank does and the wish to
stop go through a small actor near the driver (`run.monitor`), and not through `ray.train.report`,
which makes all ranks wait for each other.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from longva_ray.files.digest import digest_of
from longva_ray.files.folder import upload
from longva_ray.train.loop import Link
from longva_ray.train.records import StepRecord


class RayLink(Link):
    """The link of one Ray Train worker."""

    def __init__(
        self, monitor: Any, *, checkpoint: str | None, final: str, documents: dict[str, Any]
    ) -> None:
        """
        Args:
            monitor: a handle on a `Monitor` actor; those have no types.
            checkpoint: where the run goes on, in its storage, unless Ray Train knows a later one.
            final: where the result goes, in the run's storage.
            documents: what is written as JSON next to the result, by file name.
        """
        self._monitor = monitor
        self._checkpoint = checkpoint
        self._final = final
        self._documents = documents
        self._rank = ray.train.get_context().get_world_rank()
        # One folder for this rank of this run, so that what a lost worker left does not stay.
        digest = digest_of(f"{final} {self._rank}", num_bytes=8)
        self._shares = Path(tempfile.gettempdir()) / f"longva-checkpoints-{digest}"
        shutil.rmtree(self._shares, ignore_errors=True)
        self._shares.mkdir()
        self._stop = monitor.wait_for_stop.remote()
        monitor.start.remote()

    def stop_requested(self) -> bool:
        ready, _ = ray.wait([self._stop], timeout=0)
        return bool(ready)

    def doing(self, what: str) -> None:
        self._monitor.note.remote(self._rank, what)

    def record(self, record: StepRecord) -> None:
        self._monitor.push.remote(record)

    def checkpoint_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._shares))

    def keep(self, folder: Path, record: StepRecord, *, wait: bool) -> None:
        mode = CheckpointUploadMode.SYNC if wait else CheckpointUploadMode.ASYNC
        ray.train.report(
            {"step": record.step, "loss": record.loss},
            checkpoint=Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"step_{record.step:07d}",
            checkpoint_upload_mode=mode,
            delete_local_checkpoint_after_upload=True,
        )

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None and self._checkpoint is not None:
            filesystem = ray.train.get_context().get_storage().storage_filesystem
            checkpoint = Checkpoint(self._checkpoint, filesystem)
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                yield Path(folder)

    @contextmanager
    def final_folder(self) -> Iterator[Path]:
        filesystem = ray.train.get_context().get_storage().storage_filesystem
        with tempfile.TemporaryDirectory(prefix="longva-final-") as folder:
            yield Path(folder)
            for name, document in self._documents.items():
                text = json.dumps(document, indent=2, default=str)
                (Path(folder) / name).write_text(text + "\n")
            publish(Path(folder), filesystem, self._final)


def publish(folder: Path, filesystem: pyarrow.fs.FileSystem, target: str) -> None:
    """Copy a folder to `target`, which on a local disk is never seen half written."""
    if not isinstance(filesystem, pyarrow.fs.LocalFileSystem):
        upload(folder, filesystem, target)
        return
    fresh = Path(f"{target}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    # Not with their modes: safetensors writes files that only their owner can read, as is a
    # temporary folder.
    shutil.copytree(folder, fresh, copy_function=shutil.copyfile)
    shutil.copymode(fresh.parent, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
