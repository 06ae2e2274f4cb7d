"""What model servers were asked, as part of the stream of incoming texts: the payload log's parts of one model version.

All parts of a series (one server process, one model version) have one mark in the state, at the series' key: its rows
are numbered through. A part of the stream has the name of the payload part for its entity tag.
"""

from collections.abc import Iterator

import numpy as np

from components import logs, payload
from components.batch.sample import Kept
from components.errors import DataError
from components.payload import PREFIX
from components.storage import ObjectStore

SOURCE = "requests"


def is_series(key: str) -> bool:
    """Whether the key of a mark or a part of the stream is that of a series."""
    return key.startswith(PREFIX)


def series_of(model_version: str) -> str:
    """The start of the keys of all its series."""
    return f"{PREFIX}{model_version}/"


def kept(store: ObjectStore, key: str) -> Kept | None:
    """The rows of the payload part at `key`; None if there is none. Its entity tag is the digest of each row.

    Raises DataError if it is damaged.
    """
    part, found = payload.parse(key), payload.load(store, key)
    if part is None or found is None:
        return None
    table, etag = found
    rows = np.arange(part.first, part.end)
    digests = np.full(len(rows), etag.encode())
    return Kept(rows, payload.vectors(table, "embedding"), payload.vectors(table, "logits"), digests)


def texts(store: ObjectStore, prefix: str, first: int, end: int) -> Iterator[tuple[int, str, str]]:
    """(number, id, text) of the rows with `first` <= number < `end` whose text was kept and is still there.

    `prefix` is the key of a series, or of one part. A damaged part is left out, with a warning.
    """
    for part, _ in payload.parts(store, prefix):
        if not (part.has_text and part.first < end and part.end > first):
            continue
        try:
            found = payload.load(store, part.key)
        except DataError as error:
            logs.warning("payload_refused", key=part.key, reason=str(error))
            continue
        if found:
            table = found[0]
            rows = zip(range(part.first, part.end), table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
            yield from (row for row in rows if first <= row[0] < end)
