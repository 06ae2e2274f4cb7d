"""The watch after a promotion: is the new champion worse than the one it replaced, on the labels that came in since?

The promise that it is hardly ever wrong, however often one looks, holds for rows that are counted once and stay
counted. So the watch keeps what it has counted, in ledger/watch/<model name>/<new version>-<old version>.json: rows go
from the stream, and labels come late, in any order. It ends with its `watch_rows`-th row. Delete the object to begin
anew, after wrong labels, say.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln
from scipy.stats import beta

from components.deployment.pointer import Pointer
from components.errors import StorageError
from components.storage import ObjectStore

PREFIX = "ledger/watch"


@dataclass(frozen=True)
class Tally:
    """The ids of the live labelled rows that were compared, and on how many only one champion was right."""

    rows: tuple[str, ...] = ()
    lost: int = 0
    """Only the previous one."""
    won: int = 0
    """Only the new one."""

    def due(self, ids: Iterable[str], most: int) -> list[str]:
        """Which rows to compare next: those of `ids` that are not counted yet, until `most` are.

        Of more than there is room for those whose digests come first: some of every source, whatever came of them.
        """
        room = most - len(self.rows)
        if room <= 0:
            return []
        return sorted(set(ids).difference(self.rows), key=lambda row: sha256(row.encode()).digest())[:room]

    def with_rows(self, rows: Iterable[str], new: NDArray[np.bool_], old: NDArray[np.bool_]) -> "Tally":
        """new, old: [n] whether the new, and whether the previous champion is right on each of the n rows."""
        return Tally((*self.rows, *rows), self.lost + int((~new & old).sum()), self.won + int((new & ~old).sum()))

    @property
    def evidence(self) -> float:
        return evidence_of_worse(self.lost, self.won)


def read_tally(store: ObjectStore, new: Pointer, old: Pointer) -> tuple[Tally, str | None]:
    """(tally, entity tag to write with); an empty one with None before the first. Raises StorageError if damaged."""
    found = store.get(_key(new, old))
    if found is None:
        return Tally(), None
    try:
        content = json.loads(found[0])
        return Tally(tuple(content["rows"]), int(content["lost"]), int(content["won"])), found[1]
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{store.uri(_key(new, old))} is damaged; delete it to begin the watch anew") from error


def write_tally(store: ObjectStore, new: Pointer, old: Pointer, tally: Tally, etag: str | None) -> None:
    """Put it over the one that was read with `etag`. Raises ConflictError if another check was faster."""
    store.put(_key(new, old), json.dumps(asdict(tally)).encode(), if_match=etag, only_if_new=etag is None)


def _key(new: Pointer, old: Pointer) -> str:
    return f"{PREFIX}/{new.name}/{new.model_version}-{old.model_version}.json"


def evidence_of_worse(lost: int, won: int) -> float:
    """Evidence, from 0 up, that the previous champion is the better: an e-value, valid whenever one looks.

    lost, won: live labelled rows that only the previous, and only the new champion got right. Were the new one at
    least as good, each such row would be `lost` with a chance of at most 1/2, and the chance that this ever reaches
    1 / level at most `level` (Ville), as long as rows are only added. The likelihood ratio of 1/2 against a share of
    losses uniform on (1/2, 1), the method of mixtures (Robbins 1970); the paired counterpart, for repeated looks, of
    the promotion's McNemar test.
    """
    upper = beta.logsf(0.5, lost + 1, won + 1)
    logarithm = log(2) + betaln(lost + 1, won + 1) + upper + (lost + won) * log(2)
    return exp(min(logarithm, 700.0))
