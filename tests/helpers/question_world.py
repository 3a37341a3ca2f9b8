"""A file of questions whose true answers are known, about two videos and an image, and about two
files that cannot be read; and what a model of this process answers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pictures import exchanges_about, write_table

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.answers import Plan
from longva_ray.evaluate.questions.records import QuestionRecord, read_questions
from longva_ray.evaluate.questions.run import run_questions
from longva_ray.evaluate.questions.worker import QuestionWorker
from longva_ray.evaluate.subjects import Subject
from longva_ray.files.places import read_file
from longva_ray.lm.fingerprints import fingerprint_checkpoint
from longva_ray.serving.app_args import AppArgs
from longva_ray.settings.questions import QuestionsConfig
from longva_ray.shards.images import image_id_of, image_spec
from longva_ray.shards.schema import hash_video
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import describe_encoder
from longva_ray.tiny.videos import write_haystack
from longva_ray.tiny.world import COLOURS, Scene, ask_colour, ask_first, ask_presence

SAID = ("right", "said", "text")


def write_world(folder: Path) -> str:
    """Two videos, one of them named by its id, too, and an image; one of either that cannot be
    read."""
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
    about = {"image": "table.png", "length": "image"}
    asked = exchanges_about(write_table(folder / "table.png"))[0]
    rows.append(about | {"question": asked.question, "answer": asked.answer})
    (folder / "bad.png").write_bytes(b"notes")
    rows.append(about | {"question": "what comes first?", "answer": "nothing", "image": "bad.png"})
    lines = [json.dumps({"id": number} | row) for number, row in enumerate(rows)]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def check_answers_over_http(url: str, args: AppArgs, folder: Path, out: Path) -> None:
    """A server that may read `folder` answers a file of questions as its model does in process."""
    assert args.api_key is not None
    records = read_questions(write_world(folder))
    for changes in ({"decide": "text", "frame_counts": (4, 99)}, {}, {"decide": "generate"}):
        config = QuestionsConfig(dtype="float32", worker_gpus=0, prefill_chunk=64, **changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LONGVA_API_KEY", args.api_key)
            model, served, expected = _asked_both_ways(url, args, records, config, out)
        assert len(served) == 7 * len(config.frame_counts or (None,))
        for ours, reference in zip(served, expected, strict=True):
            assert [ours[name] for name in SAID] == [reference[name] for name in SAID]
            assert ours["logprobs"] == pytest.approx(reference["logprobs"], abs=1e-4)
        assert [each["questions"] for each in model["not_asked"]] == [["6"], ["8"]]
        assert model["fingerprint"] == fingerprint_checkpoint(args.checkpoint)


def _asked_both_ways(
    url: str, args: AppArgs, records: Sequence[QuestionRecord], config: QuestionsConfig, out: Path
) -> tuple[dict[str, Any], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """(what a report says of a server; its outcomes; those of the same model in this process, which
    reads what the server encoded)."""
    subject = Subject(name="served", path=url, dtype=config.dtype)
    report = run_questions(
        [subject], records, by=["length"], store="", config=config, encode=args.encode, out=out
    )
    (model,) = report["models"]
    served = [outcome for asked in model.get("by_frames", [model]) for outcome in asked["answers"]]
    lost = {question for each in model["not_asked"] for question in each["questions"]}
    kept = [record for record in records if record.id not in lost]
    return model, served, _in_process(args, kept, config)


def _in_process(
    args: AppArgs, records: Sequence[QuestionRecord], config: QuestionsConfig
) -> list[Mapping[str, Any]]:
    spec = describe_encoder(args.checkpoint, args.encode)
    ids = {record.item: _id(record.item) for record in records}
    videos = [ids[item] for item in ids if item.kind == "video"]
    plan = Plan(
        records=records,
        ids=ids,
        num_frames={each: ShardStore(args.store).open(each, spec).num_frames for each in videos},
        counts=config.frame_counts or (None,),
    )
    subject = Subject(name="in process", path=args.checkpoint, dtype=config.dtype)
    images = image_spec(args.checkpoint, spec.encoder_fingerprint, args.encode)
    worker = QuestionWorker(subject, config, args.store, spec, images)
    outcomes = {key: each for group in plan.groups() for key, each in worker(group).items()}
    return [each.outcome for found in plan.answered(outcomes).values() for each in found]


def _id(item: Item) -> str:
    if item.kind == "image":
        return image_id_of(read_file(item.place))
    return item.place if "/" not in item.place else hash_video(item.place)
