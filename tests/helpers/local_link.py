"""Training without Ray: checkpoints stay in a local folder, and one process is a whole world."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from longva_ray.ring.mesh import make_mesh
from longva_ray.settings.training import TrainConfig
from longva_ray.train import loop
from longva_ray.train.loop import Link
from longva_ray.train.records import Outcome, StepRecord
from longva_ray.train.stage import Stage


class LocalLink(Link):
    """Keeps what rank 0 records, and every checkpoint and the result in a folder."""

    def __init__(self, folder: Path, *, stop_at: int | None = None) -> None:
        self.records: dict[int, StepRecord] = {}
        self._folder = folder
        self._stop_at = stop_at
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def losses(self) -> dict[int, float]:
        return {step: record.loss for step, record in self.records.items()}

    @property
    def held_out(self) -> dict[int, dict[str, float]]:
        """What was measured on held-out rows, after which steps."""
        found = {step: dict(record.held_out) for step, record in self.records.items()}
        return {step: measures for step, measures in found.items() if measures}

    def stop_requested(self) -> bool:
        return self._stop_at is not None and len(self.records) + 1 == self._stop_at

    def doing(self, what: str) -> None:
        pass

    def record(self, record: StepRecord) -> None:
        self.records[record.step] = record

    def checkpoint_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder))

    def keep(self, folder: Path, record: StepRecord, *, wait: bool) -> None:
        """All ranks write into one folder, as a run's storage has it."""
        kept = self._folder / f"step_{record.step:07d}"
        for file in folder.rglob("*"):
            if file.is_file():
                target = kept / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.rename(target)

    @contextlib.contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield max(self._folder.glob("step_*"), default=None)

    @contextlib.contextmanager
    def final_folder(self) -> Iterator[Path]:
        yield self._folder / "final"


def train_locally(
    stage: Stage, config: TrainConfig, folder: Path, *, stop_at: int | None = None
) -> tuple[Outcome, LocalLink]:
    """Train as one rank of the world that this process is in; of one if there is none."""
    link = LocalLink(folder, stop_at=stop_at)
    outcome = loop.run(
        stage, config, make_mesh(ring_size=config.ring_size), torch.device("cpu"), link
    )
    return outcome, link
