"""The real lmms-eval against a real server, and its scores against those of questions in bulk.

Skipped unless $LONGVA_LMMS_ENVIRONMENT names the folder of an environment that `jobs/benchmarks.py`
made: that takes some GB."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from ports import free_port

from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS, LOCAL
from longva_ray.evaluate.benchmarks.environment import lmms_python
from longva_ray.evaluate.questions.records import read_questions
from longva_ray.evaluate.questions.run import run_questions
from longva_ray.evaluate.subjects import Subject
from longva_ray.recipes import get_recipe
from longva_ray.serving.app_args import AppArgs
from longva_ray.settings.answering import ServeConfig
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.workflows.benchmarks import (
    plan_runs,
    run_benchmarks,
    served,
    target_at,
    write_data,
)

PLACE = os.environ.get("LONGVA_LMMS_ENVIRONMENT", "")

pytestmark = pytest.mark.skipif(not PLACE, reason="$LONGVA_LMMS_ENVIRONMENT is not set")

ENCODE = get_recipe("tiny").encode


def test_lmms_eval_scores_as_questions_in_bulk_do(
    ray_cluster: str, tiny_checkpoint: str, tmp_path: Path
) -> None:
    out, store = tmp_path / "out", str(tmp_path / "shards")
    videos = write_data([*LOCAL], {}, out)
    args = AppArgs(
        model_name="tiny",
        checkpoint=tiny_checkpoint,
        store=store,
        allowed_roots=tuple(map(str, videos)),
        encode=ENCODE,
        serve=ServeConfig(port=free_port(), dtype="float32", lm_cpus=0.5, prefill_chunk=64),
    )
    with served(args) as url:
        target = target_at(url, requests=4, limit=None)
        runs = plan_runs([*LOCAL], (100_000,), target, out)
        runs += plan_runs(["longva_vniah"], (8,), target, out)
        report = run_benchmarks(runs, Path(PLACE), out)
    assert report["failed"] == []
    assert run_benchmarks(runs, tmp_path / "nothing is run", out) == report
    for run, result in zip(runs, report["results"], strict=True):
        config = QuestionsConfig(
            dtype="float32",
            worker_cpus=0.5,
            worker_gpus=0,
            max_workers=1,
            prefill_chunk=64,
            # lmms-eval asks a server for words alone, and not for how likely they are.
            decide="text" if run.task == "longva_choices" else "generate",
            frames=run.frames,
        )
        asked = run_questions(
            [Subject(name="tiny", path=tiny_checkpoint, dtype="float32")],
            read_questions(str(run.data / "drawn" / LOCAL[run.task])),
            by=[],
            store=store,
            config=config,
            encode=ENCODE,
            out=tmp_path / "questions" / run.folder.name,
        )["models"][0]
        assert result["scores"]["right"] == 100 * asked["average"]["questions"]["score"]
        (samples,) = run.folder.rglob("*_samples_*.jsonl")
        said = [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]
        if config.decide == "generate":
            assert said == [each["text"] for each in asked["answers"]]
    _, choices, whole, few = (each["scores"]["right"] for each in report["results"])
    assert few < 80 <= min(choices, whole)


def test_every_task_and_score_is_of_this_version() -> None:
    code = (
        "import json, lmms_eval.tasks as tasks; "
        "print(json.dumps([tasks.TaskManager().all_tasks, tasks.__file__]))"
    )
    python = lmms_python(Path(PLACE))
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    names, module = json.loads(done.stdout.splitlines()[-1])
    theirs = {name: each for name, each in BENCHMARKS.items() if name not in LOCAL}
    assert theirs.keys() - set(names) == set()
    texts = "\n".join(path.read_text() for path in Path(module).parent.rglob("*yaml"))
    for benchmark in theirs.values():
        for metric in benchmark.metrics:
            assert f"metric: {metric}" in texts
