"""Fixtures of the serving tests."""

from pathlib import Path

import pytest
from server_process import write_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("small_model"), seed=1)
