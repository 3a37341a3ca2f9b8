"""An encoded video made of random tokens, for tests of the store and of those who read it."""

import numpy as np
import torch

from longva_ray.shards.schema import EncodingSpec, tensor_to_stored
from longva_ray.shards.store import ShardStore

VIDEO_ID = "0123456789abcdef" * 2

SPEC = EncodingSpec(
    encoder_fingerprint="a" * 32,
    sampling="1fps",
    fitting="letterbox",
    decoder="pyav",
    frame_size=56,
    dtype="float32",
    tokens_per_frame=4,
    width=6,
    micro_batch=4,
    part_frames=5,
)


def write_video(
    store: ShardStore,
    spec: EncodingSpec = SPEC,
    num_frames: int = 12,
    video_id: str = VIDEO_ID,
) -> torch.Tensor:
    """Write and commit a video of random tokens; returns the tokens."""
    shape = (num_frames, spec.tokens_per_frame, spec.width)
    generator = torch.Generator().manual_seed(num_frames)
    tokens_FQD = torch.randn(shape, generator=generator).to(getattr(torch, spec.dtype))
    for part in range(spec.num_parts(num_frames)):
        rows = spec.part_rows(part, num_frames)
        index_F = np.arange(rows.start, rows.stop) * 10
        stored_FQD = tensor_to_stored(tokens_FQD[rows.start : rows.stop])
        store.write_part(video_id, spec, part, index_F, index_F / 10, stored_FQD)
    store.commit(video_id, spec, source="a.mp4", num_frames=num_frames, duration_s=12.0)
    return tokens_FQD
