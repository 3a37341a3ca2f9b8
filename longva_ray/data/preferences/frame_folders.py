"""Folders of frames -> the embedding store, as LLaVA-Hound has its videos. No Ray in here.

/data/v_12/00001.jpg ... -> a frame each, in the order of their names, all of them
"""

from pathlib import PurePosixPath
from typing import NamedTuple

from longva_ray.data.images.chat import reason_of
from longva_ray.files.places import read_file
from longva_ray.files.videos import list_folder
from longva_ray.settings.encoding import EncodeConfig
from longva_ray.shards.given_frames import encode_given_frames, given_spec
from longva_ray.shards.schema import EncodingSpec
from longva_ray.shards.store import ShardStore
from longva_ray.shards.workers import EncodeFrames
from longva_ray.vision.read_image import is_image_name


class FolderResult(NamedTuple):
    """What became of one folder."""

    place: str
    video_id: str
    error: str
    """Why it could not be encoded; empty when it was."""


class EncodeFolder:
    """Worker: holds the encoder, and writes the frames of folders into the store."""

    def __init__(
        self, checkpoint: str, config: EncodeConfig, store: str, spec: EncodingSpec
    ) -> None:
        """`spec`: how videos are encoded there."""
        self._encode = EncodeFrames(checkpoint, config)
        self._store, self._spec = ShardStore(store), given_spec(spec)

    def __call__(self, number: int, place: str) -> FolderResult:
        try:
            return FolderResult(place, self._video_id(place), "")
        except (ValueError, OSError) as error:
            return FolderResult(place, "", reason_of(error))

    def _video_id(self, place: str) -> str:
        return encode_given_frames(read_frames(place), self._store, self._spec, self._encode)


def read_frames(place: str) -> list[bytes]:
    """The content of every picture in a folder, in the order of their names.

    Raises ValueError where there is none."""
    listing = list_folder(place)
    files = listing.files if listing else []
    names = [file for file in files if is_image_name(PurePosixPath(file).name)]
    if not names:
        raise ValueError("no pictures in this folder")
    return [read_file(name) for name in names]
