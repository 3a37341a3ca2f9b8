"""The square that one video's frames are fitted onto: which size to scale to, how to turn and
mirror, where to paste.

Decoded picture (any size, pixel shape, orientation) -> size x size RGB, uint8 Y X C.

Shapes: Y rows, X columns, C colour channels.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longva_ray.video.container import MAX_PIXELS, VideoError, displayed_size
from longva_ray.video.fitting import Fitting, Placement, paste, place
from longva_ray.video.probe import VideoInfo

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class Canvas:
    """A `size` x `size` square for the frames of `info`, filled by `fitting`.

    Raises VideoError when the pictures are so long and thin that `fitting` would scale them to more
    than MAX_PIXELS.
    """

    def __init__(self, info: VideoInfo, *, size: int, fitting: Fitting) -> None:
        from av.video.reformatter import VideoReformatter

        self.info = info
        self.size = size
        self._fitting = fitting
        self._reformatter = VideoReformatter()
        self.placement = self._place(info.width, info.height)

    def fit(self, frame: "VideoFrame") -> npt.NDArray[np.uint8]:
        """Scale a decoded picture inside swscale, turn it upright, paste it: -> Y X C."""
        import av
        from av.video.reformatter import Interpolation

        orientation = self.info.orientation
        # A stream may change its picture size midway, so every picture is placed by its own size.
        placement = self._place(
            *displayed_size(frame.width, frame.height, self.info.pixel_aspect, orientation)
        )
        width, height = placement.scaled_width, placement.scaled_height
        if orientation.swaps_sides:
            width, height = height, width
        try:
            scaled = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                # Bicubic as in CLIP's preprocessing.
                interpolation=Interpolation.BICUBIC,
                threads=1,
            )
            scaled_YXC = np.asarray(scaled.to_ndarray(), dtype=np.uint8)
        except av.FFmpegError as error:
            reason = f"{frame.format.name} pictures cannot be turned into RGB ({error.strerror})"
            raise VideoError(self.info.path, f"its {reason}; convert it to H.264") from error
        return self.paste(orientation.upright(scaled_YXC), placement)

    def paste(
        self, scaled_YXC: npt.NDArray[np.uint8], placement: Placement
    ) -> npt.NDArray[np.uint8]:
        """Put one upright scaled picture on the square."""
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
