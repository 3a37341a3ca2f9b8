"""Conversations about images in LLaVA's form: files and mixtures of files -> well-formed samples.

    [{"id", "image": "a.jpg" | [...], "video": ..., "conversations": [{"from", "value"}, ...]}, ...]

A file is a JSON list or JSON lines; a mixture is YAML that names files and says how much of each is
taken. Reading (`read_samples`) keeps what is in the files; `parse_sample` then says what a sample
is, or why it cannot be used. No sample is ever put in another's place.

It differs from the released code where that differs from what the model is asked later: one newline
between `<image>` and a question, where training there wrote two. As there, `<image>` may stand for
a video. What it does not do: open images, or decide where items stand in a prompt; the chat
template moves the only one of a turn to its front, here as in every other prompt (`lm.prompt`).
"""

import collections
import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import yaml

from longva_ray.files.places import is_uri, read_file
from longva_ray.lm.prompt import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER, Message

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}

_PLACEHOLDERS = re.compile(f"({IMAGE_PLACEHOLDER}|{VIDEO_PLACEHOLDER})")

_NO_UNICODE = "half of a surrogate pair, which is no character"

_STRATEGY = re.compile(r"(?:(first|end|random):)?(\d+(?:\.\d+)?)(%?)")


class SampleError(ValueError):
    """A sample that cannot be trained on; the text is the reason."""


def reason_of(error: Exception) -> str:
    """What an error says, with its type where the message alone may say little."""
    says_enough = isinstance(error, OSError | ValueError) and str(error)
    return printable(str(error) if says_enough else f"{type(error).__name__}: {error}")


def printable(text: str) -> str:
    """A text with what is not Unicode (halves of surrogate pairs) written as escapes."""
    return text.encode(errors="backslashreplace").decode()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RawSample:
    """A sample as its file has it."""

    sample_id: str
    folder: str
    """What paths of images are relative to: a folder or URI."""
    content: Any

    @property
    def text(self) -> str:
        """All of it, for digests."""
        return json.dumps([self.sample_id, self.folder, self.content])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An image or a video of a sample."""

    kind: Literal["image", "video"]
    place: str
    """Path or URI."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatSample:
    """A conversation that begins with a question, ends with an answer, and shows its items."""

    sample_id: str
    items: tuple[Item, ...]
    """In the order of their placeholders."""
    messages: tuple[Message, ...]
    """As the chat template takes them (`lm.prompt`)."""


def read_samples(places: Sequence[str], *, image_folder: str | None, seed: int) -> list[RawSample]:
    """Samples of JSON, JSON-lines and YAML files, in order; `random` in a mixture uses the seed.

    Args:
        places: paths or URIs. A mixture is `datasets: [{json_path, sampling_strategy}, ...]`, where
            the strategy is all (the default), first:N, end:N, random:N or N alone for first:N, and
            N a number or a percentage; paths are relative to the mixture's folder.
        image_folder: what image paths are relative to; None, the folder of each JSON file.

    Raises ValueError for a file that cannot be read, or without samples.
    """
    samples: list[RawSample] = []
    for number, (place, strategy) in enumerate(_expand(places)):
        found = list(_read_file(place, image_folder))
        rng = np.random.default_rng([seed, number])
        samples += [found[index] for index in _choose(strategy, len(found), rng, place)]
    if not samples:
        raise ValueError(f"no samples in {', '.join(places)}")
    return samples


def shown(raw: RawSample) -> str:
    """What a sample shows, as text: its images and videos, or all that it says where there is
    neither. Samples about one image have the same, wherever its folder lies."""
    content = raw.content
    items = [content.get(kind) for kind in ("image", "video")] if isinstance(content, dict) else []
    return json.dumps(items if any(items) else content)


def parse_sample(raw: RawSample) -> ChatSample:
    """The conversation of a sample.

    Raises SampleError for roles, order, placeholders or values that make no conversation.
    """
    content = raw.content
    if printable(raw.sample_id) != raw.sample_id:
        raise SampleError(f"its id holds {_NO_UNICODE}")
    if not isinstance(content, dict):
        raise SampleError(f"want an object, got {type(content).__name__}")
    turns = content.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise SampleError("want 'conversations' with at least one question and answer")
    images, videos = (
        collections.deque(
            Item(kind=kind, place=_join(raw.folder, path)) for path in _paths(content, kind)
        )
        for kind in ("image", "video")
    )
    queues = {IMAGE_PLACEHOLDER: images or videos, VIDEO_PLACEHOLDER: videos}
    items: list[Item] = []
    messages = [_message(number, turn, queues, items) for number, turn in enumerate(turns)]
    if images or videos:
        raise SampleError(
            f"{len(images) + len(videos)} of its images and videos have no placeholder in a "
            "question"
        )
    _check_order([message["role"] for message in messages])
    return ChatSample(sample_id=raw.sample_id, items=tuple(items), messages=tuple(messages))


