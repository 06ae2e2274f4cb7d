"""Where the served model comes from: a folder, read once, or a champion pointer in the object store, followed."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from components import logs
from components.classifier.classifier import Classifier
from components.classifier.model_folder import DESCRIPTION
from components.errors import ModelFolderError, StorageError
from components.storage import ObjectStore, is_s3, local_folder, split_uri

_WARM_UP = ["good", "bad " * 40, "so so " * 200]  # short, middling and longer than one window


@dataclass(frozen=True)
class Champion:
    """What the pointer says: the version that should be served, and where it is."""

    model_version: str
    uri: str
    etag: str  # of the pointer object


def load_warm(location: str) -> Classifier:
    """The classifier of a model folder (a path, or s3://), checked and warmed up.

    Raises ModelFolderError or StorageError.
    """
    with local_folder(location) as folder:
        classifier = Classifier.load(folder)
        start = time.monotonic()
        for _ in range(2):  # what torch saw the first time, it makes faster the second, which takes as long
            classifier.predict(_WARM_UP)
        logs.event("warmed up", model_version=classifier.version, seconds=round(time.monotonic() - start, 6))
    return classifier


def read_champion(location: str, store: ObjectStore | None = None) -> Champion | None:
    """The champion pointer under s3://BUCKET/models/NAME, or None where there is none, or an empty one.

    `store` is the bucket's, for those who look often.

    Raises ModelFolderError if the pointer is damaged, StorageError if the store fails.
    """
    bucket, prefix = split_uri(location)
    key = f"{prefix.rstrip('/')}/champion.json"
    found = (store or ObjectStore(bucket)).get(key)
    if found is None:
        return None
    try:
        content = json.loads(found[0])
        if content == {}:  # its first deployment was taken back
            return None
        return Champion(str(content["model_version"]), str(content["uri"]), found[1])
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFolderError(f"s3://{bucket}/{key} is not a champion pointer; promote a model again") from error


def load_champion(champion: Champion) -> Classifier:
    """The classifier that the pointer names. Raises ModelFolderError if another version is found there."""
    classifier = load_warm(champion.uri)
    if classifier.version != champion.model_version:
        raise ModelFolderError(
            f"{champion.uri} holds version {classifier.version}, but the champion is {champion.model_version}"
        )
    return classifier


def first(location: str) -> tuple[Classifier, Champion | None]:
    """What to serve at the start, and the pointer that said so (None: a model folder, not to be followed)."""
    if not is_s3(location):
        return load_warm(location), None
    champion = read_champion(location)
    if champion is not None:
        return load_champion(champion), champion
    bucket, prefix = split_uri(location)
    if ObjectStore(bucket).head(f"{prefix.rstrip('/')}/{DESCRIPTION}") is None:
        raise ModelFolderError(f"{location} holds neither a champion.json nor a model; promote a model first")
    return load_warm(location), None


class Lookout:
    """Looks at the pointer of `location` again and again, for a champion to go on with instead of `current`."""

    def __init__(self, location: str, current: Champion) -> None:
        self._location = location
        self._store = ObjectStore(split_uri(location)[0])
        self._seen = current
        self._serving = current.model_version
        self._last_warning = ""

    def look(self) -> Classifier | None:
        """The new champion, loaded and warm, or None if there is none.

        Raises what reading and loading raise. What may pass is tried again at the next look; a broken model is not.
        """
        champion = read_champion(self._location, self._store)
        if champion is None or champion.etag == self._seen.etag:
            return None
        classifier = None
        if champion.model_version != self._serving:
            try:
                classifier = load_champion(champion)
            except Exception as error:
                if not _passes(error):
                    self._seen = champion
                raise
            logs.event("model replaced", previous=self._serving, model_version=champion.model_version)
            self._serving = champion.model_version
        self._seen = champion
        return classifier

    def try_to_look(self) -> Classifier | None:
        """The same, but whatever goes wrong is only reported, once: the work goes on with the model it has."""
        try:
            classifier = self.look()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if reason != self._last_warning:
                logs.warning("new champion not served", reason=reason, model_version=self._serving)
            self._last_warning = reason
            return None
        self._last_warning = ""
        return classifier


def _passes(error: Exception) -> bool:
    """Whether it may go well next time: the store, a full disk. transformers' own OSErrors have no number."""
    causes = (error, error.__cause__)
    return any(isinstance(e, StorageError) or (isinstance(e, OSError) and e.errno is not None) for e in causes)


class Current:
    """For what works object by object: the model of `location`, and once there is a new champion that one.

    The pointer is read when `look_seconds` have gone by.
    """

    def __init__(self, location: str, look_seconds: float) -> None:
        """Raises as `first` does."""
        self._classifier, champion = first(location)
        self._lookout = Lookout(location, champion) if champion else None
        self._look_seconds = look_seconds
        self._looked = time.monotonic()

    def __call__(self) -> Classifier:
        """The model by now."""
        if self._lookout and time.monotonic() - self._looked >= self._look_seconds:
            self._looked = time.monotonic()
            self._classifier = self._lookout.try_to_look() or self._classifier
        return self._classifier


class Follower(threading.Thread):
    """Has a look every `poll_seconds`, and hands a new champion over."""

    def __init__(self, lookout: Lookout, swap: Callable[[Classifier], None], poll_seconds: float) -> None:
        super().__init__(name="follower", daemon=True)
        self._lookout = lookout
        self._swap = swap
        self._poll_seconds = poll_seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        self._stopped.set()

    def run(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            if classifier := self._lookout.try_to_look():
                self._swap(classifier)
