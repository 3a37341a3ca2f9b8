"""The encoding stages without Ray: videos at URIs, and those that cannot be had."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from counting_video import write_counting_video

from longva_ray.files.places import file_name, local_file, open_place
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import (
    Batch,
    DecodeSegment,
    EncodeFrames,
    IdentifyVideo,
    describe_encoder,
    encode_one_video,
)

CONFIG = EncodeConfig(dtype="float32", part_frames=8)


def test_a_video_on_s3_gives_the_tokens_of_the_same_file_on_disk(
    s3_bucket: str, counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    uri = s3_bucket.replace("shards", "in/counting.mp4")
    filesystem, path = open_place(uri)
    with filesystem.open_output_stream(path) as file:
        file.write(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    encode = EncodeFrames(tiny_checkpoint, CONFIG)
    remote, local = ShardStore(s3_bucket), ShardStore(tmp_path)
    from_s3 = encode_one_video(uri, remote, spec, encode)
    from_disk = encode_one_video(str(counting_video), local, spec, encode)
    assert from_s3 == from_disk
    assert from_s3.source == "counting.mp4"
    tokens = EncodedVideo(from_s3, remote.read_part).tokens()
    assert torch.equal(tokens, EncodedVideo(from_disk, local.read_part).tokens())


def test_a_uri_that_names_nothing_is_a_row_with_the_reason(
    s3_bucket: str, tiny_checkpoint: str, tmp_path: Path
) -> None:
    uri = s3_bucket.replace("shards", "in/absent.mp4")
    identify = IdentifyVideo(
        ShardStore(tmp_path), describe_encoder(tiny_checkpoint, CONFIG), decode_slots=1
    )
    (error,) = identify({"path": [uri]})["error"]
    assert "cannot be read" in error


def test_a_video_that_vanishes_after_it_was_identified_is_a_row_with_the_reason(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "here for now.mp4"
    path.write_bytes(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    plan = IdentifyVideo(ShardStore(tmp_path / "store"), spec, decode_slots=1)(
        {"path": [str(path)]}
    )
    path.unlink()
    rows = list(DecodeSegment(spec)({name: values[:1] for name, values in plan.items()}))
    assert [row["part"][0] for row in rows] == [-1]
    assert rows[0]["error"][0]


def identify(path: str, store: Path, spec: EncodingSpec, decode_slots: int = 1) -> list[Batch]:
    """The rows of the plan for one video."""
    plan = IdentifyVideo(ShardStore(store), spec, decode_slots)({"path": [path]})
    return [
        {name: [values[row]] for name, values in plan.items()} for row in range(len(plan["path"]))
    ]


@pytest.mark.parametrize("num_frames", [300, 100, 50])
def test_a_video_that_changes_after_it_was_identified_is_a_row_with_the_reason(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path, num_frames: int
) -> None:
    path = tmp_path / "changing.mp4"
    path.write_bytes(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    *_, last = identify(str(path), tmp_path / "store", spec, decode_slots=2)
    write_counting_video(path, num_frames=num_frames, fps=10, size=(64, 64))
    (row,) = DecodeSegment(spec)(last)
    assert (row["part"], row["error"]) == ([-1], ["changed while it was encoded; encode it again"])


def test_a_video_that_changes_while_it_is_decoded_gives_no_further_part(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "changing.mp4"
    path.write_bytes(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    (plan,) = identify(str(path), tmp_path / "store", spec)
    parts = DecodeSegment(spec)(plan)
    assert next(parts)["part"] == [0]
    os.utime(path)
    assert [row["error"][0][:7] for row in parts] == ["changed"]


def test_a_copy_with_the_same_content_and_another_time_is_the_same_video(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "copied.mp4"
    path.write_bytes(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    (plan,) = identify(str(path), tmp_path / "store", spec)
    os.utime(path, (0, 0))
    assert [row["error"] for row in DecodeSegment(spec)(plan)] == [[""]] * 4


def test_a_video_that_changes_on_s3_is_a_row_with_the_reason(
    s3_bucket: str, counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    uri = s3_bucket.replace("shards", "in/changing.mp4")
    filesystem, path = open_place(uri)
    content = counting_video.read_bytes()
    with filesystem.open_output_stream(path) as file:
        file.write(content)
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    (plan,) = identify(uri, tmp_path, spec)
    with filesystem.open_output_stream(path) as file:
        file.write(content[:-1] + b"?")
    (row,) = DecodeSegment(spec)(plan)
    assert row["error"] == ["changed while it was encoded; encode it again"]


def test_nodes_that_count_frames_differently_are_told_so(
    counting_video: Path, tiny_checkpoint: str, tmp_path: Path
) -> None:
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    (plan,) = identify(str(counting_video), tmp_path, spec)
    (row,) = DecodeSegment(spec)(plan | {"num_frames": [31]})
    assert "has 30 sampled frames where it is decoded and 31" in row["error"][0]


@pytest.mark.parametrize("on_s3", [False, True])
def test_parts_that_are_not_the_recorded_ones_are_made_again_and_the_record_is_renewed(
    s3_bucket: str, counting_video: Path, tiny_checkpoint: str, tmp_path: Path, on_s3: bool
) -> None:
    store = ShardStore(s3_bucket if on_s3 else tmp_path)
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    encode = EncodeFrames(tiny_checkpoint, CONFIG)
    record = encode_one_video(str(counting_video), store, spec, encode)
    folder = f"{store.root}/{record.video_id}/{spec.key}"
    # As an older Arrow might have written it: another size, and whole.
    name = f"{folder}/video.json"
    old = dataclasses.replace(record, part_bytes=(7, *record.part_bytes[1:]))
    with store.folder.filesystem.open_output_stream(name) as file:
        file.write(old.to_json().encode())
    assert store.missing_parts(record.video_id, spec, record.num_frames) == [0]
    assert encode_one_video(str(counting_video), store, spec, encode) == record
    EncodedVideo(record, store.read_part).verify()


def test_local_files_are_not_copied(counting_video: Path) -> None:
    with local_file(str(counting_video)) as path:
        assert path == counting_video


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/data/a b.mp4", "a b.mp4"),
        ("s3://bucket/folder/v.mp4?endpoint_override=http://127.0.0.1:1/x", "v.mp4"),
    ],
)
def test_names_of_files(place: str, name: str) -> None:
    assert file_name(place) == name
