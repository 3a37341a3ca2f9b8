"""Benchmarks by lmms-eval: what is typed, what is read of its files, and the tasks of this package.

The files in `lmms_eval_0.7.3` were written by that version; only paths in them were shortened."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.benchmarks.catalogue import BENCHMARKS, OF_THE_PAPER, PAPER_SCORES
from longva_ray.evaluate.benchmarks.environment import lmms_python
from longva_ray.evaluate.benchmarks.report import describe_benchmarks, rows
from longva_ray.evaluate.benchmarks.results import read_scores
from longva_ray.evaluate.benchmarks.runs import TASKS, Run, Target
from longva_ray.evaluate.questions.ask import prompt_text
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.settings.questions import Decide

RECORDED = Path(__file__).parent / "lmms_eval_0.7.3"

TARGET = Target(url="http://127.0.0.1:8000", model="tiny", decided_by={"fingerprint": "f"})


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LONGVA_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run_of(task: str, folder: Path, frames: int = 64, **changes: Any) -> Run:
    values = {"task": task, "frames": frames, "target": TARGET, "data": folder, "out": folder}
    return Run(**(values | changes))


def test_the_command_asks_the_server_for_so_many_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("videomme", tmp_path)
    assert run.command("python") == [
        *("python", "-m", "lmms_eval", "--model", "openai", "--model_args"),
        "model_version=tiny,base_url=http://127.0.0.1:8000/v1,api_key=unused,pass_video_url=True,"
        "max_frames_num=64,num_concurrent=4",
        *("--tasks", "videomme", "--include_path", str(TASKS), "--batch_size", "1"),
        *("--output_path", str(run.folder), "--log_samples"),
    ]
    limited = Target(url="u", model="m", decided_by={}, limit=5)
    assert run_of("videomme", tmp_path, target=limited).command("python")[-2:] == ["--limit", "5"]
    monkeypatch.setenv("LONGVA_API_KEY", "secret")
    assert "secret" not in str(run.command("python"))
    assert "api_key" not in str(run.command("python"))
    assert run.environment()["OPENAI_API_KEY"] == "secret"


def test_a_judge_needs_the_one_place_for_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("activitynetqa", tmp_path)
    with pytest.raises(ValueError, match="is judged by another model: set"):
        run.environment()
    monkeypatch.setenv("OPENAI_API_KEY", "the judge's")
    assert "OPENAI_API_KEY" not in run.environment()
    monkeypatch.setenv("LONGVA_API_KEY", "ours")
    with pytest.raises(ValueError, match="without a key for it"):
        run.environment()


def test_whatever_decides_the_scores_has_a_folder_of_its_own(tmp_path: Path) -> None:
    def folder(**changes: Any) -> Path:
        return run_of(**({"task": "longva_vniah", "folder": tmp_path} | changes)).folder

    other = Target(url="http://other", model="tiny", decided_by={"fingerprint": "g"})
    elsewhere = Target(url="http://other", model="tiny", decided_by=TARGET.decided_by, requests=1)
    limited = Target(url="u", model="m", decided_by=TARGET.decided_by, limit=5)
    (tmp_path / "vniah.jsonl").write_text("{}")
    plain = folder()
    changed = [folder(target=other), folder(frames=8), folder(target=limited)]
    (tmp_path / "vniah.jsonl").write_text("{} ")
    changed.append(folder())
    assert len({plain, *changed}) == 5
    assert folder(target=elsewhere) == folder()


def recorded(folder: Path, name: str) -> Path:
    """A folder of a run as lmms-eval leaves it."""
    shutil.copytree(RECORDED / name, folder / "tiny")
    return folder


def test_scores_are_read_from_what_was_recorded(tmp_path: Path) -> None:
    found = read_scores("longva_questions", recorded(tmp_path, "finished"))
    assert found is not None
    (path,) = tmp_path.rglob("*_results.json")
    samples = [json.loads(line) for line in next(tmp_path.rglob("*.jsonl")).open()]
    assert found.questions == len(samples) == 9
    assert found.scores["right"] == 100 * sum(each["right"] for each in samples) / 9
    assert found.errors["right"] > 0
    assert found.files == str(path)
    with pytest.raises(ValueError, match="has none of the scores WUPS"):
        read_scores("nextqa_oe_test", tmp_path)


def test_failed_requests_are_no_wrong_answers(tmp_path: Path) -> None:
    folder = recorded(tmp_path, "failed")
    with pytest.raises(ValueError, match=r"2 request\(s\) .* failed .* Connection error"):
        read_scores("longva_questions", folder)


def test_a_run_that_was_killed_has_no_scores(tmp_path: Path) -> None:
    assert read_scores("longva_questions", tmp_path) is None
    folder = recorded(tmp_path, "finished")
    (path,) = folder.rglob("*_results.json")
    later = path.with_name("20991231_000000_results.json")
    later.write_text(path.read_text()[:100])
    found = read_scores("longva_questions", folder)
    assert found is not None
    assert found.files == str(path)
    path.unlink()
    assert read_scores("longva_questions", folder) is None


def test_the_papers_scores_stand_beside_ours() -> None:
    def result(task: str, frames: int, **scores: float) -> dict[str, Any]:
        return {"task": task, "frames": frames, "scores": scores, "errors": {}, "questions": 9}

    results = [
        result("nextqa_mc_test", 32, exact_match=60.0),
        result("activitynetqa", 128, gpt_eval_accuracy=30.0, gpt_eval_score=2.5),
        result("ai2d", 32, exact_match=70.0),
    ]
    found = rows(results)
    assert [row["score"] for row in found] == [
        *("exact_match", "gpt_eval_accuracy", "gpt_eval_score", "exact_match")
    ]
    assert found[0]["paper"] == {"score": 67.08, "frames": 32}
    assert found[0]["paper_dpo"] == {"score": 69.26, "frames": 32}
    assert found[1]["paper"] is None
    assert found[2]["paper"] == {"score": 2.84, "frames": 64}
    lines = describe_benchmarks(
        {"rows": found, "failed": [{"task": "chartqa", "frames": 32, "error": "no network"}]}
    ).splitlines()
    assert lines[1].split() == [
        *("Table", "6", "nextqa_mc_test", "exact_match", "32", "60.00", "67.08", "69.26"),
        *("the", "paper"),
    ]
    assert "2.84 at 64" in lines[3]
    assert lines[4].split()[-3:] == ["-", "-", "-"]
    assert lines[-1] == "chartqa, 32 frames: no network"


def test_the_catalogue_is_whole() -> None:
    assert len(OF_THE_PAPER) == 13
    for score in PAPER_SCORES:
        assert score.metric in BENCHMARKS[score.task].metrics
        assert score.table == BENCHMARKS[score.task].table


class Loader(yaml.SafeLoader):
    """Reads lmms-eval's `!function module.name` as that text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def functions() -> ModuleType:
    """The tasks' functions, loaded by their path, as lmms-eval does."""
    spec = importlib.util.spec_from_file_location("tasks", TASKS / "local_questions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_tasks_name_functions_that_ask_as_questions_in_bulk_do(path: Path) -> None:
    task, module = yaml.load(path.read_text(), Loader), functions()
    assert task["task"] == path.stem
    assert set(BENCHMARKS[path.stem].metrics) == {each["metric"] for each in task["metric_list"]}

    def function(name: str) -> Callable[..., Any]:
        file, _, member = task[name].partition(".")
        assert file == "local_questions"
        found: Callable[..., Any] = getattr(module, member)
        return found

    for options, answer, right, wrong in (
        (("Rain", "Snow"), "B", ("B", "(b)", "Snow"), ("A", "Rain and Snow", "")),
        ((), "the K red.", ("the K red.", "The K red"), ("the K blue.", "")),
    ):
        record = QuestionRecord(
            id="1",
            item=Item(kind="video", place="/v.mp4"),
            question="What?",
            options=options,
            answer=answer,
            fields={},
        )
        doc = {"video": "/v.mp4", "question": "What?", "options": [*options], "answer": answer}
        assert function("doc_to_visual")(doc) == ["/v.mp4"]
        decide: Decide = "text" if path.stem == "longva_choices" else "generate"
        assert function("doc_to_text")(doc) == prompt_text(record, decide)
        for texts, score in ((right, 1.0), (wrong, 0.0)):
            assert [function("process_results")(doc, [text]) for text in texts] == [
                {"right": score}
            ] * len(texts)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(ValueError, match=r"is no environment with lmms-eval 0\.7\.3; remove it"):
        lmms_python(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]
