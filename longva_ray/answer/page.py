"""Questions about videos and their answers -> one HTML file that needs nothing beside it.

    frames with their times, questions, answers -> a page, as Figure 6 of the paper shows them

Frames are small JPEG pictures inside the page. What it does not do: say which frames an answer came
from. Attention runs over all frames in kernels that keep no weights.

Shapes: F frames that are shown, Y and X pixels, C colour channels.
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
dd { margin: 0; white-space: pre-wrap; }
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShownVideo:
    """A video, some of its frames, and what was asked about it."""

    name: str
    frames_FYXC: npt.NDArray[np.uint8]
    seconds_F: Sequence[float]
    num_read: int
    """Frames that the model read."""
    num_frames: int
    """Frames that are encoded."""
    answers: Sequence[tuple[str, str]]
    """Each question and its answer."""


def write_page(title: str, note: str, videos: Sequence[ShownVideo]) -> str:
    """The page as text."""
    body = "\n".join(map(_section, videos))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="note">{html.escape(note)}</p>\n{body}\n</body></html>\n'
    )


def _section(video: ShownVideo) -> str:
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{_jpeg(frame_YXC)}">'
        f"<figcaption>{_clock(seconds)}</figcaption></figure>"
        for frame_YXC, seconds in zip(video.frames_FYXC, video.seconds_F, strict=True)
    )
    asked = "".join(
        f"<dt>{html.escape(question)}</dt><dd>{html.escape(answer)}</dd>"
        for question, answer in video.answers
    )
    read = (
        f"{video.num_read} of {video.num_frames} frames were read; {len(video.seconds_F)} are shown"
    )
    return (
        f'<section><h2>{html.escape(video.name)}</h2><p class="note">{read}</p>\n'
        f'<div class="frames">{figures}</div>\n<dl>{asked}</dl></section>'
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
