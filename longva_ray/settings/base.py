"""What all settings share: number formats, building from plain dictionaries, saving."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

Dtype = Literal["float32", "bfloat16", "float16"]


ConfigT = TypeVar("ConfigT")


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
