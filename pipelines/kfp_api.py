"""The KFP API server: its v2beta1 REST API, credentials and failures. Every error is a ClusterError that names it.

kfp.Client is not used: it takes half a minute to say of a refused token that a time-out happened, and prints links.
The token comes from KFP_TOKEN or, in a cluster, from the file that the kubelet projects and renews.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from components.errors import ClusterError, ClusterUnavailableError

_SECONDS = 30  # for one request
_CONFLICT = 409
_NO_API = "answers, but not as a KFP API server: is KFP_ENDPOINT right?"
_PAGE = 100


def endpoint() -> str:
    """The API server's address, from KFP_ENDPOINT or KF_PIPELINES_ENDPOINT. Raises ClusterError if none is set."""
    address = os.environ.get("KFP_ENDPOINT") or os.environ.get("KF_PIPELINES_ENDPOINT")
    if not address:
        raise ClusterError(
            "no KFP API server: set KFP_ENDPOINT, for example to http://ml-pipeline.kubeflow.svc.cluster.local:8888"
        )
    return address.rstrip("/")


def equals(key: str, value: str) -> dict[str, str]:
    """A predicate of a filter."""
    return {"operation": "EQUALS", "key": key, "stringValue": value}


def differs(key: str, value: str) -> dict[str, str]:
    return {"operation": "NOT_EQUALS", "key": key, "stringValue": value}


class KfpApi:
    """What a submission asks of the server. Things that have a name are made once, also if others make them too."""

    def __init__(self, address: str, namespace: str = "") -> None:
        import kfp_server_api as api
        import urllib3

        self.address, self._namespace = address, {"namespace": namespace} if namespace else {}
        configuration = api.Configuration(host=address)
        # A redirect leads to a page to log in on, which is no answer; and a server that is down is soon found out.
        configuration.retries = urllib3.Retry(1, redirect=0, raise_on_redirect=False, status=0)
        self._token = _give_credentials(configuration)
        client = api.ApiClient(configuration)
        self._pipelines, self._uploads = api.PipelineServiceApi(client), api.PipelineUploadServiceApi(client)
        self._experiments, self._runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        health, _, headers = self._call(api.HealthzServiceApi(client).healthz_service_get_healthz_with_http_info)
        if "json" not in headers.get("Content-Type", ""):  # KFP's own pages answer everything with HTML
            raise ClusterError(f"{address} {_NO_API}")
        if health.multi_user and not namespace:
            raise ClusterError(f"several users share the Kubeflow of {address}: name your profile with --namespace")

    def pipeline(self, name: str) -> str:
        """The id of the pipeline of that name, made if need be."""
        import kfp_server_api as api

        wanted, service = api.V2beta1Pipeline(name=name, display_name=name, **self._namespace), self._pipelines
        listing = partial(service.pipeline_service_list_pipelines, **self._namespace)
        return self._once("pipeline", name, listing, partial(service.pipeline_service_create_pipeline, wanted))

    def version(self, pipeline: str, name: str, package: Path) -> str:
        """The id of that version of the pipeline; the package is uploaded if there is none."""
        listing = partial(self._pipelines.pipeline_service_list_pipeline_versions, pipeline)
        upload = partial(self._uploads.upload_pipeline_version, str(package), name=name, pipelineid=pipeline)
        return self._once("pipeline_version", name, listing, upload)

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, made if need be."""
        import kfp_server_api as api

        wanted, service = api.V2beta1Experiment(display_name=name, **self._namespace), self._experiments
        listing = partial(service.experiment_service_list_experiments, **self._namespace)
        return self._once("experiment", name, listing, partial(service.experiment_service_create_experiment, wanted))

    def _once(self, kind: str, name: str, listing: Callable[..., Any], making: Callable[..., Any]) -> str:
        """The id of the one of that name which is there, or is made; or which somebody else has made meanwhile."""

        def found() -> str:
            listed = getattr(self._call(listing, filter=_filter(equals("display_name", name))), f"{kind}s")
            return str(getattr(listed[0], f"{kind}_id")) if listed else ""

        there = found()
        if there:
            return there
        try:
            return str(getattr(self._call(making), f"{kind}_id"))
        except ClusterError as error:
            there = found() if error.status == _CONFLICT else ""
            if there:
                return there
            raise

    def create_run(self, **content: Any) -> Any:
        """A run, with what V2beta1Run takes."""
        import kfp_server_api as api

        return self._call(self._runs.run_service_create_run, api.V2beta1Run(**content))

    def run(self, run: str) -> Any:
        return self._call(self._runs.run_service_get_run, run)

    def runs(self, experiment: str, *predicates: dict[str, str]) -> Iterator[Any]:
        """The experiment's runs for which all predicates hold."""
        page = ""
        while True:
            listed = self._call(
                self._runs.run_service_list_runs, experiment_id=experiment, page_token=page, page_size=_PAGE,
                filter=_filter(*predicates),
            )  # fmt: skip
            yield from listed.runs or []
            page = listed.next_page_token
            if not page:
                return

    def delete(self, run: str) -> None:
        """The run, its pods and what is known of it."""
        self._call(self._runs.run_service_delete_run, run)

    def _call(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        import kfp_server_api
        import urllib3

        try:
            return method(*arguments, **named, _request_timeout=_SECONDS)
        except kfp_server_api.ApiException as error:
            raise self._refused(error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterUnavailableError(
                f"the KFP API server {self.address} does not answer: is it up, and is KFP_ENDPOINT right?"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ClusterError(f"{self.address} {_NO_API}") from error

    def _refused(self, error: Any) -> ClusterError:
        said = _message(error)
        if error.status in (401, 403):
            why = f"the KFP API server {self.address} refused the credentials ({error.status}): "
            return ClusterError(why + (f"check {self._token}" if error.status == 401 else f"{said} ({self._token})"))
        if 300 <= error.status < 400:
            return ClusterError(f"the KFP API server {self.address} asks for a login: set KFP_TOKEN ({self._token})")
        kind = ClusterUnavailableError if error.status >= 500 or error.status == 429 else ClusterError
        return kind(f"the KFP API server {self.address} failed ({error.status}): {said}", error.status)


def _give_credentials(configuration: Any) -> str:
    """Which token the configuration has got, in words. Raises ClusterError if its file is not there."""
    from kfp import client

    if os.environ.get("KFP_TOKEN"):
        configuration.api_key["authorization"] = os.environ["KFP_TOKEN"]
        configuration.api_key_prefix["authorization"] = "Bearer"
        return "the token in KFP_TOKEN"
    named = os.environ.get(client.KF_PIPELINES_SA_TOKEN_ENV)
    path = Path(named or client.KF_PIPELINES_SA_TOKEN_PATH)
    if path.is_file():
        configuration.api_key["authorization"] = "read by the hook, which renews it"
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = client.ServiceAccountTokenVolumeCredentials(str(path)).refresh_api_key_hook
        return f"the token in {path}, and its audience"
    if named:
        raise ClusterError(f"{client.KF_PIPELINES_SA_TOKEN_ENV} names {path}, and there is no such file")
    return "that KFP_TOKEN is set: no token was given"


def _filter(*predicates: dict[str, str]) -> str:
    return json.dumps({"predicates": predicates})


def _message(error: Any) -> str:
    """What the server says, in a line."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        content = json.loads(error.body)
        return " ".join(str(content.get("message") or content.get("error") or "").split())[:300]
    return " ".join(str(error.body or error.reason).split())[:200]
