"""Frames that were decoded elsewhere -> a video of the store.

    content of image files -> frames_FYXC -> the parts of one video

For clients that decode a video themselves and send its frames as images. Each is fitted and encoded
as the frames of a video file are, which is one grid and a share of the tokens of an image. Nobody
says when they were shown, so they have no times, and none of them is left out. No Ray in here.

Shapes: F frames, Y/X/C pixel axes.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longva_ray.files.digest import digest_of
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames, WritePart
from longva_ray.vision.fit_image import whole_image
from longva_ray.vision.read_image import opened_image


def given_spec(spec: EncodingSpec) -> EncodingSpec:
    """How given frames are encoded where videos are encoded like that: every one of them.

    No video file is ever encoded so. What one client sent is thus no video that others find listed.
    """
    return dataclasses.replace(spec, sampling="every", origin="client")


def given_id(frames: Sequence[bytes]) -> str:
    """Video id: 32 hex digits over the content of all files, in their order."""
    return digest_of("given frames", *[digest_of(frame) for frame in frames])


def encode_given_frames(
    frames: Sequence[bytes],
    store: ShardStore,
    spec: EncodingSpec,
    encode: EncodeFrames,
    *,
    max_pixels: int | None = None,
) -> str:
    """Encode frames, each given by the content of its file, and return the id of their video; does
    nothing for what the store has. `spec` is a `given_spec`.

    Raises ImageError when a frame cannot be read."""
    video_id = given_id(frames)
    if store.record(video_id, spec) is not None:
        return video_id
    write = WritePart(store, spec)
    for part in range(spec.num_parts(len(frames))):
        rows = spec.part_rows(part, len(frames))
        batch = {
            "video_id": [video_id],
            "part": [part],
            "frame_index": np.array(rows)[None],
            "timestamp_s": np.full((1, len(rows)), np.nan),
            "frames": fit_frames(frames, rows, spec, max_pixels=max_pixels)[None],
        }
        write(encode(batch))
    store.commit(
        video_id, spec, source="frames of a client", num_frames=len(frames), duration_s=0.0
    )
    return video_id


def fit_frames(
    frames: Sequence[bytes],
    rows: Sequence[int],
    spec: EncodingSpec,
    *,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Some of these frames as the tower takes them: frames_FYXC.

    Raises ImageError when one cannot be read."""
    fitted = []
    for row in rows:
        with opened_image(frames[row], f"frame {row + 1}", max_pixels) as image:
            fitted.append(
                whole_image(
                    image, fitting=spec.fitting, grid_size=spec.frame_size, resize=spec.resize
                )
            )
    return np.concatenate(fitted)
