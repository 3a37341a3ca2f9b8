"""The paper's benchmarks by lmms-eval, against a server that runs already or is started for them.

    python jobs/benchmarks.py --recipe longva_7b --frames 128 --store /data/shards --out /data/bench

    python jobs/benchmarks.py --tasks longva_vniah longva_choices --out outputs/benchmarks

The second line needs no data: it draws videos of longva-tiny's world. Makes an environment for
lmms-eval on first use. Start it again to do what is missing; `--dry-run` prints the commands."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from longva_ray.cluster.job import run_job
from longva_ray.commands.serve import Options as ServeOptions
from longva_ray.evaluate.benchmarks.catalogue import OF_THE_PAPER
from longva_ray.evaluate.benchmarks.environment import default_place
from longva_ray.evaluate.benchmarks.report import describe_benchmarks
from longva_ray.evaluate.benchmarks.runs import Target, hf_home
from longva_ray.files.places import local_path
from longva_ray.options import parse


@dataclass(frozen=True, kw_only=True)
class Options(ServeOptions):
    """Benchmarks by lmms-eval. The settings of a server are for the one that is started."""

    tasks: tuple[str, ...] = OF_THE_PAPER
    """By lmms-eval's names. Beside the paper's: timescope, longtimescope, videomme_v2, and
    longva_vniah, longva_questions and longva_choices about local videos."""
    frames: tuple[int, ...] = (128,)
    """Most frames of a video, spread evenly; several ask everything with each of them."""
    url: str | None = None
    """A running server, which must be allowed to read the videos. Without one, one is started."""
    questions_file: str | None = None
    """File of longva_questions and longva_choices, in the form of jobs/eval_questions.py. Without
    one, it is drawn."""
    vniah_file: str | None = None
    """The same for longva_vniah."""
    requests: int = 4
    """Questions that are asked at a time."""
    limit: int | None = None
    """Most questions of each task, for a trial."""
    environment: str = str(default_place())
    """Folder of lmms-eval's own virtual environment."""
    dry_run: bool = False
    """Print the commands, and run nothing."""
    out: str = "outputs/benchmarks"
    """Folder for what lmms-eval writes, and the report."""


def main(options: Options) -> int:
    out, environment = local_path(options.out), local_path(options.environment)
    from longva_ray.workflows import benchmarks as work

    work.check_tasks(options.tasks)
    if options.dry_run:
        url = options.url or f"http://{options.serve.host}:{options.serve.port}"
        target = Target(url=url, model=options.recipe, decided_by={}, limit=options.limit)
        runs = work.plan_runs(options.tasks, options.frames, target, out)
        print(work.describe_commands(runs, environment))
        return 0
    files = {"questions.jsonl": options.questions_file, "vniah.jsonl": options.vniah_file}
    videos = work.write_data(options.tasks, files, out)
    with contextlib.ExitStack() as stack:
        args = options.app_args().model_copy(
            update={"allowed_roots": (*options.allowed_roots, str(hf_home()), *map(str, videos))}
        )
        url = options.url or stack.enter_context(work.served(args))
        target = work.target_at(url, requests=options.requests, limit=options.limit)
        runs = work.plan_runs(options.tasks, options.frames, target, out)
        report = work.run_benchmarks(runs, environment, out)
    print(describe_benchmarks(report))
    print(f"report: {Path(out) / 'benchmarks.json'}")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
