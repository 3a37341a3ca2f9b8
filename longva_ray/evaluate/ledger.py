"""Finished trials in a file, so that a killed run goes on where it stopped.

    ledger-<fingerprint>.jsonl, one line a trial: {"key": ..., "outcome": ...}

The fingerprint in the name stands for everything that decides an outcome, apart from the trial
itself: weights, number format, settings, haystack. Another model or setting writes another file,
and a larger grid of the same test goes on in the same one. Lines are appended and synced by one
writer, with a lock next to the file. A line that a kill cut short is ignored, and the next run
overwrites it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longva_ray.files.folder import lock

TrialOutcome = dict[str, Any]


class Ledger:
    """Outcomes of finished trials by their key; survives a kill at any moment.

    Raises ValueError while another process has the same one.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / f"ledger-{fingerprint}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.path.with_suffix(".lock"))
        self._outcomes: dict[str, TrialOutcome] = {}
        self._sound_bytes = 0
        if self.path.exists():
            self._load()

    def __contains__(self, key: str) -> bool:
        return key in self._outcomes

    def __getitem__(self, key: str) -> TrialOutcome:
        return self._outcomes[key]

    def __len__(self) -> int:
        return len(self._outcomes)

    def record(self, outcomes: Mapping[str, TrialOutcome]) -> None:
        """Append outcomes; on return they are on the disk."""
        lines = [json.dumps({"key": key, "outcome": value}) for key, value in outcomes.items()]
        content = "".join(f"{line}\n" for line in lines).encode()
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self._sound_bytes)
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self._sound_bytes += len(content)
        self._outcomes.update(outcomes)

    def _load(self) -> None:
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return  # the write that a kill interrupted
            entry = json.loads(line)
            self._outcomes[entry["key"]] = entry["outcome"]
            self._sound_bytes += len(line)
