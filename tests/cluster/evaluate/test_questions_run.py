"""Questions in bulk from videos to table and figure, on a real cluster."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from PIL import Image
from question_world import write_world

from longva_ray.evaluate.questions.records import read_questions
from longva_ray.evaluate.questions.report import describe_questions
from longva_ray.evaluate.questions.run import run_questions
from longva_ray.evaluate.subjects import Subject
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import QuestionsConfig

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


def test_from_videos_to_a_table(ray_cluster: str, tiny_checkpoint: str, tmp_path: Path) -> None:
    records = read_questions(write_world(tmp_path))
    subjects = [
        Subject(name=name, path=tiny_checkpoint, dtype="float32") for name in ("one", "two")
    ]
    out = tmp_path / "out"

    def run(config: QuestionsConfig = CONFIG) -> dict[str, Any]:
        report = run_questions(
            subjects,
            records,
            by=["length"],
            store=str(tmp_path / "shards"),
            config=config,
            encode=ENCODE,
            out=out,
        )
        assert json.loads((out / "questions.json").read_text()) == json.loads(json.dumps(report))
        return report

    report = run()
    one, two = report["models"]
    assert one | {"name": "two"} == two
    assert [each["id"] for each in one["answers"]] == list("0123457")
    assert one["average"]["questions"]["score"] >= 6 / 7
    assert one["average"]["videos"]["trials"] == 3
    assert [row["value"] for row in one["by"]["length"]] == ["12", "24", "image"]
    assert one["by"]["length"][2]["questions"]["score"] == 1
    lost, lost_image = one["not_asked"]
    assert (Path(lost["video"]).name, lost["questions"]) == ("bad.mp4", ["6"])
    assert (Path(lost_image["image"]).name, lost_image["questions"]) == ("bad.png", ["8"])
    table = describe_questions(report).splitlines()
    assert [line.split("  ")[0] for line in table[1:6]] == [
        "all questions",
        "all of a video or image",
        "length: 12",
        "length: 24",
        "length: image",
    ]
    assert "bad.png not asked: it is no image of a kind that is read" in table[-1]
    with Image.open(out / "questions.png") as figure:
        assert figure.width > figure.height

    (ledger,) = (out / "ledgers").glob("*.jsonl")
    assert len(ledger.read_text().splitlines()) == 7

    # The short video has 12 frames, so of three counts it is asked with two; the image with none.
    # The base is the model's own, so that the training-free baseline answers as it does.
    models = run(dataclasses.replace(CONFIG, frame_counts=(4, 12, 24), rope_bases=(1e6,)))["models"]
    assert [model["name"] for model in models] == ["one", "two", "two, training-free best"]
    by_count = models[0]["by_frames"]
    for own, raised in zip(by_count, models[2]["by_frames"], strict=True):
        assert raised["average"] == own["average"]
    assert [asked["frames"] for asked in by_count] == [4, 12, 24]
    assert len(ledger.read_text().splitlines()) == 7 + 3 * (2 + 3)
    for whole, every in zip(one["answers"], by_count[2]["answers"], strict=True):
        assert whole | {"seconds": 0} == every | {"seconds": 0}
