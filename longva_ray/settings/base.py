"""What all settings share: number formats, how their options are named, building from plain
dictionaries, saving."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

Dtype = Literal["float32", "bfloat16", "float16"]


ConfigT = TypeVar("ConfigT")


class Settings:
    """Settings of a stage. What is wrong with them is told by the names that are typed."""

    __slots__ = ()

    stage: ClassVar[str]
    """What a recipe calls these settings."""

    @property
    def group(self) -> str:
        """What the options of these settings begin with."""
        return self.stage

    def option(self, name: str) -> str:
        """How a field is typed on a command line."""
        return f"--{self.group}.{name.replace('_', '-')}"

    def check_at_least(self, least: float, *names: str) -> None:
        """Raises ValueError for a field below that; None may stand for an optional one."""
        self._check(names, lambda value: value >= least, f"at least {least}")

    def check_above(self, bound: float, *names: str) -> None:
        """Raises ValueError for a field that is not above that; None as in `check_at_least`."""
        self._check(names, lambda value: value > bound, f"above {bound}")

    def _check(self, names: Sequence[str], is_right: Callable[[Any], bool], wanted: str) -> None:
        types = {field.name: str(field.type) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        for name in names:
            value = getattr(self, name)
            if value is None or is_right(value):
                continue
            or_none = " or None" if "None" in types[name] else ""
            raise ValueError(f"{self.option(name)} must be {wanted}{or_none}, got {value}")


def from_dict(config_class: type[ConfigT], values: dict[str, Any]) -> ConfigT:
    """Build a config from a plain dictionary, nested ones included.

    Raises ValueError for a key that the config does not have, naming the valid ones.
    """
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ValueError(
            f"unknown option(s) {unknown} for {config_class.__name__}; valid: {sorted(fields)}"
        )
    nested = {
        name: from_dict(fields[name].type, value)  # type: ignore[arg-type]
        if dataclasses.is_dataclass(fields[name].type) and isinstance(value, dict)
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in values.items()
    }
    return config_class(**nested)


def save_config(config: Any, path: str | Path) -> None:
    """Write the resolved config as JSON beside the output that it produced."""
    Path(path).write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
