"""A record of a source -> the document in it: its text, its domain, and which of it is trained on.

    {"text": ..., "meta": {...}, ...} -> SourceDocument | BadRecord

The settings name the fields. What does not hold a document becomes a BadRecord that says why. What
it does not do: read files (`sources`), or judge a text.
"""

import dataclasses
from typing import Any

from longva_ray.settings.data import TextDataConfig

ONE_DOMAIN = "all"
"""Name of the domain of every document when domains are not told apart."""

_SHOWN_CHARACTERS = 60


@dataclasses.dataclass(frozen=True, slots=True)
class SourceDocument:
    """One text and the domain it counts for."""

    text: str
    domain: str
    labels: tuple[tuple[int, int], ...] | None = None
    """Character spans [start, stop) that are trained on; None is everything."""


@dataclasses.dataclass(frozen=True, slots=True)
class BadRecord:
    """A record, or the rest of a file, that cannot be read."""

    message: str


def document_of(where: str, record: Any, config: TextDataConfig) -> SourceDocument | BadRecord:
    """The document that a record holds; `where` names the record in messages."""
    if not isinstance(record, dict):
        return BadRecord(f"{where}: a record must be an object, got {shown(repr(record))}")
    text = _field(record, config.text_field)
    if not isinstance(text, str):
        return BadRecord(
            f"{where}: no text in field {config.text_field!r}; the record has "
            f"{', '.join(map(str, record))}; --text.text-field names another one"
        )
    if not text.isascii() and not _is_unicode(text):
        return BadRecord(f"{where}: the text holds half of a surrogate pair, which is no character")
    labels = None
    if config.labels_field is not None:
        labels = _spans(_field(record, config.labels_field), len(text))
        if labels is None:
            return BadRecord(
                f"{where}: field {config.labels_field!r} must hold pairs of characters [start, "
                f"stop) within the {len(text)} of the text; --text.labels-field names another one"
            )
    if config.domain_field is None:
        return SourceDocument(text, ONE_DOMAIN, labels)
    domain = _field(record, config.domain_field)
    if not isinstance(domain, str | int) or not _is_unicode(str(domain)):
        return BadRecord(
            f"{where}: no domain in field {config.domain_field!r}; the record has "
            f"{', '.join(map(str, record))}; --text.domain-field names another one, or None for a "
            "single domain"
        )
    return SourceDocument(text, str(domain), labels)


def _spans(value: Any, num_characters: int) -> tuple[tuple[int, int], ...] | None:
    """Pairs of integers that lie within a text, or None."""
    if not isinstance(value, list):
        return None
    for span in value:
        is_pair = isinstance(span, list) and [type(end) for end in span] == [int, int]
        if not is_pair or not 0 <= span[0] <= span[1] <= num_characters:
            return None
    return tuple((start, stop) for start, stop in value)


def _field(record: dict[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    nested = record.get(outer)
    return _field(nested, inner) if inner and isinstance(nested, dict) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(line: bytes | str) -> str:
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
