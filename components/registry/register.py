"""register: a model folder becomes a numbered version in the registry, with all that it comes from."""

import logging
from pathlib import Path
from typing import Any

from components import tracking
from components.classifier.model_folder import ModelDescription, describe
from components.tracking import TrackedData

DECISION = "decision.json"


def register(
    folder: str | Path, model_name: str, *, data_set: str, evaluation: dict[str, Any], decision: dict[str, Any]
) -> tracking.ModelVersion:
    """Log and register the folder, alias challenger. The alias champion moves only once the version is served.

    The same call again, as of a step that is retried, gives the version that it made; one that was rolled back since
    is made anew. `data_set` is the address of what it was trained on; `evaluation` and `decision` may be empty where
    there was none. Raises ModelFolderError (not a model, or changed) or TrackingError.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    model = describe(folder)
    made_of = evaluation.get("data_set") or {}
    tags = {
        "model_version": model.model_version,
        "data_set_digest": model.data_set_digest,
        "data_set": data_set,
        **_parent(model_name, evaluation),
        "verdict": str(decision.get("verdict", "")),
        "reason": str(decision.get("reason", ""))[:4000],
    }
    registered = tracking.with_tags(model_name, tags) or tracking.register_version(
        model_name,
        folder,
        parameters=_parameters(model, made_of),
        metrics=_numbers({**model.metrics, **evaluation, "data_set": {}}),
        history=model.history,
        tags=tags,
        data=TrackedData(
            " + ".join(_trained_on(made_of, "source")) or "data", model.data_set_digest, data_set, made_of
        ),
        documents={DECISION: decision},
        description=_card(Path(folder)),
    )
    tracking.set_alias(model_name, tracking.CHALLENGER, registered.version)
    return registered


def _parent(model_name: str, evaluation: dict[str, Any]) -> dict[str, str]:
    """The champion that it had to beat: the folder's version, and its number in the registry; empty for a first one."""
    champion = evaluation.get("champion")
    digest = str(champion["model_version"]) if champion else ""
    found = tracking.with_digest(model_name, digest) if digest else None
    return {"parent_model_version": digest, "parent_version": found.version if found else ""}


def _parameters(model: ModelDescription, made_of: dict[str, Any]) -> dict[str, Any]:
    data = {
        "data_set_digest": model.data_set_digest,
        "training_rows": (made_of.get("counts") or {}).get("train", {}).get("rows", ""),
        "replayed_data_set": made_of.get("replay") or "",
        "new_rows": _listed(made_of.get("new_rows") or {}),
        **{f"training_rows_by_{name}": _listed(_trained_on(made_of, name)) for name in ("source", "label_source")},
    }
    start = {"base_model": model.base_model, "warm_start": model.warm_start}
    settings = {"temperature": model.temperature, "abstain_threshold": model.abstain_threshold}
    return start | data | settings | model.training


def _trained_on(made_of: dict[str, Any], by: str) -> dict[str, int]:
    return (made_of.get("counts") or {}).get("train", {}).get(by, {})


def _listed(rows: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in rows.items())


def _card(folder: Path) -> str:
    """README.md without the header that is meant for the Hugging Face hub."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.removeprefix("---\n").partition("\n---\n")[2].strip() if text.startswith("---\n") else text.strip()


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested dictionaries, the names joined by dots."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{''.join(c if c.isalnum() or c in '_-. /' else '_' for c in str(key))}"
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers
