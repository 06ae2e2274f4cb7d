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
from components.errors import ConflictError, DataError, OvertakenError
from components.storage import ObjectStore, StoredObject

INCOMING, PREDICTIONS, QUARANTINE, LEDGER = "incoming/", "predictions/", "quarantine/", "ledger/batch/"
_ATTEMPTS = 5
_LONGEST_KEY, _LONGEST_NAME = 1024, 255  # bytes of a key in S3, and of a file's name in many stores behind it


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
        made = [key.encode() for key in (self.parts.key(0), self.predictions, self.quarantine, self.embeddings)]
        if any(len(key) > _LONGEST_KEY or max(map(len, key.split(b"/"))) > _LONGEST_NAME for key in made):
            raise DataError(f"the name of {item.key} is too long for what is made of it; rename it")
        there = store.metadata(self.predictions)
        self._at_first = there[1] if there else None

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
            reasons = self.store.metadata(self.quarantine)
            if reasons is None or reasons[0].get("version") != self._id:
                return None  # another content came in between, and its reasons stand there
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
        """Put a file where its readers look for it.

        Raises ConflictError if the input object is not this version any more, OvertakenError if another model was
        faster. Whoever tries again then covers its predictions, so that the last one to look has the last word.
        """
        for _ in range(_ATTEMPTS):
            there = self.store.metadata(key)
            self.require_current()  # after the look at what is there: a newer version that comes meanwhile is not hit
            if there and there[0].get("version") == self._id:
                return
            if there and there[0].get("source", self._source) != self._source:
                raise DataError(
                    f"{self.store.uri(key)} is of another object than {self.item.key}; rename one of the two"
                )
            if key == self.predictions and there and self._is_of_a_faster_model(*there):
                self.remove_parts()
                raise OvertakenError(
                    f"another model's predictions of {self.item.key} were published meanwhile; "
                    f"they stay until a run of {self.model_version} looks at it again"
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

    def _is_of_a_faster_model(self, metadata: dict[str, str], etag: str) -> bool:
        """Of the same content, and not what stood there when this model started on it."""
        return metadata.get("version", "").startswith(f"{self.item.etag}-") and etag != self._at_first

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
        """This version's, and those of contents that were replaced: of them nobody asks any more."""
        current = self.store.head(self.item.key)
        for item in list(self.store.list(self._folder)):
            version, _, rest = item.key.removeprefix(self._folder).partition("/")
            ours = version == self._id or (current is not None and not version.startswith(f"{current.etag}-"))
            if ours and rest.count("/") == 1 and rest.endswith(parts.SUFFIX):  # not of an object named like a folder
                self.store.delete(item.key)

    @property
    def _source(self) -> str:
        return quote(self.item.key)
