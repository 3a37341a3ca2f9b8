"""A record of a preference file -> a question about a video or an image, and two answers to it.

    {"id": "v_12-3", "video": "v_12.mp4", "prompt": "What falls?", "chosen": "Snow.",
     "rejected": "Rain."}

The form is that of LLaVA-Hound's DPO data, whose `video` is a folder of frames; `image` in its
place names an image. Files are read as those of images are (`data.images.chat`), and a pair is
checked as two conversations of one question. `<video>` or `<image>` may stand in the prompt. Other
fields, such as LLaVA-Hound's `answer`, are not used. What it does not do: open the video.
"""

import dataclasses
from typing import Any

from longva_ray.data.images.chat import Item, RawSample, SampleError, parse_sample
from longva_ray.lm.prompt import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """One question and two answers, of which one is preferred."""

    pair_id: str
    item: Item
    """What the question is about."""
    chosen: tuple[Message, ...]
    """The conversation with the better answer, as the chat template takes it."""
    rejected: tuple[Message, ...]
    """The same with the worse one."""


def parse_pair(raw: RawSample) -> PreferencePair:
    """Raises SampleError for what is no pair of answers to one question about one item."""
    content = raw.content
    if not isinstance(content, dict):
        raise SampleError(f"want an object, got {type(content).__name__}")
    prompt, chosen, rejected = (_text(content, name) for name in ("prompt", "chosen", "rejected"))
    if chosen == rejected:
        raise SampleError("both answers are the same, so that nothing is preferred")
    kinds = [kind for kind in ("video", "image") if content.get(kind) is not None]
    if len(kinds) != 1:
        raise SampleError(f"want one video or one image, got {' and '.join(kinds) or 'neither'}")
    (kind,) = kinds
    if not any(placeholder in prompt for placeholder in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER)):
        prompt = f"<{kind}>\n{prompt}"
    better, worse = (
        parse_sample(
            dataclasses.replace(
                raw,
                content={
                    kind: content[kind],
                    "conversations": [
                        {"from": "human", "value": prompt},
                        {"from": "gpt", "value": answer},
                    ],
                },
            )
        )
        for answer in (chosen, rejected)
    )
    if len(better.items) != 1:
        raise SampleError(f"want one {kind}, got {len(better.items)}")
    return PreferencePair(
        pair_id=raw.sample_id,
        item=better.items[0],
        chosen=better.messages,
        rejected=worse.messages,
    )


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SampleError(f"{name!r} is {value!r}, want a text")
    return value.strip()
