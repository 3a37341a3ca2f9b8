"""Questions in bulk from videos to table and figure, on a real cluster, stopped and taken up."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from longva_ray.evaluate.questions.records import read_questions
from longva_ray.evaluate.questions.report import describe_questions
from longva_ray.evaluate.questions.run import run_questions
from longva_ray.evaluate.subjects import Subject
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.schema import hash_video
from longva_ray.tiny.videos import write_haystack
from longva_ray.tiny.world import COLOURS, Scene, ask_colour, ask_first, ask_presence

CONFIG = QuestionsConfig(
    dtype="float32",
    worker_cpus=0.5,
    worker_gpus=0,
    max_workers=1,
    prefill_chunk=16,
    decide="text",
    max_new_tokens=12,
)

ENCODE = EncodeConfig(dtype="float32", encoder_cpus=0.5, encoder_gpus=0, decode_cpus=0.5)


def write_world(folder: Path) -> str:
    """Two videos, one of them named by its id, too, and one that cannot be read."""
    rows = []
    for number, seconds in enumerate((12, 24)):
        name = f"{number}.mp4"
        scenes = write_haystack(
            folder / name, seconds=seconds, seed=number, hidden={5: Scene("red", "K")}
        )
        colour, there, first = ask_colour(scenes, "K"), ask_presence(scenes, "T"), ask_first(scenes)
        options = [f"the K {each}." for each in COLOURS]
        there_or_not = ["the T is there.", "the T not there."]
        by_id = hash_video(folder / name)
        rows += [
            {"video": name, "length": seconds} | row
            for row in (
                {"question": colour.question, "options": options, "answer": "A"},
                {"question": first.question, "answer": first.answer},
                {"question": there.question, "options": there_or_not, "answer": 1, "video": by_id},
            )
        ]
    (folder / "bad.mp4").write_bytes(b"\0" * 1000)
    rows.append({"video": "bad.mp4", "question": "what comes first?", "answer": "nothing"})
    lines = [json.dumps({"id": number} | row) for number, row in enumerate(rows)]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def test_from_videos_to_a_table(ray_cluster: str, tiny_checkpoint: str, tmp_path: Path) -> None:
    records = read_questions(write_world(tmp_path))
    subjects = [
        Subject(name=name, path=tiny_checkpoint, dtype="float32") for name in ("one", "two")
    ]
    out = tmp_path / "out"

    def run() -> dict[str, Any]:
        report = run_questions(
            subjects,
            records,
            by=["length"],
            store=str(tmp_path / "shards"),
            config=CONFIG,
            encode=ENCODE,
            out=out,
        )
        assert json.loads((out / "questions.json").read_text()) == report
        return report

    report = run()
    one, two = report["models"]
    assert one | {"name": "two"} == two
    assert [each["id"] for each in one["answers"]] == list("012345")
    assert one["average"]["questions"]["score"] >= 5 / 6
    assert one["average"]["videos"]["trials"] == 2
    assert [row["value"] for row in one["by"]["length"]] == ["12", "24"]
    (lost,) = one["not_asked"]
    assert (Path(lost["video"]).name, lost["questions"]) == ("bad.mp4", ["6"])
    table = describe_questions(report).splitlines()
    assert [line.split("  ")[0] for line in table[1:5]] == [
        "all questions",
        "all of a video",
        "length: 12",
        "length: 24",
    ]
    with Image.open(out / "questions.png") as figure:
        assert figure.width > figure.height

    # A kill: one video is answered, and the line of the next question is cut off.
    (ledger,) = (out / "ledgers").glob("*.jsonl")
    lines = ledger.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"logprobs"', '"kept": true, "logprobs"')
    ledger.write_text("".join(lines[:3]) + lines[3][:20])
    again = run()["models"][0]
    assert [each.pop("kept", None) for each in again["answers"]].count(True) == 1
    for before, after in zip(one["answers"], again["answers"], strict=True):
        assert before | {"seconds": 0} == after | {"seconds": 0}
    assert len(ledger.read_text().splitlines()) == 6
