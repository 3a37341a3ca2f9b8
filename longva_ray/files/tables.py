"""Tables that others made: Parquet and Arrow files whose columns are asked for by name."""

from collections.abc import Iterable, Sequence


def named_twice(have: Sequence[str], wanted: Iterable[str]) -> str | None:
    """What is wrong if a column that is wanted shares its name with another; None, nothing is."""
    for name in sorted(set(wanted)):
        if have.count(name) > 1:
            return (
                f"{have.count(name)} columns are named {name!r}, so which is meant is unknown; "
                "want names that differ, so rename or drop the others"
            )
    return None
