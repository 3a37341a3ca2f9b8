"""The pixels that an encoded video, folder of frames or image was encoded from, cut as it was.

    Item (where it lies), Medium (what the store calls it), frames_F -> Cut: grids_GYXC, source_S2

For training that encodes anew, with a tower that changes. Files are read and fitted by what encodes
them: `video.decode`, `shards.given_frames`, `vision.encoding`. So the tower before training makes
the store's tokens of them. What it does not do: look a file up that lies elsewhere by now.

Shapes: F frames, G grids, Y/X/C pixel axes, S visual tokens, 2 the grid of one and its number
there.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from longva_ray.data.images.chat import Item, SampleError
from longva_ray.data.preferences.frame_folders import read_frames
from longva_ray.data.preferences.seen import Medium
from longva_ray.files.places import local_file, read_file
from longva_ray.shards.given_frames import fit_frames, given_id
from longva_ray.shards.images import image_id_of
from longva_ray.shards.schema import EncodingSpec, hash_video
from longva_ray.shards.workers import CHANGED
from longva_ray.video.decode import decode_frames
from longva_ray.video.probe import probe_video
from longva_ray.video.sampling import Sampling
from longva_ray.vision.encoding import Cut, GridSettings
from longva_ray.vision.read_image import opened_image


class MediaPixels:
    """Pixels of what one store encoded; the last ones are kept, since pairs about one video stand
    together."""

    def __init__(self, spec: EncodingSpec, grids: GridSettings) -> None:
        """
        Args:
            spec: how videos are encoded there.
            grids: how the checkpoint cuts images.
        """
        self._spec = spec
        self._grids = grids
        self._last: tuple[Item, bytes, Cut] | None = None

    def __call__(self, item: Item, medium: Medium, frames_F: npt.NDArray[np.int32]) -> Cut:
        """The grids of these of its encoded frames, or of the image.

        Raises SampleError for a file that is no longer what was encoded, and what reading it
        raises."""
        wanted = frames_F.tobytes()
        if self._last is None or self._last[:2] != (item, wanted):
            self._last = (item, wanted, self._cut(item, medium, frames_F))
        return self._last[2]

    def _cut(self, item: Item, medium: Medium, frames_F: npt.NDArray[np.int32]) -> Cut:
        if medium.kind == "image":
            return self._image(item.place, medium.id)
        if medium.kind == "frames":
            return self._grids.pooled(self._folder(item.place, medium.id, frames_F))
        with local_file(item.place) as file:
            return self._grids.pooled(self._video(file, item.place, medium.id, frames_F))

    def _image(self, place: str, image_id: str) -> Cut:
        content = read_file(place)
        _check(place, image_id, image_id_of(content))
        with opened_image(content, place) as image:
            return self._grids.image(image)

    def _folder(
        self, place: str, video_id: str, frames_F: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        frames = read_frames(place)
        _check(place, video_id, given_id(frames))
        return fit_frames(frames, frames_F.tolist(), self._spec)

    def _video(
        self, file: Path, place: str, video_id: str, frames_F: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.uint8]:
        spec = self._spec
        _check(place, video_id, hash_video(file))
        info = probe_video(file, decoder=spec.decoder)
        chunks = decode_frames(
            info,
            info.sampled(Sampling.parse(spec.sampling))[frames_F],
            size=spec.frame_size,
            fitting=spec.fitting,
            chunk_frames=spec.part_frames,
            resize=spec.resize,
        )
        return np.concatenate([chunk.frames_FYXC for chunk in chunks])


def _check(place: str, encoded: str, found: str) -> None:
    if encoded != found:
        raise SampleError(f"{place} {CHANGED}")
