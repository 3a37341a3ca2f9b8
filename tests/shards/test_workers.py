"""The encoding stages without Ray: videos behind URIs, and those that cannot be had."""

from pathlib import Path

import pytest
import torch

from longva_ray.config import EncodeConfig
from longva_ray.filesystem import file_name, local_file, resolve
from longva_ray.shards.store import EncodedVideo, ShardStore
from longva_ray.shards.workers import (
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
    filesystem, path = resolve(uri)
    with filesystem.open_output_stream(path) as file:
        file.write(counting_video.read_bytes())
    spec = describe_encoder(tiny_checkpoint, CONFIG)
    encode = EncodeFrames(tiny_checkpoint, CONFIG)
    remote, local = ShardStore(s3_bucket), ShardStore(tmp_path)
    from_s3 = encode_one_video(uri, remote, spec, encode)
    from_disk = encode_one_video(str(counting_video), local, spec, encode)
    assert from_s3 == from_disk
    assert from_s3.source == "counting.mp4"
    tokens = EncodedVideo(remote, from_s3).tokens()
    assert torch.equal(tokens, EncodedVideo(local, from_disk).tokens())


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
