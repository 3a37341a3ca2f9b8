"""Which frames of a video are looked at: pure index functions.

The times of a video's frames -> frame indices, int64, increasing.

Four rules:

    1fps            the frame shown at each second, by the frames' times; any rate
    1fps-by-count   every `round(average rate)`-th frame, as in the released code; any rate
    uniform:128     so many frames, spread evenly over the list of frames
    every           all of them

The first two are equal where a video has a whole number of frames a second. They differ where the
rate varies (30 frames in 3 seconds, then one every 10), and slowly at 29.97 frames a second.
Nothing is read or decoded here.

Shapes: F frames of a video in display order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

Mode = Literal["time", "count", "uniform", "every"]

RATES: tuple[Mode, ...] = ("time", "count")
"""The modes with a rate."""

MAX_ROUNDING_S = Fraction(1, 500)
"""Longer ticks are those of the frames, as in AVI, and round nothing."""

_RATE = re.compile(r"(\d+(?:\.\d+)?)fps(-by-count)?")

_UNIFORM = re.compile(r"uniform:(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """One sampling rule; configs and command lines hold its text form (`str`, `parse`).

    mode: "time" and "count" take `fps` frames per second, "uniform" takes `num_frames` frames in
    all, "every" takes them all.
    """

    mode: Mode = "time"
    fps: float | None = None
    num_frames: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"sampling mode is {self.mode!r}; wanted one of {get_args(Mode)}")
        if (self.fps is not None) != (self.mode in RATES):
            raise ValueError(
                f"sampling mode {self.mode!r} with fps={self.fps}; fps belongs to {RATES}"
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
        """Read "1fps", "0.5fps-by-count", "uniform:128" or "every".

        Raises ValueError for anything else.
        """
        if text == "every":
            return cls(mode="every")
        if found := _RATE.fullmatch(text):
            return cls(mode="count" if found[2] else "time", fps=float(found[1]))
        if found := _UNIFORM.fullmatch(text):
            return cls(mode="uniform", num_frames=int(found[1]))
        raise ValueError(
            f"sampling is {text!r}; wanted '1fps' or '1fps-by-count' (any rate), 'uniform:128' "
            "(any number) or 'every'"
        )

    def __str__(self) -> str:
        if self.fps is not None:
            return self._rate() + ("-by-count" if self.mode == "count" else "")
        if self.num_frames is not None:
            return f"uniform:{self.num_frames}"
        return "every"

    @property
    def stored(self) -> str:
        """The text form in artifacts. There "1fps" has always been the rule that counts; the one by
        time is "1fps-by-time", so that neither can be taken for the other."""
        if self.mode in RATES:
            return self._rate() + ("-by-time" if self.mode == "time" else "")
        return str(self)

    @classmethod
    def parse_stored(cls, text: str) -> Sampling:
        """The rule whose text form in artifacts this is; ValueError for anything else."""
        if found := _RATE.fullmatch(text.removesuffix("-by-time")):
            mode: Mode = "time" if text.endswith("-by-time") else "count"
            return cls(mode=mode, fps=float(found[1]))
        return cls.parse(text)

    def _rate(self) -> str:
        assert self.fps is not None
        return np.format_float_positional(self.fps, trim="-") + "fps"

    def indices(
        self, frame_pts_F: npt.NDArray[np.int64], time_base: Fraction, average_fps: float
    ) -> npt.NDArray[np.int64]:
        """The frames to look at in a video whose frames are shown at `frame_pts_F` ticks of
        `time_base` seconds (increasing): strictly increasing.

        time: for second 0, 1/fps, 2/fps, ... after the first frame, the frame that is shown then.
        count: every `round(average_fps / fps)`-th frame, beginning with the first; for 1 fps the
        released code's `range(0, n, round(average_fps))`. uniform: `np.linspace(0, n - 1, N,
        dtype=int)`.

        A frame that is due twice is taken once, because a repeated frame costs context and tells
        the model nothing: a picture that stands for several seconds, a rate above the video's own,
        or more frames asked for than there are. (The released code repeats the last kind.)

        Raises ValueError for a video without frames and, in mode "count", for a frame rate that is
        not positive.
        """
        num_frames = len(frame_pts_F)
        if num_frames < 1:
            raise ValueError(
                f"cannot sample {self} from a video of {num_frames} frames; wanted at least 1"
            )
        if self.mode == "time":
            assert self.fps is not None
            step = 1 / (Fraction(str(self.fps)) * time_base)
            finer = 1000 if time_base > MAX_ROUNDING_S else 1
            return _shown_at_each_step(frame_pts_F * finer, step * finer)
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


def _shown_at_each_step(
    frame_pts_F: npt.NDArray[np.int64], step: Fraction
) -> npt.NDArray[np.int64]:
    """The frames shown at times 0, step, 2 step, ... (in ticks) after the first frame.

    A time between two ticks is rounded up, since containers round the times of frames: at 3 a
    second, the frame due at 333.3 ms may be stored as 334. Exact for any step: Python's integers.
    """
    after_first_F = (frame_pts_F - frame_pts_F[0]).astype(object)
    # Steps that are over before a frame is shown: k with ceil(k * step) < its time.
    steps_before_F = (after_first_F - 1) * step.denominator // step.numerator + 1
    steps_before_F[0] = 0
    # The last frame is taken to last as long as the mean, less what rounding may add to that.
    last = after_first_F[-1]
    last += max(0, last // max(1, len(frame_pts_F) - 1) - 2)
    all_steps = last * step.denominator // step.numerator + 1
    steps_shown_F = np.diff(np.append(steps_before_F, all_steps))
    return np.flatnonzero(steps_shown_F > 0).astype(np.int64)
