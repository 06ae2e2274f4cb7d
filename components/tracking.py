"""MLflow's tracking server and model registry, and the only use of mlflow.

The server's address comes from the environment: MLFLOW_TRACKING_URI.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before the import: a server that is down is to be reported in seconds, not after minutes of retries.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from components.errors import TrackingError

CHAMPION, CHALLENGER = "champion", "challenger"
_EXPERIMENT = "everbert"
_DIGEST = "model_version"  # the tag that holds the model folder's own version
_URI = "uri"
_DIGEST_LENGTH, _DESCRIPTION_LENGTH = 36, 5000  # MLflow's limits


@dataclass(frozen=True)
class ModelVersion:
    """A registered version: its number in the registry, where its folder is, and the folder's own version."""

    name: str
    version: str
    uri: str  # s3://, a flat Hugging Face folder
    digest: str  # model_version of everbert.json
    tags: dict[str, str]


@dataclass(frozen=True)
class TrackedData:
    """The data set that a model was trained on. `profile`: plain JSON, what it is made of."""

    name: str
    digest: str
    uri: str
    profile: dict[str, Any]


def register_version(
    name: str,
    folder: str | Path,
    *,
    parameters: dict[str, Any],
    metrics: dict[str, float],
    history: list[dict[str, float]],
    tags: dict[str, str],
    data: TrackedData,
    documents: dict[str, dict[str, Any]],
    description: str,
) -> ModelVersion:
    """Log a run (parameters, metrics, `history` by its 'epoch', the data set, `documents` as JSON files), upload the
    folder flat, register it as a version with that description (Markdown).

    `tags` must hold model_version, the folder's own version. Raises TrackingError if the server does not answer.
    """
    with _client() as client:
        found = client.get_experiment_by_name(_EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(_EXPERIMENT)
        run = client.create_run(experiment, run_name=f"{name}-{tags[_DIGEST]}", tags=tags).info.run_id
        logged = [*_steps(history), *(Metric(key, float(value), 0, 0) for key, value in metrics.items())]
        params = [Param(key, str(value)[:500]) for key, value in parameters.items()]
        client.log_batch(run, metrics=logged, params=params)
        client.log_inputs(run, [_dataset_input(data)])
        for file, content in documents.items():
            client.log_dict(run, content, file)
        model = client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
        client.log_model_artifacts(model.model_id, str(folder))
        client.finalize_logged_model(model.model_id, "READY")
        _create_model(client, name)
        made = client.create_model_version(
            name, source=f"models:/{model.model_id}", run_id=run, model_id=model.model_id,
            tags=tags | {_URI: model.artifact_location}, description=_cut(description),
        )  # fmt: skip
        client.set_terminated(run)
        return _version(made)


def _steps(history: list[dict[str, float]]) -> list[Metric]:
    return [
        Metric(key, float(value), 0, int(entry["epoch"]))
        for entry in history
        for key, value in entry.items()
        if key != "epoch"
    ]


def _dataset_input(data: TrackedData) -> DatasetInput:
    source, profile = json.dumps({"uri": data.uri}), json.dumps(data.profile)
    tracked = Dataset(data.name[:500], data.digest[:_DIGEST_LENGTH], "s3", source, profile=profile)
    return DatasetInput(tracked, [InputTag("mlflow.data.context", "training")])


def _cut(description: str) -> str:
    """Whole lines, as many as MLflow takes."""
    if len(description) <= _DESCRIPTION_LENGTH:
        return description
    rest = "\n\nThe rest is in README.md of the model folder."
    return description[: _DESCRIPTION_LENGTH - len(rest)].rpartition("\n")[0] + rest


def champion(name: str) -> ModelVersion | None:
    """The version with the alias champion, or None if there is no such model or alias."""
    return with_alias(name, CHAMPION)


def with_alias(name: str, alias: str) -> ModelVersion | None:
    """The version with the alias, or None."""
    with _client() as client:
        try:
            return _version(client.get_model_version_by_alias(name, alias))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def version(name: str, number: str | int) -> ModelVersion:
    """The version of that number. Raises TrackingError if there is none."""
    with _client() as client:
        try:
            return _version(client.get_model_version(name, str(number)))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise TrackingError(f"the registry has no version {number} of the model {name!r}") from error
            raise


def with_digest(name: str, digest: str) -> ModelVersion | None:
    """The newest version whose folder is of that version, or None."""
    with _client() as client:
        wanted = f"name = '{name}' and tags.`{_DIGEST}` = '{digest}'"
        found = client.search_model_versions(wanted, order_by=["version_number DESC"], max_results=1)
        return _version(found[0]) if found else None


def with_tags(name: str, tags: dict[str, str]) -> ModelVersion | None:
    """The newest version of the folder that `tags` name, if it was registered with these and given no other since."""
    found = with_digest(name, tags[_DIGEST])
    return found if found and found.tags == tags | {_URI: found.uri} else None


def set_alias(name: str, alias: str, number: str | int) -> None:
    """Point the alias at the version; it leaves the version that had it."""
    with _client() as client:
        client.set_registered_model_alias(name, alias, str(number))


def set_tag(name: str, number: str | int, key: str, value: str) -> None:
    """Tag a version."""
    with _client() as client:
        client.set_model_version_tag(name, str(number), key, value)


def _create_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(found: Any) -> ModelVersion:
    tags = dict(found.tags)
    if _DIGEST not in tags or _URI not in tags:
        raise TrackingError(f"version {found.version} of the model {found.name!r} was not registered by everbert")
    return ModelVersion(found.name, str(found.version), tags[_URI], tags[_DIGEST], tags)


@contextlib.contextmanager
def _client() -> Iterator[MlflowClient]:
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise TrackingError("no MLflow server: set MLFLOW_TRACKING_URI, for example to http://127.0.0.1:5000")
    try:
        yield MlflowClient(tracking_uri=address, registry_uri=address)
    except MlflowException as error:
        if isinstance(error.__context__, requests.ConnectionError | requests.Timeout):
            raise TrackingError(
                f"the MLflow server {address} does not answer: is it up, and is MLFLOW_TRACKING_URI right?"
            ) from error
        raise TrackingError(f"the MLflow server {address} failed: {' '.join(str(error).split())[:200]}") from error
