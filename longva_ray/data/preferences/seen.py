"""What pairs are about, as it lies in the embedding store, and its visual tokens.

    Medium (video, frames or image, and its id) -> how many tokens, and some of them, S x D

A folder of frames is a video whose frames were given (`shards.given_frames`), an image has a store
of its own below the same root (`shards.images`). Whoever reads tokens by their numbers need not
know which of these it is.

Shapes: F frames, S visual tokens, D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from longva_ray.data.images.chat import Item
from longva_ray.shards.encoded_video import EncodedVideo
from longva_ray.shards.given_frames import given_spec
from longva_ray.shards.images import ImageSpec, ImageStore
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.vision.encoding import GridSettings


class Medium(NamedTuple):
    """A video, a folder of frames, or an image of the store."""

    kind: Literal["video", "frames", "image"]
    id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Everything that pairs are about, as it was encoded."""

    store: str
    spec: EncodingSpec
    media: Mapping[Item, Medium]
    errors: Mapping[Item, str]
    """Why others could not be encoded."""


class MediaTokens:
    """Visual tokens of one store by medium."""

    def __init__(self, store: str, spec: EncodingSpec, grids: GridSettings) -> None:
        """`grids`: how the checkpoint cuts images."""
        self._videos, self._images = ShardStore(store), ImageStore(store)
        self._spec = spec
        self._image_spec = ImageSpec(
            encoder_fingerprint=spec.encoder_fingerprint,
            grids=grids,
            dtype=spec.dtype,
            micro_batch=spec.micro_batch,
        )

    def frames(self, medium: Medium, most: int | None) -> npt.NDArray[np.int32]:
        """At most so many frames, spread evenly over the encoded ones, (F,); none of an image.

        Raises KeyError or ShardError for what is not there."""
        if medium.kind == "image":
            return np.zeros(0, np.int32)
        return self._video(medium).evenly(most).astype(np.int32)

    def count(self, medium: Medium, frames_F: npt.NDArray[np.int32]) -> int:
        """Tokens of these frames, or of the image."""
        if medium.kind == "image":
            return self._images.num_tokens(medium.id, self._image_spec)
        return len(frames_F) * self._spec.tokens_per_frame

    def take(
        self, medium: Medium, frames_F: npt.NDArray[np.int32], number_S: torch.Tensor
    ) -> torch.Tensor:
        """Tokens (S, D) by their numbers among all that `count` counts; of a video only the frames
        that they are in are read.

        Raises KeyError or ShardError for what is not there."""
        if medium.kind == "image":
            return self._images.tokens(medium.id, self._image_spec)[number_S]
        each = self._spec.tokens_per_frame
        frames, place_S = torch.unique(number_S // each, return_inverse=True)
        tokens_FQD = self._video(medium).tokens(frames_F[frames.numpy()])
        return tokens_FQD[place_S, number_S % each]

    def _video(self, medium: Medium) -> EncodedVideo:
        spec = self._spec if medium.kind == "video" else given_spec(self._spec)
        return self._videos.open(medium.id, spec)
