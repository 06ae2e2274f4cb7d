"""Questions to a served model, and whether its answers, its errors and its speed are what they must be."""

import itertools
import math
import re
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from components.classifier.answers import Expected
from components.config import DeploymentSettings
from components.errors import DeploymentError

PROBE_HEADER = "x-everbert-probe"  # of every question: a server's payload log is of what others ask
_LEAST_REQUESTS = 20  # in a server's own metrics, before they say anything
_QUANTILE = 0.95
_ONE_ANSWER = 10.0  # seconds
_METRIC = re.compile(r"^(everbert_\w+?)(?:_total)?\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_FAILED = re.compile(r"5\d\d|INTERNAL|UNKNOWN|UNAVAILABLE")


@dataclass(frozen=True)
class Reply:
    """What came back for one text. `version` is the model version that answered, `wrong` is empty if all is well."""

    seconds: float
    version: str = ""
    wrong: str = ""


class Endpoint:
    """A model at one address. `versions`: the model versions that may answer there, and what each must say."""

    def __init__(self, url: str, name: str, versions: dict[str, Expected]) -> None:
        self.url, self.name, self.versions = url, name, versions

    def ask(self, text: str, timeout: float) -> Reply:
        """One V1 request; never raises for what the server does."""
        started = time.monotonic()
        try:
            said = self._predict(text, timeout)
            seconds, version = time.monotonic() - started, str(said["model_version"])
            if version not in self.versions:
                return Reply(seconds, version, f"model version {version} answers")
            label, confidence = int(said["predicted_label"]), float(said["confidence_score"])
            return Reply(seconds, version, self.versions[version].difference(text, label, confidence))
        except requests.RequestException as error:
            return Reply(time.monotonic() - started, wrong=_told(error))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return Reply(time.monotonic() - started, wrong=f"no prediction in the answer ({type(error).__name__})")

    def version(self) -> str:
        """The model version that answers, empty if nothing does."""
        try:
            return str(self._predict("good", _ONE_ANSWER)["model_version"])
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError):
            return ""

    def smoke(self, version: str, timeout: float) -> str:
        """What is wrong with the model's V2 side, or empty: its metadata name the version, and it infers."""
        asked = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}
        try:
            listed = self._get(f"v2/models/{self.name}", timeout).json().get("versions")
            if version not in (listed or []):
                return f"V2 lists the versions {listed}, not {version}"
            said = self._post(f"v2/models/{self.name}/infer", {"inputs": [asked]}, timeout)
            found = {output["name"]: output["data"][0] for output in said["outputs"]}
            return "" if found["model_version"] == version else f"V2 answers as {found['model_version']}"
        except requests.RequestException as error:
            return f"V2: {_told(error)}"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            return f"V2: no prediction in the answer ({type(error).__name__})"

    def metrics(self, version: str, latency: float) -> "Metrics | None":
        """What one pod of that version says at /metrics; None if there are none, or another version's."""
        try:
            text = self._get("metrics", 5).text
        except requests.RequestException:
            return None
        lines = [(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _METRIC.findall(text)]
        if not any(name == "everbert_model_info" and labels.get("version") == version for name, labels, _ in lines):
            return None
        counts = [(labels, value) for name, labels, value in lines if name == "everbert_requests"]
        failed = sum(value for labels, value in counts if _FAILED.fullmatch(labels.get("status", "")))
        buckets = [(float(labels["le"]), v) for name, labels, v in lines if name == "everbert_request_seconds_bucket"]
        enough = min((le for le, _ in buckets if le >= latency), default=math.inf)
        timed = sum(value for le, value in buckets if le == math.inf)
        slow = timed - sum(value for le, value in buckets if le == enough)
        return Metrics(int(sum(value for _, value in counts)), int(failed), int(slow))

    def _predict(self, text: str, timeout: float) -> Any:
        return self._post(f"v1/models/{self.name}:predict", {"instances": [text]}, timeout)["predictions"][0]

    def _get(self, path: str, timeout: float) -> requests.Response:
        answer = requests.get(f"{self.url}/{path}", timeout=timeout)
        answer.raise_for_status()
        return answer

    def _post(self, path: str, body: Any, timeout: float) -> Any:
        answer = requests.post(f"{self.url}/{path}", json=body, headers={PROBE_HEADER: "1"}, timeout=timeout)
        answer.raise_for_status()
        return answer.json()


@dataclass(frozen=True)
class Metrics:
    """Of one pod, since it started: requests, those that failed, and those slower than the bound."""

    requests: int
    failed: int
    slow: int

    def refuse_bad(self, settings: DeploymentSettings) -> None:
        """Raises DeploymentError."""
        if self.requests < _LEAST_REQUESTS:
            return
        if self.failed > settings.error_rate * self.requests:
            raise DeploymentError(f"/metrics of the new version counts {self.failed} of {self.requests} as failed")
        if self.slow > (1 - _QUANTILE) * self.requests:
            raise DeploymentError(
                f"/metrics of the new version counts {self.slow} of {self.requests} requests slower than "
                f"{settings.latency_seconds:g} s"
            )


@dataclass
class Watch:
    """What the probes of one step have seen so far."""

    replies: list[Reply] = field(default_factory=list)

    def summary(self, version: str) -> dict[str, Any]:
        """For the log and the record; the latency is that of `version`'s answers."""
        wrong = [reply.wrong for reply in self.replies if reply.wrong]
        answered = [reply.version for reply in self.replies if reply.version]
        return {
            "probes": len(self.replies),
            "wrong": len(wrong),
            "first_wrong": wrong[0] if wrong else "",
            "share_seen": round(answered.count(version) / len(answered), 3) if answered else 0.0,
            "latency_seconds": round(self.latency(version), 4),
        }

    def latency(self, version: str) -> float:
        """The 95th percentile of the seconds of that version's answers, and of the requests nobody answered."""
        seconds = sorted(reply.seconds for reply in self.replies if reply.version in ("", version))
        return seconds[math.ceil(_QUANTILE * len(seconds)) - 1] if seconds else 0.0

    def refuse_bad(self, version: str, settings: DeploymentSettings) -> None:
        """Raises DeploymentError if too many replies are wrong, or `version` is too slow."""
        wrong = [reply.wrong for reply in self.replies if reply.wrong]
        if len(wrong) > settings.error_rate * len(self.replies):
            raise DeploymentError(f"{len(wrong)} of {len(self.replies)} probes went wrong, the first: {wrong[0]}")
        if self.latency(version) > settings.latency_seconds:
            raise DeploymentError(
                f"the new version's answers take {self.latency(version):.2f} s (95th percentile), the bound is "
                f"{settings.latency_seconds:g} s"
            )


def watch(endpoints: list[Endpoint], version: str, settings: DeploymentSettings) -> Watch:
    """Ask the endpoints in turn for `watch_seconds`, one request each `probe_seconds`; not for as long if so many went
    wrong that `refuse_bad` raises whatever else comes."""
    seen, wrong = Watch(), 0
    questions = [answer.text for answer in endpoints[0].versions[version].answers]
    pairs = itertools.cycle([(endpoint, text) for text in questions for endpoint in endpoints])
    least, in_time = len(questions) * len(endpoints), settings.watch_seconds / settings.probe_seconds + 2
    deadline = time.monotonic() + settings.watch_seconds
    for endpoint, text in pairs:
        started = time.monotonic()
        seen.replies.append(endpoint.ask(text, _timeout(settings)))
        wrong += bool(seen.replies[-1].wrong)
        over = time.monotonic() >= deadline and len(seen.replies) >= least
        if over or wrong > settings.error_rate * max(least, in_time):
            break
        time.sleep(max(0.0, min(settings.probe_seconds - (time.monotonic() - started), deadline - time.monotonic())))
    return seen


def prove(endpoint: Endpoint, version: str, settings: DeploymentSettings) -> int:
    """Every reference text is answered by `version`, the endpoint's only one, as transformers answers it; how many.

    Raises DeploymentError.
    """
    timeout, answers = _timeout(settings), endpoint.versions[version].answers
    replies = (endpoint.ask(answer.text, timeout).wrong for answer in answers)
    wrong = endpoint.smoke(version, timeout) or next(filter(None, replies), "")  # no more is asked after the first
    if wrong:
        raise DeploymentError(f"{endpoint.url} does not answer as the model must: {wrong}")
    return len(answers)


def _timeout(settings: DeploymentSettings) -> float:
    return max(_ONE_ANSWER, 2 * settings.latency_seconds)


def _told(error: requests.RequestException) -> str:
    status = getattr(error.response, "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__
