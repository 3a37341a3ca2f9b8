"""LLaVA's files: what is read, what a sample is, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from byte_tokenizer import byte_tokenizer
from vision_world import conversation

from longva_ray.data.images.chat import (
    ChatSample,
    Item,
    RawSample,
    SampleError,
    parse_sample,
    read_samples,
)
from longva_ray.lm.prompt import CHAT_TEMPLATE


def parse(**content: Any) -> ChatSample:
    return parse_sample(RawSample(sample_id="x", folder="/images", content=content))


def image(name: str) -> Item:
    return Item(kind="image", place=f"/images/{name}")


def test_an_image_and_its_question() -> None:
    sample = parse(image="a.jpg", conversations=conversation("<image>\nWhat is it?", " A cat. "))
    assert sample.items == (image("a.jpg"),)
    question, answer = sample.messages
    assert question["content"] == [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    assert answer == {"role": "assistant", "content": "A cat."}


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("What is it?\n<image>", "<image>\nWhat is it?"),
        ("<image>\nWhat is it?", "<image>\nWhat is it?"),
        ("<image>What is it?", "<image>\nWhat is it?"),
        (" <image> \n\n What is it?\n", "<image>\nWhat is it?"),
        ("Here is \n <image>\n. What is it?", "<image>\nHere is\n. What is it?"),
        ("<image>", "<image>\n"),
    ],
)
def test_the_only_placeholder_of_a_turn_comes_first(value: str, wanted: str) -> None:
    sample = parse(image="a.jpg", conversations=conversation(value, "A cat."))
    prompt = byte_tokenizer().apply_chat_template(
        [*sample.messages], chat_template=CHAT_TEMPLATE, tokenize=False
    )
    assert f"<|im_start|>user\n{wanted}<|im_end|>" in str(prompt)


def test_several_images_stay_where_they_stand() -> None:
    sample = parse(
        image=["a.jpg", "s3://bucket/b.jpg", "/other/c.jpg"],
        conversations=conversation("Is <image>\nlike <image>\n?", "No.", "<image> neither?", "No."),
    )
    assert [item.place for item in sample.items] == [
        "/images/a.jpg",
        "s3://bucket/b.jpg",
        "/other/c.jpg",
    ]
    assert sample.messages[0]["content"] == [
        {"type": "text", "text": "Is "},
        {"type": "image"},
        {"type": "text", "text": "like "},
        {"type": "image"},
        {"type": "text", "text": "?"},
    ]


def test_text_only_and_system() -> None:
    turns = [{"from": "system", "value": "Be brief."}, *conversation("Hi.", "Hi.")]
    sample = parse(conversations=turns)
    assert sample.items == ()
    assert [message["role"] for message in sample.messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize("placeholder", ["<image>", "<video>"])
def test_a_video_by_either_placeholder(placeholder: str) -> None:
    sample = parse(video="v.mp4", conversations=conversation(f"{placeholder}\nWhat?", "A cat."))
    assert sample.items == (Item(kind="video", place="/images/v.mp4"),)
    assert sample.messages[0]["content"][0] == {"type": "video"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({}, "conversations"),
        ({"conversations": conversation("Hi.")}, "an answer last"),
        ({"conversations": conversation("Hi.", "Hi.")[::-1]}, "an answer last"),
        ({"conversations": [{"from": "robot", "value": "Hi."}]}, "from 'robot'"),
        ({"conversations": [{"from": "human"}]}, "turn 0 has no text"),
        ({"conversations": conversation("Hi.", " ")}, "turn 1 is empty"),
        ({"conversations": conversation("<image>\nHi.", "Hi.")}, "more placeholders"),
        ({"image": "a.jpg", "conversations": conversation("Hi.", "Hi.")}, "no placeholder"),
        ({"image": "a.jpg", "conversations": conversation("Hi.", "<image>")}, "no placeholder"),
        ({"image": 3, "conversations": conversation("Hi.", "Hi.")}, "want a path"),
    ],
)
def test_what_is_no_conversation(content: dict[str, Any], reason: str) -> None:
    with pytest.raises(SampleError, match=reason):
        parse(**content)


def test_a_sample_that_is_no_object() -> None:
    with pytest.raises(SampleError, match="want an object"):
        parse_sample(RawSample(sample_id="x", folder="", content=["Hi."]))


# Files --------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten samples in a JSON list, and three as JSON lines."""
    samples = [{"id": number, "conversations": conversation("Hi.", "Hi.")} for number in range(10)]
    (tmp_path / "ten.json").write_text(json.dumps(samples))
    lines = [json.dumps({"conversations": conversation("Hi.", "Hi.")}) for _ in range(3)]
    (tmp_path / "three.jsonl").write_text("\n".join(lines) + "\n\n")
    return tmp_path