def _message(
    number: int,
    turn: Any,
    queues: dict[str, collections.deque[Item]],
    items: list[Item],
) -> Message:
    """One turn; takes the items of its placeholders out of the queues."""
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise SampleError(f"turn {number} has no text under 'value'")
    role = ROLES.get(str(turn.get("from")))
    if role is None:
        raise SampleError(f"turn {number} is from {turn.get('from')!r}, want one of {list(ROLES)}")
    text = turn["value"].strip()
    if printable(text) != text:
        raise SampleError(f"turn {number} holds {_NO_UNICODE}: {text[:60]!r}")
    if not text:
        raise SampleError(f"turn {number} is empty")
    if role != "user":
        return {"role": role, "content": text}
    parts: list[dict[str, str]] = []
    for piece in _split_placeholders(text):
        if piece not in queues:
            parts.append({"type": "text", "text": piece})
            continue
        if not queues[piece]:
            raise SampleError(f"turn {number} has more placeholders than there are items")
        item = queues[piece].popleft()
        items.append(item)
        parts.append({"type": item.kind})
    return {"role": role, "content": parts}


def _split_placeholders(text: str) -> list[str]:
    """Text and placeholders in order. The template writes the newline after a placeholder, and puts
    the only one of a turn first, so blanks around that one say nothing."""
    pieces = _PLACEHOLDERS.split(text)
    if len(pieces) == 3:
        before, placeholder, after = pieces
        pieces = [before.rstrip(), placeholder, after.lstrip()]
    else:
        pieces = [pieces[0], *(piece.removeprefix("\n") for piece in pieces[1:])]
    return [piece for piece in pieces if piece]


def _check_order(roles: list[str]) -> None:
    wanted = ["user", "assistant"] * (len(roles) // 2)
    if (roles[1:] if roles[0] == "system" else roles) != wanted:
        raise SampleError(
            f"the turns are {', '.join(roles)}; want questions and answers in turn, an answer last"
        )


def _paths(content: dict[str, Any], kind: str) -> list[str]:
    value = content.get(kind)
    paths = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise SampleError(f"{kind!r} is {value!r}, want a path or a list of paths")
    return paths


# Files --------------------------------------------------------------------------------------------


def _expand(places: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every JSON file with its sampling strategy."""
    for place in places:
        if not place.endswith((".yaml", ".yml")):
            yield place, "all"
            continue
        try:
            mixture = yaml.safe_load(_read_text(place))
        except yaml.YAMLError as error:
            raise ValueError(f"{place} is no YAML: {error}") from error
        datasets = mixture.get("datasets") if isinstance(mixture, dict) else None
        if not isinstance(datasets, list) or not datasets:
            raise ValueError(f"{place} names no 'datasets': want a list of json_path entries")
        for entry in datasets:
            keys = set(entry) if isinstance(entry, dict) else set()
            if "json_path" not in keys or keys - {"json_path", "sampling_strategy"}:
                raise ValueError(
                    f"{place}: want datasets with json_path and sampling_strategy, got {entry}"
                )
            path = _join(_folder(place), str(entry["json_path"]))
            yield path, str(entry.get("sampling_strategy", "all"))


def _read_file(place: str, image_folder: str | None) -> Iterator[RawSample]:
    text = _read_text(place)
    try:
        if place.endswith(".jsonl"):
            entries = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is no JSON: {error}; JSON lines end in .jsonl") from error
    if not isinstance(entries, list):
        raise ValueError(f"{place} holds a {type(entries).__name__}, want a list of samples")
    name = PurePosixPath(place).name
    for number, entry in enumerate(entries):
        own = entry.get("id") if isinstance(entry, dict) else None
        yield RawSample(
            sample_id=f"{name}#{number}" if own is None else str(own),
            folder=image_folder if image_folder is not None else _folder(place),
            content=entry,
        )


def _choose(strategy: str, count: int, rng: np.random.Generator, place: str) -> list[int]:
    """Indices of the samples that a strategy takes of a file, in order."""
    if strategy == "all":
        return list(range(count))
    found = _STRATEGY.fullmatch(strategy)
    if found is None:
        raise ValueError(
            f"{place}: sampling_strategy is {strategy!r}, want all, first:N, end:N or random:N, "
            "where N is a number or a percentage like 10%"
        )
    end, amount = found[1], float(found[2])
    taken = min(count, int(np.ceil(count * amount / 100)) if found[3] else int(amount))
    if end == "random":
        return sorted(rng.choice(count, taken, replace=False).tolist())
    return list(range(count - taken, count) if end == "end" else range(taken))


def _read_text(place: str) -> str:
    try:
        return read_file(place).decode()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {place}: {error}") from error


def _folder(place: str) -> str:
    return place.rpartition("/")[0] if "/" in place else "."


def _join(folder: str, path: str) -> str:
    return path if is_uri(path) or path.startswith("/") else f"{folder}/{path}"
