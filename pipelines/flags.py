"""A flag for each setting, with its help and default from components/config.py."""

import argparse
import dataclasses
from collections import Counter
from typing import Any

from components.config import Settings, load

_SHARED = "seed"


def add_flags(parser: argparse.ArgumentParser, *sections: str) -> None:
    """A flag for each setting of `sections`, or of SECTION.NAME the one.

    A name that several of them have is preceded by the section (--drift-level), but for `seed`, which sets them all.
    """
    group = parser.add_argument_group("settings", "each overrides --config, which overrides the default")
    group.add_argument("--config", metavar="YAML", help="settings file: section -> setting -> value")
    wanted = [
        (section, f)
        for section, _, only in (name.partition(".") for name in sections)
        for f in dataclasses.fields(getattr(Settings, section))
        if only in ("", f.name)
    ]
    times = Counter(f.name for _, f in wanted)
    seed: argparse.Action | None = None
    for section, f in wanted:
        if f.name == _SHARED and seed:
            seed.dest += f",{section}.{f.name}"
            continue
        name = f.name if times[f.name] == 1 or f.name == _SHARED else f"{section}_{f.name}"
        shown = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
        default = f" (default: {shown})" if shown != "" else ""
        added = group.add_argument(
            "--" + name.replace("_", "-"),
            dest=f"{section}.{f.name}",
            metavar=f.name.split("_")[-1].upper(),
            help=(f.metadata["help"] + default).replace("%", "%%"),
        )
        seed = added if f.name == _SHARED else seed


def from_flags(arguments: argparse.Namespace) -> Settings:
    """The settings that `add_flags` put into the parsed arguments."""
    overrides: dict[str, dict[str, Any]] = {}
    for destination, value in vars(arguments).items():
        if "." in destination and value is not None:
            for target in destination.split(","):
                section, name = target.split(".")
                overrides.setdefault(section, {})[name] = value
    return load(getattr(arguments, "config", None), overrides)
