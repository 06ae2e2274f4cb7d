"""docs/configuration.md: every setting with its default, range and help, from components/config.py (`make docs`)."""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components import config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
_HEAD = """# Configuration

Made from `components/config.py` by `make docs`.

Precedence, lowest first: the defaults below, a YAML file, flags. The file is given with `--config`; it holds sections,
each with settings:

```yaml
promotion:
  margin: 0.01
data:
  labels: [Bad, Good]
```

As a flag the setting `promotion.margin` is `--margin`, of every command that uses it; `--help` lists them. Where
a command uses two sections that have a setting of one name, the section goes before it (`--drift-level`), but for
`--seed`, which sets all seeds. The
pipeline's parameter `settings` is the same mapping as JSON. A setting or section that does not exist, or a value out of
range, is refused with a line that says so.

Endpoints, credentials and the images' names are no settings: they come from the environment (below).
"""
_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": "the S3 service; empty: Amazon's. AWS_ENDPOINT_URL_S3, if set, goes before it",
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY": "its credentials; without them boto3 looks where it always does",
    "AWS_DEFAULT_REGION": "its region",
    "MLFLOW_TRACKING_URI": "the MLflow server",
    "KFP_ENDPOINT or KF_PIPELINES_ENDPOINT": "the KFP API server",
    "KFP_TOKEN": "its bearer token, from outside the cluster; inside, the pod's projected token is used",
    "KF_PIPELINES_SA_TOKEN_PATH": "where that token is, if not where Kubeflow's manifests put it",
    "KUBECONFIG": "how the Kubernetes API is reached from outside the cluster",
    "EVERBERT_IMAGE_LIGHT, ..._TORCH, ..._SERVING, ..._SERVICES": "images to build, and of a compiled pipeline's steps",
    "HF_HUB_OFFLINE": "1: a base model is never downloaded",
    "GLIBC_TUNABLES or MALLOC_*_": "malloc's own settings; where they are set, the engine leaves malloc alone",
}  # fmt: skip


def page() -> str:
    """The whole page."""
    sections = [_section(f.name, getattr(config.Settings, f.name)) for f in dataclasses.fields(config.Settings)]
    environment = _table(("variable", "what"), [(f"`{name}`", what) for name, what in _ENVIRONMENT.items()])
    return "\n".join([_HEAD, *sections, f"## Environment\n\n{environment}"])


def _section(name: str, section: Any) -> str:
    hints = typing.get_type_hints(type(section))
    rows = [
        (f"`{f.name}`", _shown(f.default), _range(hints[f.name], f.metadata), f.metadata["help"])
        for f in dataclasses.fields(section)
    ]
    documented = (type(section).__doc__ or "").split("\n")[0]
    return f"## {name}\n\n{documented}\n\n{_table(('setting', 'default', 'may be', 'what'), rows)}"


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`" if default != "" else "empty"


def _range(hint: Any, metadata: Any) -> str:
    low, high, choices = metadata["minimum"], metadata["maximum"], metadata["choices"]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if low is not None or high is not None:
        return f"{low} to {high}" if high is not None else f"{low} or more"
    return {str: "text", bool: "yes or no"}.get(hint, "a list" if typing.get_origin(hint) else "a number")


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
