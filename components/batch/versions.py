"""A version: one content of one input object, as one model scores it, and where everything that comes of it lies.

    ledger/batch/<name>/<entity tag>-<model version>.json    the manifest, written last: the version is done

What lies under predictions/ and quarantine/ says of which version it is, and is replaced by conditional put alone: a
worker that was slow never covers what came of a newer content.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.batch import outputs, parts, sample
from components.batch.parts import Parts
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.errors import ConflictError, DataError
from components.storage import ObjectStore, StoredObject

INCOMING, PREDICTIONS, QUARANTINE, LEDGER = "incoming/", "predictions/", "quarantine/", "ledger/batch/"
_ATTEMPTS = 5


@dataclass(frozen=True)
class BatchResult:
    """One file: rows scored and set aside, and whether it was scored before by the same model."""

    source: str
    predictions: str
    rows: int
    quarantined: int
    model_version: str
    embeddings: str = ""
    """Key of what was kept for the drift check; empty for a file on disk."""
    already_scored: bool = False
    problem: str = ""
    """Why it was not scored; empty if it was."""
    missing: int = 0
    """Chunks that other workers have still to score, of an object that several share."""


class Version:
    """See above. `item` is the input object, under incoming/."""

    def __init__(self, store: ObjectStore, item: StoredObject, classifier: Classifier, settings: BatchSettings) -> None:
        self.store, self.item, self._settings = store, item, settings
        self.model_version = classifier.version
        name = item.key.removeprefix(INCOMING)
        self.output = outputs.name_of(name, settings.predictions_format)
        self.predictions = PREDICTIONS + self.output
        self.quarantine = f"{QUARANTINE}{name}.reasons.csv"
        self.embeddings = sample.key_of(classifier.version, name, item.etag)
        self._folder = f"{LEDGER}{name}/"
        self._id = f"{item.etag}-{classifier.version}"
        self._manifest = f"{self._folder}{self._id}.json"

    @property
    def parts(self) -> Parts:
        """Of the same chunks: other settings cut others."""
        settings = f"{self._settings.chunk_rows}-{self._settings.embedding_rows}-{self._settings.predictions_format}"
        return Parts(self.store, f"{self._folder}{self._id}/{settings}/")

    def done(self) -> BatchResult | None:
        """What came of it, if it is done and its predictions are not those of another version.

        Raises DataError if it was refused.
        """
        found = self.store.get(self._manifest)
        manifest = json.loads(found[0]) if found else {}
        if "refused" in manifest:
            self.remove_parts()
            raise DataError(manifest["refused"])
        if not manifest or manifest["result"]["predictions"] != self.predictions:
            return None
        published = (self.store.metadata(key) for key in (self.predictions, self.quarantine))
        if any(there and there[0].get("version", self._id) != self._id for there in published):
            return None
        if not self.store.head(self.embeddings):
            return None
        self.remove_parts()
        return BatchResult(**manifest["result"] | {"already_scored": True})

    def publish(self, path: Path, key: str) -> None:
        """Put a file where its readers look for it. ConflictError if the input object is not this version any more."""
        for _ in range(_ATTEMPTS):
            there = self.store.metadata(key)
            self.require_current()  # after the look at what is there: a newer version that comes meanwhile is not hit
            if there and there[0].get("version") == self._id:
                return
            if there and there[0].get("source", self._source) != self._source:
                raise DataError(
                    f"{self.store.uri(key)} is of another object than {self.item.key}; rename one of the two"
                )
            try:
                metadata = {"version": self._id, "source": self._source}
                seen = there[1] if there else None
                self.store.publish(path, key, metadata, if_match=seen, only_if_new=there is None)
            except ConflictError:
                continue
            self.require_current()  # a newer version may have found its own file here, and have left it so
            return
        raise ConflictError(f"{self.store.uri(key)} was written {_ATTEMPTS} times by somebody else; let fewer score it")

    def require_current(self) -> None:
        """Raises ConflictError if the input object was replaced or removed."""
        if self.store.head(self.item.key) != self.item:
            raise ConflictError(f"{self.store.uri(self.item.key)} was replaced while it was scored")

    def commit(self, content: dict[str, Any]) -> None:
        """Write the manifest, and remove the parts. ConflictError if somebody else has written it meanwhile."""
        found = self.store.get(self._manifest)
        what = {"object": self.item.key, "etag": self.item.etag, "size": self.item.size}
        manifest = json.dumps(what | {"model_version": self.model_version} | content).encode()
        self.store.put(self._manifest, manifest, if_match=found[1] if found else None, only_if_new=found is None)
        self.remove_parts()

    def remove_parts(self) -> None:
        """Those of all versions of the object: of what was replaced, nobody asks any more."""
        for item in list(self.store.list(self._folder)):
            if item.key.endswith(parts.SUFFIX):
                self.store.delete(item.key)

    @property
    def _source(self) -> str:
        return quote(self.item.key)
