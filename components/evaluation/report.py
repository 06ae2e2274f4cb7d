"""The evaluation as one HTML page, which KFP's and MLflow's pages show."""

from typing import Any

from components.charts import confusion, reliability, roc
from components.report import Section, page


def evaluation_page(evaluation: dict[str, Any]) -> str:
    """One self-contained page for what `evaluate` returned."""
    challenger, champion = evaluation["challenger"], evaluation["champion"]
    verdict = f"Accuracy {challenger['accuracy']:.3f} on {challenger['rows']} held-out rows"
    verdict += f"; the champion has {champion['accuracy']:.3f}." if champion else "; there is no champion yet."
    roles = [("challenger", challenger)] + ([("champion", champion)] if champion else [])
    header = ["metric", *(role for role, _ in roles)]
    rows = [[name, *(_shown(m[name]) for _, m in roles)] for name in ("accuracy", "macro_f1", "roc_auc", "ece")]
    classes = [
        [c["name"], *(f"{c[k]:.3f}" for k in ("precision", "recall", "f1")), str(c["rows"])]
        for c in challenger["classes"]
    ]
    curve = challenger["roc"]
    names = [c["name"] for c in challenger["classes"]]
    return page(
        "Evaluation",
        verdict,
        [
            Section("Metrics", table=(header, rows)),
            Section("By class", table=(["class", "precision", "recall", "F1", "rows"], classes)),
            Section("By source", table=_sources(evaluation["sources"])),
            Section("Confusion", figures=[confusion(challenger["confusion"], names)]),
            Section("Calibration", figures=[reliability(challenger["reliability"])]),
            Section("ROC", figures=[roc(curve["fpr"], curve["tpr"], challenger["roc_auc"])]),
        ],
    )


def _sources(sources: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = [key.replace("_", " ") for key in sources[0]]
    return header, [[_shown(value) for value in source.values()] for source in sources]


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
