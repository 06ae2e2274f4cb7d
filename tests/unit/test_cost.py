"""What a step costs: seconds by the clock, and those in which this process or its children were at work."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.accounting.cost import Cost, measured

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"


def test_waiting_costs_time_and_work_costs_cpu_time_too(tmp_path: Path) -> None:
    with measured(tmp_path / "waited"):
        time.sleep(0.3)
    with measured(tmp_path / "worked"):
        subprocess.run([sys.executable, "-c", BUSY], check=True)
    waited, worked = (Cost(**json.loads((tmp_path / name).read_text("utf-8"))) for name in ("waited", "worked"))
    assert waited.seconds >= 0.3
    assert waited.cpu_seconds < 0.2
    assert worked.cpu_seconds >= 0.3
    assert worked.gpu_seconds == 0


def test_a_block_that_fails_has_no_cost(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), measured(tmp_path / "cost"):
        raise ValueError("no")
    assert not (tmp_path / "cost").exists()


def test_costs_add_up() -> None:
    assert sum([Cost(1, 2, 3), Cost(10, 20, 30)], Cost()) == Cost(11, 22, 33)
