"""A flag for each setting, with its help and default from components/config.py."""

import argparse
import dataclasses
from typing import Any

from components.config import Settings, load


def add_flags(parser: argparse.ArgumentParser, *sections: str) -> None:
    """A flag for each setting of `sections`. The same setting in two sections (seed) is one flag that sets both."""
    group = parser.add_argument_group("settings", "each overrides --config, which overrides the default")
    group.add_argument("--config", metavar="YAML", help="settings file: section -> setting -> value")
    added: dict[str, argparse.Action] = {}
    for section in sections:
        for f in dataclasses.fields(getattr(Settings, section)):
            if f.name in added:
                added[f.name].dest += f",{section}.{f.name}"
                continue
            shown = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
            default = f" (default: {shown})" if shown != "" else ""
            added[f.name] = group.add_argument(
                "--" + f.name.replace("_", "-"),
                dest=f"{section}.{f.name}",
                metavar=f.name.split("_")[-1].upper(),
                help=(f.metadata["help"] + default).replace("%", "%%"),
            )


def from_flags(arguments: argparse.Namespace) -> Settings:
    """The settings that `add_flags` put into the parsed arguments."""
    overrides: dict[str, dict[str, Any]] = {}
    for destination, value in vars(arguments).items():
        if "." in destination and value is not None:
            for target in destination.split(","):
                section, name = target.split(".")
                overrides.setdefault(section, {})[name] = value
    return load(getattr(arguments, "config", None), overrides)
