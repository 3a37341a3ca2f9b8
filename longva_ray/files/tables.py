"""Tables that others made: files whose columns and fields are asked for by name."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pyarrow as pa

Pairs = list[tuple[str, Any]]
"""Names and values of an object, in the order of the text."""


def named_twice(schema: pa.Schema, wanted: Iterable[str]) -> str | None:
    """What is wrong if a column that is wanted, or a field inside it, shares its name with another;
    None, nothing is."""
    for name in sorted(set(wanted)):
        found = [field for field in schema if field.name == name]
        twice = name if len(found) > 1 else _field_twice(found)
        if twice:
            return told(twice)
    return None


def told(name: str) -> str:
    """What is said of a name that stands twice."""
    return (
        f"two columns or fields are named {name!r}, so which is meant is unknown; want names that "
        "differ, so rename or drop the others"
    )


def each_once(wanted: Collection[str] | None = None) -> Callable[[Pairs], dict[str, Any]]:
    """A hook for `json.loads` that makes an object of its pairs, and raises ValueError for a name
    that stands twice, where `json.loads` alone takes the last one.

    Args:
        wanted: names that matter; None, all.
    """

    def make(pairs: Pairs) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs if wanted is None or name in wanted]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(told(name))
        return found

    return make


def _field_twice(fields: Iterable[pa.Field]) -> str | None:
    """The name of two fields of one record, however deep."""
    for field in fields:
        inside = [field.type.field(place) for place in range(field.type.num_fields)]
        names = [each.name for each in inside]
        for name in names:
            if names.count(name) > 1:
                return f"{field.name}.{name}"
        deeper = _field_twice(inside)
        if deeper:
            return f"{field.name}.{deeper}"
    return None
