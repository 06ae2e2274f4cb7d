"""An InferenceService while a version is moved into it: every change is ours to make, applied once, and waited for."""

import time
from collections.abc import Callable
from typing import Any

from components.config import DeploymentSettings
from components.deployment import inference_service as fields
from components.deployment.inference_service import Object
from components.deployment.kubernetes_api import OneInferenceService
from components.deployment.pointer import Pointer
from components.deployment.probes import Endpoint
from components.errors import ConflictError, DeploymentError

_ATTEMPTS = 20  # at an object that its controller writes at the same time
_POLL_SECONDS = 0.2
_CERTAIN = 20  # answers in a row: were an older version to give a fifth of them, one in a hundred would not show it


class Moving:
    """The first change takes the service over; before each later one its spec must still name what we put there."""

    def __init__(self, where: str, settings: DeploymentSettings) -> None:
        self.api = OneInferenceService(where)
        self.settings = settings
        self.holder: Pointer | None = None
        """The version that our last change named; None: nothing was changed."""
        self._observed_before: int | None = None

    @property
    def name(self) -> str:
        return self.api.name

    def live(self) -> Object | None:
        return self.api.get()

    def apply(self, wanted: Callable[[Object], Object], names: Pointer) -> None:
        """Apply the fields that `wanted` makes of the object as it is, which name the version `names`.

        An object that is not there is created. Raises ConflictError if another deployment took the service over.
        """
        for _ in range(_ATTEMPTS):
            live = self.api.get()
            if live is None:
                self.api.apply(fields.new_service(names, self.settings.mode))
                self.holder, self._observed_before = names, None
                return
            self._require_ours(live, names)
            try:
                self.api.apply(wanted(live), live["metadata"]["resourceVersion"])
            except ConflictError:  # its status has moved on: look again
                time.sleep(_POLL_SECONDS)
                continue
            self.holder = names
            self._observed_before = fields.observed(live) if fields.predictor_changes(live, wanted(live)) else None
            return
        raise ConflictError(
            f"the InferenceService {self.api} was written by somebody else {_ATTEMPTS} times; try again"
        )

    def wait(self, done: Callable[[Object], bool], what: str) -> Object:
        """The object, once the status is of what we applied and `done`. Raises DeploymentError after ready_seconds, or
        at once if KServe says that the model cannot be loaded."""
        found: list[Object] = []

        def check(live: Object) -> bool:
            self._require_ours(live)
            stale = self._observed_before is not None and fields.observed(live) <= self._observed_before
            if not stale and self._observed_before is not None and fields.failure(live):
                raise DeploymentError(f"version {self._version()} is not up in {self.api}: {fields.failure(live)}")
            if stale or not done(live) or not fields.address_of(live):
                return False
            found.append(live)
            return True

        if not self.api.wait(check, self.settings.ready_seconds):
            raise DeploymentError(
                f"version {self._version()} was not {what} in {self.api} within {self.settings.ready_seconds:g} s"
            )
        return found[0]

    def until_served(self, url: str, version: Pointer, in_a_row: int = _CERTAIN) -> None:
        """Until requests in a row are all answered by the version. Ready is not enough: while pods are replaced the old
        ones answer too, and a status may be stale. Raises DeploymentError."""
        endpoint, deadline = Endpoint(url, self.name, {}), time.monotonic() + self.settings.ready_seconds
        while True:
            answered = next((v for _ in range(in_a_row) if (v := endpoint.version()) != version.model_version), None)
            if answered is None:
                return
            if time.monotonic() > deadline:
                by = f"version {answered} answers" if answered else "nothing answers"
                raise DeploymentError(
                    f"{url} did not answer with version {version.version} ({version.model_version}) within "
                    f"{self.settings.ready_seconds:g} s: {by}"
                )
            time.sleep(_POLL_SECONDS)

    def _require_ours(self, live: Object, *names: Pointer) -> None:
        """That it names our last change's version, or one of `names`: of a change whose answer was lost, say."""
        ours = (self.holder, *names) if self.holder else ()
        if ours and all(fields.share_of(live, version) is None for version in ours):
            raise ConflictError(f"another deployment took the InferenceService {self.api} over")

    def _version(self) -> Any:
        return self.holder.version if self.holder else "?"
