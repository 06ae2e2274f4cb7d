"""Runs the pipeline on Kubeflow: compiled here, submitted to the KFP API server.

The server's address comes from the environment: KFP_ENDPOINT or KF_PIPELINES_ENDPOINT.
"""

import contextlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from components.errors import ClusterError
from pipelines.compilation import compile_pipeline

EXPERIMENT = "everbert"
_ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


def endpoint() -> str:
    """The API server's address. Raises ClusterError if none is set."""
    address = os.environ.get("KFP_ENDPOINT") or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not address:
        raise ClusterError(
            "no KFP API server: set KFP_ENDPOINT, for example to http://ml-pipeline.kubeflow.svc.cluster.local:8888"
        )
    return address.rstrip("/")


class ClusterRuns:
    """Runs on a cluster, found again by their display name. Every error is a ClusterError that names the server."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._check_reachable()
        with self._errors():
            import kfp

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._client = kfp.Client(host=address)

    def find(self, name: str) -> str:
        """The id of the run of that name, or empty."""
        named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
        with self._errors():
            answer = self._client.list_runs(filter=json.dumps(named), page_size=100)
        return next((str(run.run_id) for run in answer.runs or [] if run.display_name == name), "")

    def start(self, name: str, arguments: dict[str, Any]) -> str:
        """Compile the pipeline, start a run of that name, and return its id."""
        with tempfile.TemporaryDirectory(prefix="everbert-") as folder, self._errors():
            package = compile_pipeline(Path(folder) / "pipeline.yaml")
            started = self._client.create_run_from_pipeline_package(
                str(package), arguments=arguments, run_name=name, experiment_name=EXPERIMENT
            )
        return str(started.run_id)

    def under_way(self, run: str) -> bool:
        return self._state(run) not in _ENDED

    def failure(self, run: str) -> str:
        state = self._state(run)
        return f"the run {run} ended as {state}" if state in _ENDED - {"SUCCEEDED"} else ""

    def _state(self, run: str) -> str:
        with self._errors():
            state = self._client.get_run(run).state
        return str(getattr(state, "value", state))

    def _check_reachable(self) -> None:
        """In a second; kfp's client would log tracebacks for half a minute first."""
        try:
            requests.get(f"{self.address}/apis/v2beta1/healthz", timeout=10)
        except requests.RequestException as error:
            raise ClusterError(
                f"the KFP API server {self.address} does not answer: is it up, and is KFP_ENDPOINT right?"
            ) from error

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import kfp_server_api

        try:
            with contextlib.redirect_stdout(sys.stderr):  # kfp prints links; stdout is for the result
                yield
        except kfp_server_api.ApiException as error:
            if error.status in (401, 403):
                raise ClusterError(
                    f"the KFP API server {self.address} refused the credentials ({error.status}): check the token"
                ) from error
            said = " ".join(str(error.body or error.reason).split())[:200]
            raise ClusterError(f"the KFP API server {self.address} failed ({error.status}): {said}") from error
        except (TimeoutError, OSError) as error:
            raise ClusterError(f"the KFP API server {self.address} failed: {error}") from error
