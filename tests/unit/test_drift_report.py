"""The drift report: a page for a reader, JSON for a program, from a real check."""

import json

import numpy as np

from components.config import DriftSettings
from components.drift import reference as drift_reference
from components.drift.detection import detect
from components.drift.policy import decide
from components.drift.report import write_report

SETTINGS = DriftSettings(components=6, permutations=199)


def test_report_of_a_drifted_window(tmp_path) -> None:
    generator = np.random.default_rng(0)
    sources = ["movies"] * 150 + ["products"] * 150
    reference = drift_reference.fit(
        generator.normal(size=(200, 10)),
        generator.normal(size=(300, 10)),
        generator.normal(size=(300, 2)),
        sources,
        "abc",
        SETTINGS,
    )
    embeddings, logits = generator.normal(size=(80, 10)) + 1.0, generator.normal(size=(80, 2))
    embeddings[7] += 50
    texts = [f"text {i}" for i in range(79)] + ["x"]
    texts[7] = "<b>far away</b>" + "y" * 400
    result = detect(reference, embeddings, logits, SETTINGS)
    verdict = decide(result, 10, SETTINGS)
    projected = reference.project(embeddings, logits)

    path = write_report(tmp_path / "new", result, verdict, reference, projected, texts)

    html = path.read_text("utf-8")
    assert verdict.reason in html
    assert "&lt;b&gt;far away&lt;/b&gt;" in html
    assert "y" * 300 not in html
    assert all(f"<td>{name}</td>" in html for name in ("all", "movies", "products"))
    found = json.loads((tmp_path / "new" / "drift.json").read_text("utf-8"))
    assert found["verdict"] == "wait"
    assert found["drifted"] is True
    assert found["p_value"] == result.p_value
    assert found["by_source"] == result.by_source
    assert len(found["slice_distances"]) == 7
    assert sorted(p.name for p in path.parent.iterdir()) == ["drift.html", "drift.json"]
    assert write_report(tmp_path / "again", result, verdict, reference, projected, texts).read_text("utf-8") == html
