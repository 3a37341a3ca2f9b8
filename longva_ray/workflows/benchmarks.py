"""Benchmarks by lmms-eval against a server of this package: commands, runs, the paper's tables.

    tasks x frames -> lmms-eval, one after another -> <out>/benchmarks.json, and a table

lmms-eval fetches each task's data, sends its questions to the server and scores the answers. None
of that is rewritten here. Without the URL of a server, one is started for the runs. What it does
not do: bring the questions about one video together. lmms-eval sends them in an order of its own.
"""

import contextlib
import dataclasses
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS, LOCAL
from longva_ray.evaluate.benchmarks.environment import VERSION, lmms_python
from longva_ray.evaluate.benchmarks.report import rows
from longva_ray.evaluate.benchmarks.results import Scores, read_scores
from longva_ray.evaluate.benchmarks.runs import Run, Target, hf_home
from longva_ray.evaluate.questions.records import QuestionRecord, read_questions
from longva_ray.evaluate.server import Server
from longva_ray.serving.app_args import AppArgs
from longva_ray.tiny.local_tasks import write_local_tasks

logger = logging.getLogger(__name__)


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises ValueError for a name that is not in the catalogue."""
    unknown = [task for task in tasks if task not in BENCHMARKS]
    if unknown or not tasks:
        raise ValueError(
            f"no benchmark is named {', '.join(unknown) or 'here'}; there are: "
            f"{', '.join(BENCHMARKS)}"
        )


def plan_runs(tasks: Sequence[str], frames: Sequence[int], target: Target, out: Path) -> list[Run]:
    """Every task at every number of frames; images, which have none, once."""
    return [
        Run(task=task, frames=count, target=target, data=out / "data", out=out)
        for task in tasks
        for count in (frames if BENCHMARKS[task].kind == "video" else frames[:1])
    ]


def write_data(tasks: Sequence[str], files: Mapping[str, str | None], out: Path) -> list[Path]:
    """Write the files that local tasks read into `<out>/data`. Returns the folders of the videos,
    which a server has to read.

    Args:
        files: of questions, by the name of the file that they become; drawn where there is none.

    Raises ValueError for questions about images, or about videos that are no local files."""
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    folders: dict[Path, None] = {}
    for name in {LOCAL[task]: None for task in tasks if task in LOCAL}:
        records = read_questions(files.get(name) or _drawn(data / "drawn", name))
        lines = [json.dumps(_row(record)) + "\n" for record in records]
        (data / name).write_text("".join(lines))
        folders |= dict.fromkeys(Path(record.item.place).parent for record in records)
    return list(folders)


def _drawn(folder: Path, name: str) -> str:
    if not (folder / name).exists():
        write_local_tasks(folder, seed=0)
    return str(folder / name)


def _row(record: QuestionRecord) -> dict[str, Any]:
    """A question as the tasks in `evaluate/lmms_tasks` read it: every field in every row."""
    if record.item.kind != "video" or not Path(record.item.place).is_file():
        raise ValueError(
            f"question {record.id} is about {record.item.place}; the tasks of this package want "
            "video files of this machine"
        )
    return {
        "id": record.id,
        "video": record.item.place,
        "question": record.question,
        "options": list(record.options),
        "answer": record.answer,
    }


def describe_commands(runs: Sequence[Run], environment: Path) -> str:
    """What would be typed."""
    python = environment / "bin" / "python"
    return "\n".join(
        f"cd {shlex.quote(str(run.data))} && HF_HOME={shlex.quote(str(hf_home()))} "
        f"{shlex.join(run.command(python))}"
        for run in runs
    )


@contextlib.contextmanager
def served(args: AppArgs) -> Iterator[str]:
    """The URL of a server that lives as long as this is held."""
    from ray import serve

    from longva_ray.cluster.job import connect
    from longva_ray.serving.run import APPLICATION, deploy

    connect()
    url = deploy(args)
    try:
        yield url
    finally:
        serve.delete(APPLICATION)


def target_at(url: str, *, requests: int, limit: int | None) -> Target:
    """The model of a running server. Raises ValueError when none answers."""
    with Server(url) as server:
        model = server.model()
    return Target(
        url=url.rstrip("/").removesuffix("/v1"),
        model=model.id,
        decided_by=dataclasses.asdict(model),
        requests=requests,
        limit=limit,
    )


def run_benchmarks(runs: Sequence[Run], environment: Path, out: Path) -> dict[str, Any]:
    """Do what is not done yet, write the report, and return it."""
    for run in runs:
        run.environment()  # a missing key is told before the first run, and not hours later
    before = [_done(run) for run in runs]
    python = environment / "bin" / "python" if all(before) else lmms_python(environment)
    results, failed = [], []
    for run, done in zip(runs, before, strict=True):
        about = {"task": run.task, "frames": run.frames}
        try:
            scores = done or _start(run, python)
        except ValueError as error:
            logger.warning("%s: %s", run.task, error)
            failed.append(about | {"error": str(error)})
        else:
            results.append(about | dataclasses.asdict(scores))
    report = {
        "test": "benchmarks",
        "lmms_eval": VERSION,
        "server": dict(runs[0].target.decided_by),
        "limit": runs[0].target.limit,
        "results": results,
        "rows": rows(results),
        "failed": failed,
    }
    (out / "benchmarks.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _done(run: Run) -> Scores | None:
    try:
        scores = read_scores(run.task, run.folder)
    except ValueError as error:
        logger.info("%s is run again: %s", run.task, error)
        return None
    if scores is not None:
        logger.info("%s, %d frames: done before, %s", run.task, run.frames, scores.files)
    return scores


def _start(run: Run, python: Path) -> Scores:
    logger.info("%s, %d frames: lmms-eval logs to %s", run.task, run.frames, run.folder)
    status = run.start(python)
    scores = read_scores(run.task, run.folder)
    if scores is None:
        raise ValueError(
            f"lmms-eval ended with status {status} and without results; {run.folder}/lmms-eval.log "
            "says why"
        )
    logger.info("%s, %d frames: %s", run.task, run.frames, scores.scores)
    return scores
