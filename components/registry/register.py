"""register: a model folder becomes a numbered version in the registry, with what is known about it."""

import logging
from pathlib import Path
from typing import Any

from components import tracking
from components.classifier.model_folder import describe


def register(
    folder: str | Path, model_name: str, *, data_set_digest: str, evaluation: dict[str, Any], decision: dict[str, Any]
) -> tracking.ModelVersion:
    """Log and register the folder, alias challenger. The alias champion moves only once the version is served.

    Raises ModelFolderError (not a model, or changed) or TrackingError.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    model = describe(folder)
    parameters = {"base_model": model.base_model, "warm_start": model.warm_start, "data_set_digest": data_set_digest}
    settings = {"temperature": model.temperature, "abstain_threshold": model.abstain_threshold}
    tags = {
        "model_version": model.model_version,
        "data_set_digest": data_set_digest,
        "verdict": str(decision.get("verdict", "")),
        "reason": str(decision.get("reason", ""))[:4000],
    }
    registered = tracking.register_version(
        model_name,
        folder,
        parameters={**parameters, **settings, **model.training},
        metrics=_numbers({**model.metrics, **evaluation}),
        history=model.history,
        tags=tags,
    )
    tracking.set_alias(model_name, tracking.CHALLENGER, registered.version)
    return registered


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
