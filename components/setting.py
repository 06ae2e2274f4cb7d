"""One setting: the field that declares it, and how what a file or a flag says becomes its value."""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import SettingsError


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field whose help and range travel with it."""
    metadata = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def read_yaml(path: str | Path | None) -> Any:
    """What the file holds, {} without a path or for an empty file. Raises SettingsError."""
    if path is None:
        return {}
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def check_shape(where: str, layer: Any, sections: Sequence[str]) -> None:
    """Raises SettingsError unless `layer` is section -> setting -> value."""
    if not isinstance(layer, dict):
        raise SettingsError(f"{where}: expected sections ({', '.join(sections)}), found {type(layer).__name__}")
    for section, values in layer.items():
        if section not in sections:
            raise SettingsError(f"{where}: no section {section!r}; there are {', '.join(sections)}")
        if not isinstance(values, dict):
            raise SettingsError(f"{where}: section {section!r} must hold settings, found {type(values).__name__}")


def section_of(cls: Any, name: str, values: dict[str, Any]) -> Any:
    """The dataclass `cls` of the section `name` with these values. Raises SettingsError naming the setting."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise SettingsError(f"no setting {name}.{key}; there are {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(f"{name}.{key}", hints[key], fields[key], value) for key, value in values.items()})


def _convert(name: str, hint: Any, f: dataclasses.Field, value: Any) -> Any:
    """`value` (a string from a flag, or what YAML or JSON gave) as the setting's type, within its range."""
    several = isinstance(hint, types.GenericAlias)
    item = typing.get_args(hint)[0] if several else hint
    names = {int: "whole numbers", str: "names"} if several else {int: "a whole number", float: "a number", str: "text"}
    wanted = f"a list of {names[item]}" if several else names[item]
    try:
        if several:
            parts = list(value) if not isinstance(value, str) else value.split(",") if value else []
            converted: Any = tuple(item(str(part).strip()) for part in parts)
        elif hint is int:
            converted = int(value)
            if isinstance(value, bool) or float(value) != converted:
                raise ValueError(value)
        elif hint is float:
            converted = float(value)
            if isinstance(value, bool) or not math.isfinite(converted):
                raise ValueError(value)
        else:
            converted = str(value)
    except (TypeError, ValueError, OverflowError) as error:  # the last for infinity as a whole number
        raise SettingsError(f"{name} must be {wanted}, not {value!r}") from error
    low, high, choices = (f.metadata[key] for key in ("minimum", "maximum", "choices"))
    each = converted if several else (converted,)
    if any((low is not None and one < low) or (high is not None and one > high) for one in each):
        bounds = f"from {low} to {high}" if high is not None else f"at least {low}"
        raise SettingsError(f"{name} must be {bounds}, not {value}")
    if choices and converted not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return converted