def read(folder: Path, *datasets: dict[str, str], seed: int = 0) -> list[str]:
    (folder / "mixture.yaml").write_text(json.dumps({"datasets": datasets}))
    samples = read_samples([str(folder / "mixture.yaml")], image_folder=None, seed=seed)
    return [sample.sample_id for sample in samples]


def test_lists_and_lines(folder: Path) -> None:
    places = [str(folder / "ten.json"), str(folder / "three.jsonl")]
    samples = read_samples(places, image_folder=None, seed=0)
    assert [sample.sample_id for sample in samples] == [
        *map(str, range(10)),
        *(f"three.jsonl#{number}" for number in range(3)),
    ]
    assert {sample.folder for sample in samples} == {str(folder)}
    (sample, *_) = read_samples(places, image_folder="s3://images", seed=0)
    assert sample.folder == "s3://images"


@pytest.mark.parametrize(
    ("strategy", "taken"),
    [
        ("all", range(10)),
        ("first:3", range(3)),
        ("3", range(3)),
        ("25%", range(3)),
        ("end:3", range(7, 10)),
        ("end:20%", range(8, 10)),
        ("first:99", range(10)),
    ],
)
def test_strategies(folder: Path, strategy: str, taken: range) -> None:
    found = read(folder, {"json_path": "ten.json", "sampling_strategy": strategy})
    assert found == [str(number) for number in taken]


def test_random_is_a_choice_of_the_seed(folder: Path) -> None:
    entry = {"json_path": "ten.json", "sampling_strategy": "random:50%"}
    first, again, other = read(folder, entry), read(folder, entry), read(folder, entry, seed=1)
    assert len(set(first)) == 5
    assert first == again
    assert first != other
    twice = read(folder, entry, entry)
    assert twice[:5] != twice[5:]


def test_a_mixture_in_order(folder: Path) -> None:
    found = read(
        folder,
        {"json_path": "three.jsonl", "sampling_strategy": "first:1"},
        {"json_path": str(folder / "ten.json"), "sampling_strategy": "end:1"},
    )
    assert found == ["three.jsonl#0", "9"]


def test_files_that_cannot_be_used(folder: Path) -> None:
    def refused(name: str, content: str, match: str) -> None:
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match=match):
            read_samples([str(folder / name)], image_folder=None, seed=0)

    refused("broken.json", "[{", "no JSON")
    refused("object.json", "{}", "want a list")
    refused("empty.json", "[]", "no samples")
    refused("broken.yaml", "datasets: [", "no YAML")
    refused("other.yaml", "sets: []", "names no 'datasets'")
    refused("typo.yaml", "datasets: [{json: a.json}]", "json_path")
    refused("how.yaml", "datasets: [{json_path: ten.json, sampling_strategy: some}]", "'some'")
    with pytest.raises(ValueError, match="cannot read"):
        read_samples([str(folder / "missing.json")], image_folder=None, seed=0)


def test_json_lines_end_at_newlines_only(tmp_path: Path) -> None:
    """JSON strings may hold U+2028, at which Python ends lines too."""
    entry = {"id": "a", "conversations": conversation("Hi\u2028there", "Yes\u0085.")}
    (tmp_path / "a.jsonl").write_text(2 * (json.dumps(entry, ensure_ascii=False) + "\n"))
    samples = list(read_samples([str(tmp_path / "a.jsonl")], image_folder=None, seed=0))
    assert [sample.content for sample in samples] == [entry, entry]
