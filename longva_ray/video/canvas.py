"""The square that one video's frames are fitted onto: which size to scale to, how to turn and
mirror, where to paste.

Decoded picture (any size, pixel shape, orientation) -> size x size RGB, uint8 Y X C.

Two ways to scale. "decoder": swscale turns a picture into RGB and scales it in one step, which is
fast (`jobs/bench/encode.py` measures it). "pillow": the picture becomes RGB at full size, and
Pillow does the rest as in CLIP's own preprocessing, for the pixels of the released code.

Shapes: Y rows, X columns, C colour channels.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from longva_ray.video.container import MAX_PIXELS, VideoError, displayed_size
from longva_ray.video.fitting import Fitting, Placement, paste, place
from longva_ray.video.pillow_fit import fit_frame
from longva_ray.video.probe import VideoInfo

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Resize = Literal["decoder", "pillow"]


class Canvas:
    """A `size` x `size` square for the frames of `info`, filled by `fitting`.

    Raises VideoError when the pictures are so long and thin that `fitting` would scale them to more
    than MAX_PIXELS.
    """

    def __init__(
        self, info: VideoInfo, *, size: int, fitting: Fitting, resize: Resize = "decoder"
    ) -> None:
        from av.video.reformatter import VideoReformatter

        self.info = info
        self.size = size
        self._fitting = fitting
        self._resize = resize
        self._reformatter = VideoReformatter()
        self._placement = self._place(info.width, info.height)

    @property
    def decoded_size(self) -> tuple[int, int] | None:
        """(width, height) to which a decoder has to scale upright pictures; None, not at all."""
        if self._resize == "pillow":
            return None
        return self._placement.scaled_width, self._placement.scaled_height

    def fit(self, frame: "VideoFrame") -> npt.NDArray[np.uint8]:
        """Turn a decoded picture into RGB, scale it, turn it upright, paste it: -> Y X C."""
        orientation = self.info.orientation
        # A stream may change its picture size midway, so every picture is placed by its own size.
        shown = displayed_size(frame.width, frame.height, self.info.pixel_aspect, orientation)
        placement = self._place(*shown)
        if self._resize == "pillow":
            full_YXC = self._rgb(frame)
            return self._by_pillow(orientation.upright(full_YXC), shown)
        width, height = placement.scaled_width, placement.scaled_height
        if orientation.swaps_sides:
            width, height = height, width
        return self._paste(orientation.upright(self._rgb(frame, (width, height))), placement)

    def finish(self, upright_YXC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Put on the square what a decoder made of an upright picture, at `decoded_size`."""
        if self._resize == "pillow":
            return self._by_pillow(upright_YXC, (self.info.width, self.info.height))
        return self._paste(upright_YXC, self._placement)

    def _rgb(
        self, frame: "VideoFrame", size: tuple[int, int] | None = None
    ) -> npt.NDArray[np.uint8]:
        """A picture as stored, in RGB, by swscale; scaled to (width, height) if given."""
        import av
        from av.video.reformatter import Interpolation

        # Bicubic as in CLIP's preprocessing. Without scaling, PyAV's own choice: then the filter
        # only says how colours are spread over pixels.
        width, height = size or (frame.width, frame.height)
        filter_ = Interpolation.BICUBIC if size else Interpolation.BILINEAR
        try:
            converted = self._reformatter.reformat(
                frame, width=width, height=height, format="rgb24", interpolation=filter_, threads=1
            )
            return np.asarray(converted.to_ndarray(), dtype=np.uint8)
        except av.FFmpegError as error:
            reason = f"{frame.format.name} pictures cannot be turned into RGB ({error.strerror})"
            raise VideoError(self.info.path, f"its {reason}; convert it to H.264") from error

    def _by_pillow(
        self, full_YXC: npt.NDArray[np.uint8], shown: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        return fit_frame(Image.fromarray(full_YXC), self.size, self._fitting, shown=shown)

    def _paste(
        self, scaled_YXC: npt.NDArray[np.uint8], placement: Placement
    ) -> npt.NDArray[np.uint8]:
        return paste(scaled_YXC[None], placement, self.size, self.size, self._fitting)[0]

    def _place(self, width: int, height: int) -> Placement:
        placement = place(width, height, self.size, self.size, self._fitting)
        if placement.scaled_width * placement.scaled_height > MAX_PIXELS:
            raise VideoError(
                self.info.path,
                f"its {width}x{height} pictures are too long and thin for {self._fitting}; "
                "use letterbox",
            )
        return placement
