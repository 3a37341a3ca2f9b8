"""Which frames of a video are looked at: pure index functions.

(number of frames, average frames per second) -> frame indices, int64, increasing.

Three rules, equal to those of the released code: a frame rate (the paper samples its haystacks at 1
frame per second, section 4), a fixed number of frames spread evenly, and every frame. A rule counts
frames and does not look at their timestamps, so in a video of variable frame rate "1fps" is one
frame per second only on average. Nothing is read or decoded here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Mode = Literal["rate", "uniform", "every"]

_RATE = re.compile(r"(\d+(?:\.\d+)?)fps")

_UNIFORM = re.compile(r"uniform[:-](\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """One sampling rule; configs, artifacts and command lines hold its text form (`str`, `parse`).

    mode: "rate" takes `fps` frames per second, "uniform" takes `num_frames` frames in all, "every"
    takes them all.
    """

    mode: Mode = "rate"
    fps: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"sampling mode is {self.mode!r}; wanted one of {get_args(Mode)}")
        if (self.fps is not None) != (self.mode == "rate"):
            raise ValueError(
                f"sampling mode {self.mode!r} with fps={self.fps}; fps belongs to 'rate'"
            )
        if (self.num_frames is not None) != (self.mode == "uniform"):
            raise ValueError(
                f"sampling mode {self.mode!r} with num_frames={self.num_frames}; "
                "num_frames belongs to 'uniform'"
            )
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"sampling rate is {self.fps} frames per second; wanted more than 0")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"uniform sampling of {self.num_frames} frames; wanted at least 1")

    @classmethod
    def parse(cls, text: str) -> Sampling:
        """Read "1fps", "0.5fps", "uniform:128" or "every", or the slug of one.

        Raises ValueError for anything else.
        """
        if text == "every":
            return cls(mode="every")
        if found := _RATE.fullmatch(text):
            return cls(mode="rate", fps=float(found[1]))
        if found := _UNIFORM.fullmatch(text):
            return cls(mode="uniform", num_frames=int(found[1]))
        raise ValueError(
            f"sampling is {text!r}; wanted '1fps' (any rate), 'uniform:128' (any number) or 'every'"
        )

    def __str__(self) -> str:
        if self.fps is not None:
            return np.format_float_positional(self.fps, trim="-") + "fps"
        if self.num_frames is not None:
            return f"uniform:{self.num_frames}"
        return "every"

    @property
    def slug(self) -> str:
        """The text form with only characters that a file name may hold: "uniform-128"."""
        return str(self).replace(":", "-")

    def indices(self, num_frames: int, average_fps: float) -> npt.NDArray[np.int64]:
        """The frames to look at in a video of `num_frames` frames, strictly increasing, shape (F,).

        rate: every `round(average_fps / fps)`-th frame, beginning with the first; for 1 fps the
        released code's `range(0, n, round(average_fps))`. A rate above the video's own takes every
        frame. uniform: `np.linspace(0, n - 1, N, dtype=int)`. The released code repeats frames when
        N > n; here each frame is then taken once, because a repeated frame costs context and tells
        the model nothing.

        Raises ValueError for a video without frames and, in mode "rate", for a frame rate that is
        not positive.
        """
        if num_frames < 1:
            raise ValueError(
                f"cannot sample {self} from a video of {num_frames} frames; wanted at least 1"
            )
        if self.num_frames is not None and self.num_frames < num_frames:
            return np.linspace(0, num_frames - 1, self.num_frames, dtype=int).astype(np.int64)
        if self.fps is None:
            return np.arange(num_frames, dtype=np.int64)
        if not 0 < average_fps < float("inf"):
            raise ValueError(
                f"cannot sample {self} from a video of {average_fps} frames per second; "
                "wanted a positive rate, or use 'uniform:N'"
            )
        return np.arange(0, num_frames, max(1, round(average_fps / self.fps)), dtype=np.int64)
