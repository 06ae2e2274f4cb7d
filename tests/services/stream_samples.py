"""What the tests of the check share: settings that fit a small reference, sample rows, and how files come in."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.config import load
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.storage import ObjectStore

SAMPLES = Path(__file__).parents[2] / "samples"
# A reference of 260 rows supports windows of 26; a handful of them is an alarm.
SETTINGS = load(
    None,
    {
        "data": {"test_share": 0.1},
        "training": {"epochs": 1, "max_length": 64},
        "drift": {"minimum_window": 20, "permutations": 199},
        "retrain": {"false_retrain_budget": 0.05, "checks_a_year": 400, "minimum_labels": 60, "annotation_rows": 40},
    },
)


@dataclass(frozen=True)
class Samples:
    """[id, text] rows, and the labels of the tweets."""

    movies: list[list[str]]
    tweets: list[list[str]]
    labels: dict[str, str]


def as_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def drop(store: ObjectStore, name: str, rows: Sequence[Sequence[str]]) -> None:
    """A file of [id, text] rows comes in."""
    store.put(f"incoming/{name}", as_csv(["id", "text"], rows))


def serve(store: ObjectStore, uri: str, number: str = "1") -> str:
    """Point at the champion; returns its version."""
    found = ObjectStore(uri.split("/")[2]).get("version")
    assert found is not None
    version = found[0].decode()
    _, etag = pointer.state(store, "sentiment")
    pointer.write(store, Pointer("sentiment", number, version, uri), etag)
    return version
