"""Questions about videos and their answers -> one HTML file that needs nothing beside it.

    frames with their times, questions, answers -> a page, as Figure 6 of the paper shows them

Frames are small JPEG pictures inside the page. Below each answer stand the frames that it paid most
attention to (`answer.attention_mass`), and a curve over all frames.

Shapes: F frames that are shown, R frames that were read, Y and X pixels, C colour channels.
"""

import base64
import dataclasses
import html
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; }
section { border-top: 1px solid #ccc; padding: 1rem 0; }
h2 { font-size: 1.1rem; margin: 0; }
p.note { color: #666; font-size: .85rem; margin: .2rem 0 .8rem; }
div.frames { display: flex; flex-wrap: wrap; gap: .4rem; }
figure { margin: 0; }
figure img { display: block; width: 110px; height: 110px; border-radius: 3px; background: #000; }
figcaption { font-size: .75rem; color: #666; text-align: center; }
dt { font-weight: 600; margin-top: .8rem; }
dd { margin: 0; }
p.answer { margin: 0 0 .4rem; white-space: pre-wrap; }
svg { width: 100%; height: 3rem; background: #f4f4f4; border-radius: 3px; }
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShownFrame:
    """A picture and when it was shown."""

    frame_YXC: npt.NDArray[np.uint8]
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShownAnswer:
    """A question, its answer, and what that looked at."""

    question: str
    answer: str
    attention_R: Sequence[float] = ()
    """Share of its attention to the video, for each frame that was read; empty if not known."""
    looked_at: Sequence[ShownFrame] = ()
    """Frames with the largest shares, in the order of the video."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShownVideo:
    """A video, some of its frames, and what was asked about it."""

    name: str
    frames: Sequence[ShownFrame]
    num_read: int
    """Frames that the model read."""
    num_frames: int
    """Frames that are encoded."""
    answers: Sequence[ShownAnswer]


def write_page(title: str, note: str, videos: Sequence[ShownVideo]) -> str:
    """The page as text."""
    body = "\n".join(map(_section, videos))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="note">{html.escape(note)}</p>\n{body}\n</body></html>\n'
    )


def _section(video: ShownVideo) -> str:
    asked = "".join(map(_answer, video.answers))
    read = f"{video.num_read} of {video.num_frames} frames were read; {len(video.frames)} are shown"
    return (
        f'<section><h2>{html.escape(video.name)}</h2><p class="note">{read}</p>\n'
        f"{_figures(video.frames)}\n<dl>{asked}</dl></section>"
    )


def _figures(frames: Sequence[ShownFrame]) -> str:
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{_jpeg(frame.frame_YXC)}">'
        f"<figcaption>{_clock(frame.seconds)}</figcaption></figure>"
        for frame in frames
    )
    return f'<div class="frames">{figures}</div>'


def _answer(shown: ShownAnswer) -> str:
    looked_at = ""
    if shown.looked_at:
        looked_at = (
            f'<p class="note">frames that the answer paid most attention to</p>'
            f"{_figures(shown.looked_at)}{_curve(shown.attention_R)}"
        )
    return (
        f"<dt>{html.escape(shown.question)}</dt>"
        f'<dd><p class="answer">{html.escape(shown.answer)}</p>{looked_at}</dd>'
    )


def _curve(attention_R: Sequence[float]) -> str:
    """A bar for each frame that was read, the highest as high as the picture."""
    highest = max(attention_R)
    bars = "".join(
        f'<rect x="{number}" y="{1 - share / highest:.3f}" width="1" height="1"/>'
        for number, share in enumerate(attention_R)
    )
    return (
        '<svg role="img" aria-label="attention over all frames that were read" '
        f'preserveAspectRatio="none" viewBox="0 0 {len(attention_R)} 1">{bars}</svg>'
    )


def _jpeg(frame_YXC: npt.NDArray[np.uint8]) -> str:
    sink = io.BytesIO()
    Image.fromarray(frame_YXC).save(sink, format="JPEG", quality=85)
    return base64.b64encode(sink.getvalue()).decode()


def _clock(seconds: float) -> str:
    """Hours only where there are any: 1:02:03, 4:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
