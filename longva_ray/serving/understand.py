"""A request -> the language model's messages, and a name for each image and video they show.

What is not encoded yet is encoded on the way, one item after another. Items are named in the order
of their parts; where they stand in the prompt is the template's affair (`lm.prompt`).
"""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from longva_ray.lm.prompt import Message
from longva_ray.serving.api import (
    ApiError,
    ChatMessage,
    Conversation,
    ImagePart,
    TextPart,
    VideoPart,
)
from longva_ray.serving.image_source import ImageSource
from longva_ray.serving.items import ImageRef, ItemRef, VideoRef
from longva_ray.serving.media import MediaLibrary
from longva_ray.shards.given_frames import given_id, given_spec
from longva_ray.shards.images import ImageSpec, ImageStore, image_id_of
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore


class Understanding:
    """Reads requests; knows where images and videos are found, and who encodes them."""

    def __init__(
        self,
        library: MediaLibrary,
        images: ImageSource,
        store: str,
        spec: EncodingSpec,
        image_spec: ImageSpec,
        encoder: DeploymentHandle[Any],
        *,
        max_images: int,
        max_bytes: int,
    ) -> None:
        """`max_bytes`: most of all frames of a video that a client sends as images, together."""
        self._library = library
        self._source = images
        self._videos, self._images = ShardStore(store), ImageStore(store)
        self._spec, self._image_spec = spec, image_spec
        self._encoder = encoder
        self._max_images, self._max_bytes = max_images, max_bytes

    async def __call__(self, request: Conversation) -> tuple[list[Message], list[ItemRef]]:
        """Raises ApiError for an image or video that is not there, not allowed or too large, and
        ValueError for one that cannot be decoded."""
        self._check_number(request)
        messages: list[Message] = []
        items: list[ItemRef] = []
        numbers = itertools.count(1)
        for message in request.messages:
            content: Any = message.content
            if not isinstance(content, str):
                content, shown = await self._parts(message, request, numbers)
                items += shown
            messages.append({"role": message.role, "content": content})
        return messages, items

    def _check_number(self, request: Conversation) -> None:
        number = sum(len(_images(message)) for message in request.messages)
        if number > self._max_images:
            raise ApiError(
                400,
                "too_many_images",
                f"the messages hold {number} images, this server reads {self._max_images} of a "
                "request",
            )

    async def _parts(
        self, message: ChatMessage, request: Conversation, numbers: Iterator[int]
    ) -> tuple[list[dict[str, str]], list[ItemRef]]:
        """Parts as the template wants them; `numbers` are those of the images, for errors."""
        parts: list[dict[str, str]] = []
        items: list[ItemRef] = []
        frames = _images(message) if request.images_as_video else []
        for part in message.content:
            assert not isinstance(part, str)
            item: ItemRef
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
                continue
            if isinstance(part, VideoPart):
                item = await self._video(part.video_url.url, request.num_frames)
            elif not frames:
                item = await self._image(part.image_url.url, f"image {next(numbers)}")
            elif part is frames[0]:
                item = await self._frames(frames, request.num_frames)
            else:
                continue  # a frame of the video that stands where the first one does
            items.append(item)
            parts.append({"type": "image" if isinstance(item, ImageRef) else "video"})
        return parts, items

    async def _video(self, url: str, num_frames: int | None) -> VideoRef:
        path = self._library.local_path(url)
        if path is None:
            video_id = await asyncio.to_thread(self._library.encoded_id, url)
        else:
            video_id = await asyncio.to_thread(self._library.hash, path)
            if not await asyncio.to_thread(self._library.is_encoded, video_id):
                await self._encoder.encode.remote(str(path))
        return VideoRef(video_id=video_id, spec=self._spec, num_frames=num_frames)

    async def _image(self, url: str, what: str) -> ImageRef:
        content = await asyncio.to_thread(self._source.content, url, what)
        image_id = image_id_of(content)
        if not await asyncio.to_thread(self._images.is_there, image_id, self._image_spec):
            await self._encoder.encode_image.remote(content, what)
        return ImageRef(image_id=image_id, spec=self._image_spec)

    async def _frames(self, parts: Sequence[ImagePart], num_frames: int | None) -> VideoRef:
        contents: list[bytes] = []
        for number, part in enumerate(parts, start=1):
            what = f"frame {number}"
            contents.append(await asyncio.to_thread(self._source.content, part.image_url.url, what))
            if (size := sum(map(len, contents))) > self._max_bytes:
                raise ApiError(
                    400,
                    "frames_too_large",
                    f"{number} of {len(parts)} frames have {size} bytes together, this server "
                    f"reads {self._max_bytes}; send fewer or smaller ones, or name a video",
                )
        video_id, spec = given_id(contents), given_spec(self._spec)
        if await asyncio.to_thread(self._videos.record, video_id, spec) is None:
            await self._encoder.encode_frames.remote(contents)
        return VideoRef(video_id=video_id, spec=spec, num_frames=num_frames)


def _images(message: ChatMessage) -> list[ImagePart]:
    if isinstance(message.content, str):
        return []
    return [part for part in message.content if isinstance(part, ImagePart)]
