"""The builds that the tests of this folder look at."""

import shutil

import pytest
from builds import Builder, Document, combinations


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if not shutil.which("kubectl"):
        pytest.skip("kustomize comes with kubectl, which is not installed")
    return Builder(tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="session")
def builds(builder: Builder) -> dict[str, list[Document]]:
    """Each combination, by its parts: "prod gpu knative"."""
    return {" ".join(parts): builder.build(*parts) for parts in combinations()}
