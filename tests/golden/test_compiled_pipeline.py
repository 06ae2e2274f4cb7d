"""The compiled pipeline beside its source is what the source compiles to."""

from pathlib import Path

import yaml

from pipelines.compilation import GOLDEN, compile_pipeline


def test_the_golden_pipeline_is_up_to_date(tmp_path: Path) -> None:
    compiled = compile_pipeline(tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    assert compiled == GOLDEN.read_text(encoding="utf-8"), "run `everbert compile` and look at the difference"


def test_the_graph_is_the_one_of_the_design() -> None:
    specification = yaml.safe_load(GOLDEN.read_text(encoding="utf-8"))
    tasks = specification["root"]["dag"]["tasks"]
    assert set(tasks) == {"prepare", "train", "evaluate", "decide", "register", "condition-1"}
    assert tasks["evaluate"]["dependentTasks"] == ["prepare", "train"]
    outputs = specification["components"]["comp-evaluate"]["outputDefinitions"]["artifacts"]
    kinds = {name: artifact["artifactType"]["schemaTitle"] for name, artifact in outputs.items()}
    assert kinds["metrics"] == "system.Metrics"
    assert kinds["classification"] == "system.ClassificationMetrics"
    assert kinds["report"] == "system.HTML"
