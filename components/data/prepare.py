"""prepare: from raw labelled texts to a data set folder."""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.classifier.labels import LabelSet
from components.config import DataSettings
from components.data.data_set import DATASET_FILE, QUARANTINE_FILE, SCHEMA, SPLITS
from components.data.duplicates import near_duplicates
from components.data.intake import Quarantine, spool_replay, spool_sources
from components.data.splits import TEST, TRAIN, assign, replay_sample
from components.data.spool import Spool
from components.errors import DataError
from components.files import new_folder, write_json

DROPPED = -1
KEPT, EXACT, NEAR, LEAK, CONFLICT = range(5)  # why a row was removed, if it was
Numbers = dict[str, npt.NDArray]


def prepare(
    sources: Sequence[str], output: Path, settings: DataSettings, *, replay: str | None = None
) -> dict[str, Any]:
    """Clean, deduplicate and split the labelled texts of `sources` into the data set folder `output`.

    sources: paths or s3:// addresses. replay: path or s3:// address of an earlier data set, whose validation and test
    rows stay what they were and whose training rows are sampled in. Returns the content of dataset.json.
    Raises DataError where the sources give no usable data set.
    """
    if not sources:
        raise DataError("no source to prepare; give --source PATH")
    with (
        new_folder(output, DATASET_FILE) as folder,
        tempfile.TemporaryDirectory(prefix=".spool.", dir=folder.parent) as temporary,
        open(folder / QUARANTINE_FILE, "w", encoding="utf-8", newline="") as file,
    ):
        quarantine = Quarantine(file)
        spool = Spool(Path(temporary) / "rows.parquet", settings.seed)
        with contextlib.closing(spool):
            replayed = spool_replay(spool, replay, settings) if replay else ""
            spool_sources(spool, sources, settings, quarantine)
        numbers = spool.numbers()
        splits, removed = _decide(spool, numbers, settings)
        _quarantine_conflicts(spool, removed == CONFLICT, quarantine)
        _check(numbers, splits, settings)
        digest, counts, new_rows = _write(spool, splits, numbers["old"], folder, settings.labels)
        description = {
            "digest": digest,
            "labels": list(settings.labels),
            "counts": counts,
            "new_rows": new_rows,
            "class_balance": _balance(counts, settings),
            "duplicates_removed": {
                name: int((removed == why).sum()) for name, why in (("exact", EXACT), ("near", NEAR), ("leaks", LEAK))
            },
            "quarantined": dict(sorted(quarantine.counts.items())),
            "replay": replayed,
            "settings": dataclasses.asdict(settings) | {"labels": list(settings.labels)},
        }
        write_json(folder / DATASET_FILE, description)
    return description


def _decide(spool: Spool, n: Numbers, settings: DataSettings) -> tuple[npt.NDArray, npt.NDArray]:
    """(split of each row or DROPPED, why it was removed or KEPT)."""
    removed = np.full(len(spool), KEPT, dtype=np.int8)
    # Who stays among duplicates: trusted labels before pseudo-labels; of these replayed rows, then test, validation and
    # training rows; then by content.
    order = np.lexsort((n["content"], n["order"], -n["given"], ~n["old"], n["pseudo"]))
    _mark_exact(n, order, removed)
    _mark_near(spool, n.pop("bands"), n["old"] & ~n["pseudo"], order[removed[order] == KEPT], removed, settings)
    del order
    _mark_leaks(n, removed)
    kept = np.flatnonzero(removed == KEPT)
    splits = np.full(len(spool), DROPPED, dtype=np.int8)
    shares = (settings.validation_share, settings.test_share)
    new = kept[~n["old"][kept]]
    splits[new] = assign(n["label"][new], n["source"][new], n["given"][new], ~n["pseudo"][new], n["order"][new], shares)
    old = np.flatnonzero(n["old"] & (removed == KEPT))
    splits[old[n["given"][old] != TRAIN]] = n["given"][old[n["given"][old] != TRAIN]]
    old = old[n["given"][old] == TRAIN]
    wanted = round(settings.replay_ratio * int((splits[new] == TRAIN).sum()))
    splits[old[replay_sample(n["label"][old], n["source"][old], n["order"][old], wanted)]] = TRAIN
    return splits, removed


def _mark_near(
    spool: Spool,
    bands: npt.NDArray,
    stays: npt.NDArray,
    left: npt.NDArray,
    removed: npt.NDArray,
    settings: DataSettings,
) -> None:
    """Of rows that nearly have the same text, all but the first in `left` go, except those that stay in any case."""

    def texts(places: npt.NDArray) -> dict[int, str]:
        content = spool.texts(np.sort(left[places]))
        return {place: content[int(left[place])] for place in places.tolist()}

    if settings.near_duplicate_similarity < 1:
        near = near_duplicates(bands, left, stays[left], texts, settings.near_duplicate_similarity)
        removed[left[near]] = NEAR


