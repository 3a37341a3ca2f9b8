"""Questions about one video or image, grouped and with a shared beginning, against each asked by
itself."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pictures import exchanges_about, write_table

from longva_ray.data.images.chat import Item
from longva_ray.evaluate.questions.records import QuestionRecord
from longva_ray.evaluate.questions.worker import (
    QuestionTrial,
    QuestionWorker,
    at_counts,
    plan_groups,
)
from longva_ray.evaluate.subjects import Subject
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.settings.questions import Decide, QuestionsConfig
from longva_ray.shards.image_encoder import EncodeImage
from longva_ray.shards.images import image_spec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames, describe_encoder, encode_one_video
from longva_ray.tiny.videos import write_haystack
from longva_ray.tiny.world import COLOURS, Scene, ask_colour, ask_first, ask_presence

CONFIG = QuestionsConfig(
    dtype="float32", worker_gpus=0, prefill_chunk=16, decide="text", max_new_tokens=12
)

ENCODE = EncodeConfig(dtype="float32", part_frames=8)

HIDDEN = {3: Scene("red", "K"), 9: Scene("blue", "five")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Two encoded videos, and questions about them whose answers are true."""

    store: ShardStore
    spec: Any
    ids: Mapping[Item, str]
    records: list[QuestionRecord]

    def worker(self, checkpoint: str, config: QuestionsConfig) -> QuestionWorker:
        subject = Subject(name="tiny", path=checkpoint, dtype="float32")
        images = image_spec(checkpoint, self.spec.encoder_fingerprint, ENCODE)
        return QuestionWorker(subject, config, self.store.root, self.spec, images)

    def groups(self) -> list[list[QuestionTrial]]:
        return plan_groups(self.records, self.ids)


def questions(video: str, scenes: list[Scene]) -> list[QuestionRecord]:
    """Choices among colours, and open questions."""
    colours = list(COLOURS)
    choices = [
        QuestionRecord(
            id=f"{video} {thing}",
            item=Item(kind="video", place=video),
            question=ask_colour(scenes, thing).question,
            options=tuple(f"the {thing} {colour}." for colour in colours),
            answer="ABCDEFGH"[colours.index(hidden.colour)],
            fields={},
        )
        for hidden in HIDDEN.values()
        for thing in [hidden.thing]
    ]
    asked = [ask_first(scenes), ask_presence(scenes, "K"), ask_presence(scenes, "T")]
    opens = [
        QuestionRecord(
            id=f"{video} {number}",
            item=Item(kind="video", place=video),
            question=each.question,
            options=(),
            answer=each.answer,
            fields={},
        )
        for number, each in enumerate(asked)
    ]
    return choices + opens


