"""One benchmark at one number of frames: the command of lmms-eval, and what it wrote.

    <out>/runs/<task>-<frames>-<fingerprint>/command.txt, lmms-eval.log,
        <model>/<time>_results.json, <model>/<time>_samples_<task>.jsonl

The fingerprint stands for all that decides the scores, so a run whose results are there is not run
again, and another model or setting writes elsewhere. lmms-eval writes its results at the end, so a
run that was killed begins anew. It ends with status 0 whatever happens, and scores requests that
failed as wrong answers: only its files say whether it succeeded.
"""

import dataclasses
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS, LOCAL
from longva_ray.evaluate.benchmarks.environment import VERSION
from longva_ray.files.digest import fingerprint_of

TASKS = Path(__file__).resolve().parents[1] / "lmms_tasks"

FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""How lmms-eval begins the answer of a request that failed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is asked, and how."""

    url: str
    model: str
    """Its name in requests."""
    decided_by: Mapping[str, Any]
    """What the server says of its model."""
    requests: int = 4
    """At a time."""
    limit: int | None = None
    """Most questions of each task; None, all."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A task at a number of frames."""

    task: str
    frames: int
    target: Target
    data: Path
    """Where lmms-eval is started: the folder of the files of local tasks."""
    out: Path

    @property
    def folder(self) -> Path:
        """Where lmms-eval writes."""
        decided = (
            *(VERSION, self.task, self.frames, self.target.limit, dict(self.target.decided_by)),
            (self.data / LOCAL[self.task]).read_text() if self.task in LOCAL else None,
        )
        return self.out / "runs" / f"{self.task}-{self.frames}-{fingerprint_of(*decided)}"

    def command(self, python: Path | str) -> list[str]:
        """What is typed, in the folder of the data and with `environment`."""
        target = self.target
        model = {
            "model_version": target.model,
            "base_url": f"{target.url}/v1",
            # Its own key, so that the judge keeps $OPENAI_API_KEY.
            **({} if "LONGVA_API_KEY" in os.environ else {"api_key": "unused"}),
            "pass_video_url": True,
            "max_frames_num": self.frames,
            "num_concurrent": target.requests,
        }
        limit = [] if target.limit is None else ["--limit", str(target.limit)]
        return [
            *(str(python), "-m", "lmms_eval", "--model", "openai"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
            *("--tasks", self.task, "--include_path", str(TASKS), "--batch_size", "1"),
            *("--output_path", str(self.folder), "--log_samples", *limit),
        ]

    def environment(self) -> dict[str, str]:
        """Variables that lmms-eval reads. Raises ValueError where a key is missing, or two are
        needed and there is one place for both."""
        found = {"HF_HOME": str(hf_home())}
        key = os.environ.get("LONGVA_API_KEY")
        if BENCHMARKS[self.task].judged:
            if key is not None:
                raise ValueError(
                    f"{self.task} is judged by a model of $OPENAI_API_KEY, and lmms-eval has no "
                    "other place for $LONGVA_API_KEY; serve on 127.0.0.1 without a key for it"
                )
            if not os.environ.get("OPENAI_API_KEY"):
                raise ValueError(
                    f"{self.task} is judged by another model: set $OPENAI_API_KEY, and "
                    "$OPENAI_API_URL and $MODEL_VERSION where it is not OpenAI's gpt-4o"
                )
        elif key is not None:
            found["OPENAI_API_KEY"] = key
        return found

    def start(self, python: Path) -> int:
        """Run lmms-eval to its end; its output goes to a file. Returns its exit status."""
        environment = self.environment()
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self.command(python)
        (self.folder / "command.txt").write_text(shlex.join(command) + "\n")
        with (self.folder / "lmms-eval.log").open("w") as log:
            return subprocess.run(
                command,
                cwd=self.data,
                # Modules of this process are none of the environment's.
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
                | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode


def hf_home() -> Path:
    """Where lmms-eval keeps the data of its tasks, videos included."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser().absolute()