def _mark_exact(n: Numbers, order: npt.NDArray, removed: npt.NDArray) -> None:
    """Copies of a text with one label: all but the first go. With several labels: every new copy goes.

    A pseudo-label contradicts nobody: beside another label it is a copy too many.
    """
    rows = order[np.argsort(n["text"][order], kind="stable")]
    text, label, new = n["text"][rows], n["label"][rows], ~n["old"][rows]
    trusted = new & ~n["pseudo"][rows]
    first = np.r_[True, text[1:] != text[:-1]]
    starts = np.flatnonzero(first)
    low = np.minimum.reduceat(np.where(trusted, label, np.iinfo(np.int32).max), starts)
    high = np.maximum.reduceat(np.where(trusted, label, -1), starts)
    several = np.repeat(high > low, np.diff(np.append(starts, len(rows))))
    removed[rows[~first]] = EXACT
    removed[n["old"] & ~n["pseudo"]] = KEPT
    removed[rows[new & several]] = CONFLICT


def _mark_leaks(n: Numbers, removed: npt.NDArray) -> None:
    """An exact copy of a row that the sources hold out for the test would have leaked into training."""
    held_out = np.unique(n["text"][(n["given"] > TRAIN) & (removed == KEPT)])
    copies = np.flatnonzero((removed == EXACT) & (n["given"] < 0))
    removed[copies[np.isin(n["text"][copies], held_out)]] = LEAK


def _quarantine_conflicts(spool: Spool, conflict: npt.NDArray, quarantine: Quarantine) -> None:
    for start, table in spool.chunks():
        for row in table.filter(pa.array(conflict[start : start + len(table)])).to_pylist():
            quarantine.add(row["file"], row["row"], "the same text has different labels", row["text"])


def _check(n: Numbers, splits: npt.NDArray, settings: DataSettings) -> None:
    labels = LabelSet(settings.labels)
    if not ((splits != DROPPED) & ~n["old"]).any():
        raise DataError("no new row is left: each is a duplicate or has several labels; add other sources")
    present = np.unique(n["label"][splits != DROPPED])
    if len(present) == 1:
        raise DataError(
            f"every row has the label {labels.names[present[0]]}; a classifier needs rows of each: {labels}"
        )
    for number, split in enumerate(SPLITS):
        if split == "test" and settings.test_share == 0 and not (splits == TEST).any():
            continue
        for label, name in labels.id2label.items():
            rows = int(((splits == number) & (n["label"] == label)).sum())
            if rows < settings.minimum_rows:
                raise DataError(
                    f"the {split} split has {rows} rows with the label {name}, fewer than {settings.minimum_rows}; "
                    "add rows of this label or lower --minimum-rows"
                )


def _write(
    spool: Spool, splits: npt.NDArray, old: npt.NDArray, folder: Path, labels: Sequence[str]
) -> tuple[str, dict[str, Any], dict[str, int]]:
    """Write the three Parquet files; returns the digest of their rows (in any order) and of what the labels are called,
    counts by split, and how many rows of each label source are new, so not replayed."""
    hashes, new = bytearray(), Counter[str]()
    counted = ("label", "source", "label_source")
    counts: dict[str, dict[str, Counter[str]]] = {s: {k: Counter() for k in counted} for s in SPLITS}
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(pq.ParquetWriter(folder / f"{s}.parquet", SCHEMA, compression="zstd")) for s in SPLITS
        ]
        for start, table in spool.chunks():
            here = slice(start, start + len(table))
            kept_new = pa.array((splits[here] != DROPPED) & ~old[here])
            new.update(table.column("label_source").filter(kept_new).to_pylist())
            for number, split in enumerate(SPLITS):
                mine = pa.array(splits[here] == number)
                rows = table.select(SCHEMA.names).filter(mine)
                if len(rows):
                    files[number].write_table(rows)
                    hashes += b"".join(_hashes(split, rows))
                    for column, counter in counts[split].items():
                        counter.update(map(str, rows.column(column).to_pylist()))
    digest = hashlib.sha256(json.dumps(list(labels)).encode() + np.sort(np.frombuffer(hashes, "S32")).tobytes())
    shown = {
        split: {"rows": sum(c["label"].values()), **{k: dict(sorted(v.items())) for k, v in c.items()}}
        for split, c in counts.items()
    }
    return digest.hexdigest(), shown, dict(sorted(new.items()))


def _hashes(split: str, rows: pa.Table) -> Iterator[bytes]:
    for row in rows.to_pylist():
        yield hashlib.sha256("\0".join([split, *map(str, row.values())]).encode()).digest()


def _balance(counts: dict[str, Any], settings: DataSettings) -> dict[str, float]:
    """Share of each label in the training rows, by name."""
    labels, rows = counts["train"]["label"], counts["train"]["rows"]
    return {name: round(labels.get(str(i), 0) / max(rows, 1), 4) for i, name in enumerate(settings.labels)}
