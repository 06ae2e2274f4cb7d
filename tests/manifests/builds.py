"""Every overlay, alone and with every combination of components that may be added to it, built by kustomize."""

import functools
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = ("local", "dev", "prod")
ADDED = ("gpu", "monitoring", "multi-node")  # any of them
SERVED = (  # one of these ways to bring versions into service
    (),
    ("pinned-model",),
    ("pinned-model", "canary/standard"),
    ("knative",),
    ("knative", "pinned-model"),
    ("knative", "pinned-model", "canary/knative"),
)
Document = dict[str, Any]


def every_combination() -> Iterator[tuple[str, ...]]:
    """(overlay, component, ...)"""
    some = [chosen for size in range(len(ADDED) + 1) for chosen in itertools.combinations(ADDED, size)]
    for overlay, added, served in itertools.product(OVERLAYS, some, SERVED):
        yield (overlay, *added, *served)


def combinations() -> Iterator[tuple[str, ...]]:
    """So many of them that each two parts meet, but for two of `ADDED` without the third."""
    for overlay, served in itertools.product(OVERLAYS, SERVED):
        yield (overlay, *served)
    for overlay in OVERLAYS[:2]:
        yield (overlay, *ADDED)
    for served in SERVED:
        yield (OVERLAYS[-1], *ADDED, *served)
    for added in ADDED:
        yield (OVERLAYS[-1], added)


class Builder:
    """A copy of manifests/, with the local overlay's credentials drawn as its README says."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "manifests"
        shutil.copytree(MANIFESTS, self._root, ignore=shutil.ignore_patterns("credentials.env"))
        subprocess.run([self._root / "overlays/local/generate-credentials"], check=True, capture_output=True)

    @functools.cache  # noqa: B019  one builder lives as long as the tests
    def build(self, overlay: str, *components: str) -> list[Document]:
        """What `kubectl apply` would be given. Treat it as constant: it is built once."""
        folder = self._root / "overlays" / "-".join([overlay, *components]).replace("/", "-")
        if components:
            folder.mkdir()
            combined = {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "namespace": yaml.safe_load((folder.parent / overlay / "kustomization.yaml").read_text())["namespace"],
                "resources": [f"../{overlay}"],
                "components": [f"../../components/{name}" for name in components],
            }
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(combined), encoding="utf-8")
        return self.run(folder)

    def build_shown(self, kustomization: str) -> list[Document]:
        """A kustomization that a document shows, as an overlay beside the others."""
        folder = self._root / "overlays/ours"
        folder.mkdir(exist_ok=True)
        (folder / "kustomization.yaml").write_text(kustomization, encoding="utf-8")
        return self.run(folder)

    def run(self, folder: Path) -> list[Document]:
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return list(yaml.load_all(done.stdout, yaml.CSafeLoader))


def named(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found
