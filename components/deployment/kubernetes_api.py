"""The InferenceServices of a Kubernetes cluster, and the only use of the kubernetes client.

Where the API server is, and who we are, come from the pod's service account or else from a kubeconfig file
(KUBECONFIG). What may pass by itself (429, 5xx, a lost connection, a watch that ended or is too old) is tried again;
everything else is one line.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import yaml
from kubernetes import client, config, watch
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from components import logs
from components.errors import ClusterError, ConflictError, InputError

KIND, API = "InferenceService", ("serving.kserve.io", "v1beta1")
FIELD_MANAGER = "everbert"
_PLURAL = "inferenceservices"
_PATH = f"/apis/{'/'.join(API)}/namespaces/{{namespace}}/{_PLURAL}/{{name}}"
_PASSING = (429, 500, 502, 503, 504)
_TRIES, _FIRST_PAUSE, _LONGEST_PAUSE = 6, 0.2, 30.0  # seconds, doubled each time
_WATCH_SECONDS = 60  # a watch that is silent for longer may be a dead connection
_BETWEEN_WATCHES = 0.2
_TIMEOUT = (5, 30)  # seconds to connect, and without an answer

Object = dict[str, Any]
T = TypeVar("T")


class OneInferenceService:
    """An InferenceService by its name, whether it is there or not."""

    def __init__(self, where: str) -> None:
        """`where` is NAMESPACE/NAME. Raises InputError, or ClusterError if there is no cluster to talk to."""
        self.namespace, _, self.name = where.partition("/")
        if not self.namespace or not self.name or "/" in self.name:
            raise InputError(f"an InferenceService is named NAMESPACE/NAME, not {where!r}")
        self._client = _connected()
        self._api = client.CustomObjectsApi(self._client)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def get(self) -> Object | None:
        """The object as it is, or None."""
        try:
            return self._call("get", lambda: self._api.get_namespaced_custom_object(
                *API, self.namespace, _PLURAL, self.name, _request_timeout=_TIMEOUT))  # fmt: skip
        except _NotFoundError:
            return None

    def apply(self, fields: Object, resource_version: str = "") -> Object:
        """Server-side apply: we own `fields`, and no longer what we owned before and is not among them.

        With `resource_version` only over that very version of the object: otherwise ConflictError, as also if it is
        being written by somebody else. Raises ClusterError if one of the fields is another manager's.
        """
        metadata = {**fields.get("metadata", {}), "name": self.name, "namespace": self.namespace}
        if resource_version:
            metadata["resourceVersion"] = resource_version
        body = {"apiVersion": "/".join(API), "kind": KIND, **fields, "metadata": metadata}
        return self._call("patch", lambda: self._client.call_api(
            _PATH, "PATCH", {"namespace": self.namespace, "name": self.name}, [("fieldManager", FIELD_MANAGER)],
            {"Content-Type": "application/apply-patch+yaml", "Accept": "application/json"}, body=body,
            response_type="object", auth_settings=["BearerToken"], _return_http_data_only=True,
            _request_timeout=_TIMEOUT,
        ))  # fmt: skip

    def wait(self, done: Callable[[Object], bool], seconds: float) -> bool:
        """Until `done` of the object as it is, or of a later version of it; False after `seconds`.

        Raises what `done` raises, and ClusterError if the object is deleted.
        """
        deadline = time.monotonic() + seconds
        while True:
            live = self.get()
            if live is None:
                raise ClusterError(f"the InferenceService {self} was deleted while it was waited for")
            if done(live):
                return True
            if time.monotonic() >= deadline:
                return False
            changes = self._changes(live["metadata"]["resourceVersion"], deadline - time.monotonic())
            if any(done(changed) for changed in changes):
                return True
            time.sleep(_BETWEEN_WATCHES)

    def _changes(self, resource_version: str, seconds: float) -> Iterator[Object]:
        """Later versions of the object, until the watch ends: its time is up, 410 Gone, or the connection is lost."""
        limit = max(1, min(_WATCH_SECONDS, int(seconds)))
        try:
            events = watch.Watch().stream(
                self._api.list_namespaced_custom_object, *API, self.namespace, _PLURAL, timeout_seconds=limit,
                field_selector=f"metadata.name={self.name}", resource_version=resource_version,
                _request_timeout=(_TIMEOUT[0], limit + 5),
            )  # fmt: skip
            for event in events:
                if event["type"] == "DELETED":
                    return
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        except (HTTPError, ValueError) as error:  # a line cut short is no JSON
            logs.event("watch_ended", inference_service=str(self), reason=_one_line(error))
        except ApiException as error:
            if error.status not in (*_PASSING, 410):
                raise self._explained("watch", error) from error
            logs.event("watch_ended", inference_service=str(self), reason=f"{error.status} {error.reason}")

    def _call(self, verb: str, request: Callable[[], T]) -> T:
        """The answer; a failure that may pass is waited for, as long as Retry-After says."""
        for attempt in range(1, _TRIES + 1):
            pause = _FIRST_PAUSE * 2**attempt
            try:
                return request()
            except ApiException as error:
                if error.status not in _PASSING or attempt == _TRIES:
                    raise self._explained(verb, error) from error
                pause = _retry_after(error, pause)
                reason = f"{error.status} {error.reason}"
            except HTTPError as error:
                reason = _one_line(error)
                if attempt == _TRIES:
                    raise ClusterError(f"the Kubernetes API server does not answer: {reason}") from error
            logs.warning("kubernetes_retry", verb=verb, inference_service=str(self), reason=reason)
            time.sleep(min(pause, _LONGEST_PAUSE))
        raise AssertionError("unreachable")

    def _explained(self, verb: str, error: ApiException) -> Exception:
        """One line that says what is wrong and what to do."""
        said = _status_of(error)
        message = _one_line(said.get("message") or error.reason)
        kind = f"{_PLURAL}.{API[0]}"
        if error.status == 401:
            return ClusterError("the Kubernetes API server refused the credentials (401): check the token")
        if error.status == 403:
            return ClusterError(
                f"Kubernetes does not allow this identity to {verb} {kind} in the namespace {self.namespace}: "
                f"give its Role the verb {verb} (403: {message})"
            )
        if error.status == 404:
            if said.get("reason") == "NotFound" and (said.get("details") or {}).get("name") == self.name:
                return _NotFoundError(message)
            return ClusterError(f"the cluster has no {kind}, or no namespace {self.namespace}: is KServe installed?")
        if error.status == 409:
            return self._conflict(said, message)
        return ClusterError(f"Kubernetes refused to {verb} the InferenceService {self} ({error.status}): {message}")

    def _conflict(self, said: Object, message: str) -> Exception:
        causes = (said.get("details") or {}).get("causes") or []
        taken = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
        if not taken:
            return ConflictError(f"the InferenceService {self} was written by somebody else: {message}")
        fields = ", ".join(str(cause.get("field", "?")) for cause in taken)
        managers = ", ".join(dict.fromkeys(_one_line(cause.get("message", "?")) for cause in taken))
        return ClusterError(
            f"{fields} of the InferenceService {self} must be Everbert's to set, and is not ({managers}): "
            "take the field out of what that manager applies"
        )


class _NotFoundError(ClusterError):
    """The object is not there."""


def _connected() -> client.ApiClient:
    settings = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ClusterError(
            f"no Kubernetes cluster: not in a pod with a service account, and no kubeconfig ({_one_line(error)}); set "
            "KUBECONFIG"
        ) from error
    settings.retries = False  # they are ours, and counted
    return client.ApiClient(settings)


def _status_of(error: ApiException) -> Object:
    """The Status object that the API server sent, or {} for what something else answered."""
    try:
        said = json.loads(error.body or "")
    except (ValueError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}


def _retry_after(error: ApiException, otherwise: float) -> float:
    try:
        return float((error.headers or {}).get("Retry-After", ""))
    except (TypeError, ValueError):
        return otherwise


def _one_line(what: object) -> str:
    return " ".join(str(what).split())[:300]
