"""Frames that a client decoded: encoded as the frames of a video file are, and only once."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, noise

from longva_ray.lm.load import load_frame_encoder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.given_frames import encode_given_frames, given_id, given_spec
from longva_ray.shards.image_encoder import ImageEncoder
from longva_ray.shards.images import ImageStore, image_spec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import (
    EncodeFrames,
    EncodeOrReport,
    WritePart,
    describe_encoder,
)
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.read_image import ImageError

ENCODE = EncodeConfig(dtype="float32", part_frames=2, fitting="center_crop")


def test_frames_become_a_video(tmp_path: Path, tiny_checkpoint: str) -> None:
    store, encode = ShardStore(tmp_path), EncodeFrames(tiny_checkpoint, ENCODE)
    usual = describe_encoder(tiny_checkpoint, ENCODE)
    spec = given_spec(usual)
    images = [noise(130, 70, seed) for seed in range(5)]
    contents = [encoded(image) for image in images]
    video_id = encode_given_frames(contents, store, spec, encode)
    assert video_id == given_id(contents) != given_id(contents[::-1])
    video = store.open(video_id, spec)
    fitted = [whole_image(image, fitting="center_crop", grid_size=56) for image in images]
    encoder = load_frame_encoder(tiny_checkpoint, dtype=torch.float32)
    wanted_FQD = encoder.encode(np.concatenate(fitted), micro_batch=2)
    assert torch.allclose(video.tokens(), wanted_FQD, atol=1e-5)
    assert video.frame_index_F.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(video.timestamp_s_F).all()
    # What a client sent is no video of a server that takes every frame of a file.
    assert store.record(video_id, dataclasses.replace(usual, sampling="every")) is None
    video.verify()
    for part in tmp_path.rglob("*.arrow"):
        part.unlink()
    assert encode_given_frames(contents, store, spec, encode) == video_id
    assert not list(tmp_path.rglob("*.arrow"))  # what has a record is not encoded again


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"notes", "frame 3 is no image"),
        (encoded(noise(130, 70))[:3000], "frame 3 cannot be read"),
        (encoded(noise(400, 300)), "frame 3 has 400x300 pixels"),
    ],
)
def test_a_bad_frame_is_named(
    tmp_path: Path, tiny_checkpoint: str, content: bytes, told: str
) -> None:
    frames = [encoded(noise(60, 60)), encoded(noise(60, 60, seed=1)), content]
    spec = given_spec(describe_encoder(tiny_checkpoint, ENCODE))
    store = ShardStore(tmp_path)
    encode = EncodeFrames(tiny_checkpoint, ENCODE)
    with pytest.raises(ImageError, match=told):
        encode_given_frames(frames, store, spec, encode, max_pixels=100_000)
    assert not store.records()


def test_weights_that_make_no_finite_tokens_are_refused_and_nothing_is_stored(
    tmp_path: Path, tiny_checkpoint: str
) -> None:
    store, spec = ShardStore(tmp_path), given_spec(describe_encoder(tiny_checkpoint, ENCODE))
    encode, report = (kind(tiny_checkpoint, ENCODE) for kind in (EncodeFrames, EncodeOrReport))
    images = ImageEncoder(
        encode.encoder, image_spec(tiny_checkpoint, "", ENCODE), ImageStore(tmp_path)
    )
    for worker in (encode, report):
        worker.encoder.projector.linear_2.weight.data *= float("inf")
    told = rf"not finite; the vision weights of {tiny_checkpoint} .* range of float32"
    with pytest.raises(FloatingPointError, match=told):
        encode_given_frames([encoded(noise(60, 60))], store, spec, encode)
    with pytest.raises(FloatingPointError, match=told):
        images(encoded(noise(60, 60)), "an image")
    batch = {
        "video_id": ["0" * 32],
        "part": [0],
        "frame_index": np.array([[7]]),
        "timestamp_s": np.array([[0.5]]),
        "frames": np.zeros((1, 1, 56, 56, 3), np.uint8),
    }
    row = WritePart(store, spec)(report(batch))
    assert re.search(told, row["error"][0])
    assert (row["part"], row["frames_written"]) == ([-1], [0])
    assert not list(tmp_path.rglob("*.arrow"))
