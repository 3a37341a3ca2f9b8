"""A file of questions about videos and images -> checked records.

    {"id": "7-1", "video": "7.mp4", "question": "What falls?", "options": ["Rain", "Snow"],
     "answer": "B", "duration": "short"}

JSON Lines: one object a line. `options` makes it a multiple choice, whose `answer` is a letter or
an index from 0; without them the `answer` is a text. `video` is a path, a URI, or the id of a video
that is encoded already; in its place, `image` is a path or a URI. A relative path begins at the
file's own folder. Every other field is kept, for tables.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from string import ascii_uppercase as LETTERS
from typing import Any, Literal

from longva_ray.data.images.chat import Item
from longva_ray.files.places import absolute, child, expanded, is_uri, parent, read_file
from longva_ray.files.tables import each_once
from longva_ray.shards.schema import is_video_id

_OWN = ("id", "video", "image", "question", "options", "answer")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question and its right answer."""

    id: str
    item: Item
    """What is asked about: an absolute path, a URI, or the id of a video in the store."""
    question: str
    options: tuple[str, ...]
    """Empty for an open question."""
    answer: str
    """Letter of the right option, or the text that answers an open question."""
    fields: Mapping[str, Any]
    """Everything else that the file says of it."""

    @property
    def is_encoded(self) -> bool:
        """Whether the video is named by its id in the store."""
        return self.item.kind == "video" and is_video_id(self.item.place)


def read_questions(place: str) -> list[QuestionRecord]:
    """The questions of a file, in its order.

    Raises ValueError, with the line, for what is no question or has the id of another one.
    """
    place = absolute(place)
    folder = parent(place)
    lines: dict[str, int] = {}
    records = []
    # Not splitlines: a JSON text may hold other ends of lines.
    for number, line in enumerate(read_file(place).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = _record(json.loads(line, object_pairs_hook=each_once()), folder)
            if record.id in lines:
                raise ValueError(f"id {record.id!r} is that of line {lines[record.id]}, too")
        except ValueError as error:
            raise ValueError(f"{place}, line {number}: {error}") from error
        lines[record.id] = number
        records.append(record)
    if not records:
        raise ValueError(f"{place} is empty; want a question on each line")
    return records


def check_fields(records: Sequence[QuestionRecord], names: Sequence[str]) -> None:
    """Raises ValueError for a field that no question has."""
    known = sorted({name for record in records for name in record.fields})
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no question has the field(s) {', '.join(unknown)}; there are: "
            f"{', '.join(known) or 'none'}"
        )


def _record(row: Any, folder: str) -> QuestionRecord:
    if not isinstance(row, dict):
        raise ValueError(f"want an object, got {type(row).__name__}")
    number = row.get("id")
    is_number = isinstance(number, int) and not isinstance(number, bool)
    options = _options(row.get("options"))
    return QuestionRecord(
        id=str(number) if is_number else _text(row, "id"),
        item=_item(row, folder),
        question=_text(row, "question"),
        options=options,
        answer=_letter(row.get("answer"), len(options)) if options else _text(row, "answer"),
        fields={name: value for name, value in row.items() if name not in _OWN},
    )


def _item(row: Mapping[str, Any], folder: str) -> Item:
    if row.get("image") is not None and row.get("video") is not None:
        raise ValueError("it names a video and an image; want one of them")
    kind: Literal["image", "video"] = "image" if row.get("image") is not None else "video"
    place = _text(row, kind)
    if kind == "video" and is_video_id(place):
        return Item(kind=kind, place=place)
    stands_alone = is_uri(place) or expanded(place).is_absolute()
    return Item(kind=kind, place=absolute(place if stands_alone else child(folder, place)))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r}; want a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not Unicode: {error}") from error
    return value


def _options(value: Any) -> tuple[str, ...]:
    """Options without the letters that some datasets put before them; none for an open question."""
    if value is None:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise ValueError(
            f"options are {value!r}; want a list of 2 to {len(LETTERS)} texts, or leave them out "
            "for an open question"
        )
    options = tuple(_text({"an option": option}, "an option") for option in value)
    if all(text.startswith(f"{letter}. ") for text, letter in zip(options, LETTERS, strict=False)):
        return tuple(option[3:] for option in options)
    return options


def _letter(answer: Any, num_options: int) -> str:
    place = -1
    if isinstance(answer, int) and not isinstance(answer, bool):
        place = answer
    elif isinstance(answer, str) and len(letter := answer.strip(" ().").upper()) == 1:
        place = LETTERS.find(letter)
    if not 0 <= place < num_options:
        raise ValueError(
            f"answer is {answer!r}; want the right option's letter, A to "
            f"{LETTERS[num_options - 1]}, or its index, 0 to {num_options - 1}"
        )
    return LETTERS[place]
