"""The builds that the tests of this folder look at."""

import re
import shutil
import subprocess

import pytest
from builds import Builder, Document, combinations

KUSTOMIZE = 5


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if not shutil.which("kubectl"):
        pytest.skip("kustomize comes with kubectl, which is not installed")
    said = subprocess.run(["kubectl", "version", "--client", "--output=yaml"], capture_output=True, text=True)
    version = re.search(r"kustomizeVersion: v(\d+)", said.stdout)
    if version is None or int(version[1]) < KUSTOMIZE:
        pytest.skip(f"kustomize {KUSTOMIZE} is needed, and this kubectl has {version[1] if version else 'none'}")
    return Builder(tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="session")
def builds(builder: Builder) -> dict[str, list[Document]]:
    """Each combination, by its parts: "prod gpu knative"."""
    return {" ".join(parts): builder.build(*parts) for parts in combinations()}
