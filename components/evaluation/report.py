"""The evaluation as one HTML page, which KFP's and MLflow's pages show."""

from typing import Any

from components.charts import confusion, reliability, roc
from components.report import Section, page

_METRICS = ("accuracy", "macro_f1", "roc_auc", "ece")
Table = tuple[list[str], list[list[str]]]


def evaluation_page(evaluation: dict[str, Any]) -> str:
    """One self-contained page for what `evaluate` returned."""
    challenger, champion = evaluation["challenger"], evaluation["champion"]
    verdict = f"Accuracy {challenger['accuracy']:.3f} on {challenger['rows']} held-out rows"
    verdict += f"; the champion has {champion['accuracy']:.3f}." if champion else "; there is no champion yet."
    roles = {"challenger": challenger} | ({"champion": champion} if champion else {})
    names = [c["name"] for c in challenger["classes"]]
    curve = challenger["roc"]
    sections = [
        Section("Metrics", text="With 95 % intervals by the bootstrap over rows.", table=_metrics(roles)),
        Section("By class", table=_classes(challenger)),
        Section("By slice", table=_slices(evaluation["slices"], list(roles))),
        Section("Behaviour", table=_behaviours(roles)) if challenger["behaviours"] else None,
        Section("Confusion", figures=[confusion(challenger["confusion"], names)]),
        Section("Calibration", figures=[reliability(challenger["reliability"])]),
        Section("ROC", figures=[roc(curve["fpr"], curve["tpr"], challenger["roc_auc"])]),
        Section("Behavioural tests that fail", table=_failures(challenger)) if _failures(challenger)[1] else None,
        Section("Worst errors", table=_errors(evaluation["worst_errors"])) if evaluation["worst_errors"] else None,
    ]
    return page("Evaluation", verdict, [section for section in sections if section is not None])


def _metrics(roles: dict[str, dict[str, Any]]) -> Table:
    def shown(role: dict[str, Any], name: str) -> str:
        low, high = role["intervals"].get(name, (None, None))
        return _shown(role[name]) + (f" ({low:.3f} to {high:.3f})" if low is not None else "")

    return ["metric", *roles], [[name, *(shown(role, name) for role in roles.values())] for name in _METRICS]


def _classes(challenger: dict[str, Any]) -> Table:
    numbers = ("precision", "recall", "f1")
    rows = [[c["name"], *(f"{c[k]:.3f}" for k in numbers), str(c["rows"])] for c in challenger["classes"]]
    return ["class", "precision", "recall", "F1", "rows"], rows


def _slices(slices: list[dict[str, Any]], roles: list[str]) -> Table:
    rows = [
        [s["source"], s["by"], s["name"], str(s["rows"]), *(f"{s[f'{role}_right'] / s['rows']:.3f}" for role in roles)]
        for s in slices
    ]
    return ["source", "by", "slice", "rows", *roles], rows


def _behaviours(roles: dict[str, dict[str, Any]]) -> Table:
    rates = {role: {t["kind"]: t["pass_rate"] for t in found["behaviours"]} for role, found in roles.items()}
    rows = [
        [test["kind"], str(test["tests"]), *(f"{rates[role][test['kind']]:.1%}" for role in roles)]
        for test in roles["challenger"]["behaviours"]
    ]
    return ["kind", "tests", *(f"{role} passes" for role in roles)], rows


def _failures(challenger: dict[str, Any]) -> Table:
    rows = [[test["kind"], failure] for test in challenger["behaviours"] for failure in test["failures"]]
    return ["kind", "text"], rows


def _errors(errors: list[dict[str, Any]]) -> Table:
    rows = [[e["source"], e["label"], e["predicted"], f"{e['confidence']:.3f}", e["text"]] for e in errors]
    return ["source", "label", "predicted", "confidence", "text"], rows


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