@pytest.fixture(scope="module")
def world(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> World:
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("questions")
    spec, store = describe_encoder(tiny_checkpoint, ENCODE), ShardStore(folder / "shards")
    frames = EncodeFrames(tiny_checkpoint, ENCODE)
    ids, records = {}, []
    for seed in (0, 1):
        path = folder / f"{seed}.mp4"
        scenes = write_haystack(path, seconds=12, seed=seed, hidden=HIDDEN)
        video_id = encode_one_video(str(path), store, spec, frames).video_id
        ids[Item(kind="video", place=str(path))] = video_id
        records.append(questions(str(path), scenes))
    # As in a file that is sorted by something else.
    mixed = [record for pair in zip(*records, strict=True) for record in pair]
    return World(store=store, spec=spec, ids=ids, records=mixed)


def test_questions_are_grouped_by_video(world: World) -> None:
    groups = world.groups()
    assert [len(group) for group in groups] == [5, 5]
    assert [len({trial.record.item for trial in group}) for group in groups] == [1, 1]
    assert len({trial.key for group in groups for trial in group}) == 10
    first = world.records[0].item
    assert len(plan_groups(world.records, {first: world.ids[first]})) == 1
    same_file = dict.fromkeys(world.ids, "0" * 32)  # under two names
    assert [len(group) for group in plan_groups(world.records, same_file)] == [10]


def test_a_key_stands_for_what_is_asked(world: World) -> None:
    trial = world.groups()[0][0]
    record = trial.record
    moved = dataclasses.replace(
        record, item=Item(kind="video", place="/elsewhere.mp4"), fields={"level": 1}
    )
    assert dataclasses.replace(trial, record=moved).key == trial.key
    for changes in ({"question": "?"}, {"options": ("x", "y")}, {"answer": "H"}, {"id": "7"}):
        edited: QuestionRecord = dataclasses.replace(record, **changes)  # type: ignore[arg-type]
        assert dataclasses.replace(trial, record=edited).key != trial.key
    assert dataclasses.replace(trial, item_id="0" * 32).key != trial.key


@pytest.mark.parametrize("decide", ["letter", "text", "generate"])
def test_grouped_questions_are_decided_as_each_by_itself(
    tiny_checkpoint: str, world: World, decide: Decide
) -> None:
    config = dataclasses.replace(CONFIG, decide=decide)
    grouped = world.worker(tiny_checkpoint, config)
    together = {key: each for group in world.groups() for key, each in grouped(group).items()}
    reader = grouped.engine.prefix_reader
    assert reader is not None
    # Of five prompts about 12 frames of 4 tokens, four begin with the video that was just read.
    assert reader.tokens_reused >= 2 * 4 * 48
    fresh = world.worker(tiny_checkpoint, dataclasses.replace(config, reuse_prefix=False))
    alone = {}
    for trial in (trial for group in reversed(world.groups()) for trial in reversed(group)):
        alone |= fresh([trial])
    for key, outcome in together.items():
        for name in ("right", "said", "logprobs", "text"):
            assert outcome[name] == alone[key][name], (key, name)
    assert together.keys() == alone.keys()
    if decide == "text":
        assert sum(outcome["right"] for outcome in together.values()) >= 9


def test_questions_about_an_image(tiny_checkpoint: str, tmp_path: Path) -> None:
    """By the file of a graph's worker, which says of a bad one what is wrong."""
    asked = exchanges_about(write_table(tmp_path / "table.png"))
    (tmp_path / "bad.png").write_bytes(b"notes")
    encode = EncodeImage(tiny_checkpoint, ENCODE, str(tmp_path / "store"))
    bad, missing = (encode({"path": [str(tmp_path / name)]}) for name in ("bad.png", "no.png"))
    assert "it is no image" in bad["error"][0]
    assert "it cannot be read: " in missing["error"][0]
    done = encode({"path": [str(tmp_path / "table.png")]})
    assert done["error"] == [""]
    item = Item(kind="image", place=str(tmp_path / "table.png"))
    records = [
        QuestionRecord(
            id=str(number),
            item=item,
            question=each.question,
            options=(),
            answer=each.answer,
            fields={},
        )
        for number, each in enumerate(asked)
    ]
    world = World(
        store=ShardStore(tmp_path / "store"),
        spec=describe_encoder(tiny_checkpoint, ENCODE),
        ids={item: done["image_id"][0]},
        records=records,
    )
    (group,) = world.groups()
    outcomes = world.worker(tiny_checkpoint, CONFIG)(group)
    assert sum(outcome["right"] for outcome in outcomes.values()) >= 0.9 * len(records)


def test_fewer_frames_are_spread_over_the_video(tiny_checkpoint: str, world: World) -> None:
    (trial, *_), _ = world.groups()
    video = world.store.open(trial.item_id, world.spec)
    for frames, rows in ((1, [0]), (2, [0, 11]), (5, [0, 2, 5, 8, 11]), (None, [*range(12)])):
        assert video.evenly(frames).tolist() == rows
    assert video.evenly(99).tolist() == [*range(12)]
    five = dataclasses.replace(CONFIG, frames=5)
    asked = [world.worker(tiny_checkpoint, config)([trial]) for config in (five, CONFIG)]
    assert asked[0][trial.key]["logprobs"] != asked[1][trial.key]["logprobs"]


def test_each_number_of_frames_is_asked_once(tiny_checkpoint: str, world: World) -> None:
    """12 frames are all, so 12, 64 and 128 are one; what is read is what the setting for one number
    reads."""
    group, _ = world.groups()
    groups = at_counts(group, (5, 12, 64, 128), 12)
    assert [each[0].frames for each in groups] == [5, 12]
    assert [len(each) for each in groups] == [5, 5]
    assert len({trial.key for each in groups for trial in each}) == 10
    assert at_counts(group, (None,), 12) == [group]
    found = world.worker(tiny_checkpoint, CONFIG)(groups[0][:1])
    five = world.worker(tiny_checkpoint, dataclasses.replace(CONFIG, frames=5))(group[:1])
    assert groups[0][0].key.startswith(group[0].key)
    assert found[groups[0][0].key]["logprobs"] == five[group[0].key]["logprobs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "--questions.frames must be at least 1 or None, got 0"),
        ({"frame_counts": (8, 0)}, "at least 1 and increase"),
        ({"frame_counts": (8, 8)}, "at least 1 and increase"),
        ({"frame_counts": (8,), "frames": 8}, "for one number of frames"),
        ({"max_new_tokens": 0}, "--questions.max-new-tokens must be at least 1, got 0"),
        ({"decide": "generate", "ring_size": 2}, "answers are scored, not generated"),
    ],
)
def test_senseless_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
