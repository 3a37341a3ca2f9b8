"""What a message shows, on its way to the language model: a name, then what the store has of it.

    VideoRef | ImageRef -> Item: how many tokens, and how they are loaded

A prompt's length is known before any tokens are loaded, so that one too long costs nothing.

Shapes: F frames, Q visual tokens of a frame, S visual tokens of an image, D width of the language
model.
"""

import dataclasses
from collections.abc import Callable, Hashable

import torch

from longva_ray.serving.api import FramesRead, ImageRead
from longva_ray.shards.images import ImageSpec, ImageStore
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class VideoRef:
    """A video of the store and how many of its frames a question wants (None: all)."""

    video_id: str
    spec: EncodingSpec
    num_frames: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ImageRef:
    """An image of the store."""

    image_id: str
    spec: ImageSpec


ItemRef = VideoRef | ImageRef


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An image or a video, ready to be read."""

    key: Hashable
    """Equal only where the tokens are."""
    num_tokens: int
    read: FramesRead | ImageRead
    """What the answer says of it."""
    tokens: Callable[[], torch.Tensor]
    """Loads SD or FQD."""


class ItemStore:
    """Opens what the store has encoded."""

    def __init__(self, root: str) -> None:
        self._videos = ShardStore(root)
        self._images = ImageStore(root)

    def open(self, ref: ItemRef) -> Item:
        """Raises KeyError or ShardError for what is not there, or damaged."""
        return self._image(ref) if isinstance(ref, ImageRef) else self._video(ref)

    def _image(self, ref: ImageRef) -> Item:
        num_tokens = self._images.num_tokens(ref.image_id, ref.spec)
        return Item(
            key=ref,
            num_tokens=num_tokens,
            read=ImageRead(tokens=num_tokens),
            tokens=lambda: self._images.tokens(ref.image_id, ref.spec),
        )

    def _video(self, ref: VideoRef) -> Item:
        video = self._videos.open(ref.video_id, ref.spec)
        there = video.num_frames
        frames = min(ref.num_frames or there, there)
        return Item(
            key=dataclasses.replace(ref, num_frames=frames),
            num_tokens=frames * ref.spec.tokens_per_frame,
            read=FramesRead(frames_read=frames, frames_available=there),
            tokens=lambda: video.tokens(video.evenly(frames)),
        )
