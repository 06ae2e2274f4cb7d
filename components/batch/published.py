"""What batch scoring has published of an input object, read back row by row."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from components.batch import outputs
from components.batch.versions import INCOMING, PREDICTIONS
from components.storage import ObjectStore


def published(store: ObjectStore, key: str) -> Iterator[Iterator[dict[str, str]]]:
    """The rows of each file of predictions of the object `key`: one, or one more for each format it was written in."""
    name = key.removeprefix(INCOMING)
    for output in dict.fromkeys(outputs.name_of(name, wanted) for wanted in ("same", "csv", "parquet")):
        if store.head(PREDICTIONS + output):
            with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
                path = Path(folder) / "predictions"
                store.download(PREDICTIONS + output, path)
                yield outputs.read_back(path, output)
