"""batch: score the objects of an S3 prefix, keeping the inputs beside the predictions, every row exactly once.

Each chunk of an object becomes a part of its own as soon as it is scored; the outputs are put together from the
parts; the manifest comes last. A worker may die anywhere, and several may be at the same object: the next one scores
the chunks that have no part, and ends with the same bytes.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from components import logs
from components.batch import outputs, parts
from components.batch.outputs import Output
from components.batch.sample import Draw, Sample
from components.batch.tables import PARQUET, Refused, chunks, is_zipped, kind_of
from components.batch.versions import BatchResult, Version
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.errors import ConflictError, DataError, InputError, OvertakenError
from components.files import new_file
from components.progress import progress
from components.storage import ObjectStore

_ATTEMPTS = 5


@dataclass(frozen=True)
class Share:
    """Which chunks of every object are this worker's: of each `count` chunks the one with `number`, from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Share":
        """From "2/8". Raises InputError."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise InputError(f"a share is I/N, with I from 1 to N, not {text!r}")
        return cls(int(number), int(count))

    def has(self, chunk: int) -> bool:
        return chunk % self.count == self.number - 1


ALL = Share()


def score_object(
    store: ObjectStore, key: str, classifier: Classifier, settings: BatchSettings, share: Share = ALL
) -> BatchResult:
    """Score one object: predictions/, quarantine/ if rows were set aside, the kept embeddings, then the manifest.

    With a share of it, whoever scores the last missing chunk writes all that.

    Raises DataError if the object is gone or cannot be read as a table with texts, which stands in quarantine/ then;
    ConflictError if it was replaced again and again meanwhile; once, and it starts again. OvertakenError, at once, if
    another model's predictions came in between.
    """
    reason = ""
    for _ in range(_ATTEMPTS):
        item = store.head(key)
        if item is None:
            raise DataError(f"there is no object {store.uri(key)}")
        version = Version(store, item, classifier, settings)
        done = version.done()
        if done:
            return done
        try:
            return _score_version(version, classifier, settings, share)
        except OvertakenError:
            raise
        except ConflictError as error:
            logs.warning("batch_starts_again", source=key, reason=str(error))
            reason = str(error)
    raise ConflictError(f"{store.uri(key)} could not be scored in {_ATTEMPTS} attempts: {reason}")


def _score_version(version: Version, classifier: Classifier, settings: BatchSettings, share: Share) -> BatchResult:
    with tempfile.TemporaryDirectory(prefix="everbert-") as name:
        folder = Path(name)
        version.store.download_version(version.item.key, version.item.etag, folder / "input")
        try:
            count = _score_missing(version, folder / "input", classifier, settings, share)
        except DataError as error:
            _refuse(version, folder / "reasons", str(error))
            raise
        (folder / "input").unlink()
        missing = version.parts.missing(count)
        if missing and share != ALL:
            left = BatchResult(version.item.key, "", 0, 0, version.model_version, missing=missing)
            return version.done() or left  # parts are gone when somebody else has finished it
        result = _publish(version, count, folder, settings)
    version.commit({"parts": count, "result": asdict(result)})
    logs.event("batch_scored", **asdict(result), engine=classifier.engine.description)
    return result


def _score_missing(version: Version, path: Path, classifier: Classifier, settings: BatchSettings, share: Share) -> int:
    """Score the chunks of the share that have no part yet; how many chunks there are in all."""
    draw, store, written, number = Draw(settings.embedding_rows), version.store, version.parts, 0
    key = version.item.key
    with progress(description="score", unit="row") as bar:
        for chunk in chunks(path, store.uri(key), settings.chunk_rows):
            drawn = draw.next(chunk.texts)
            if share.has(number) and not written.has(number):
                part = parts.score(chunk, drawn, classifier, key, version.output, first=number == 0)
                written.write(number, part)
            number += 1
            bar.update(len(chunk.texts) + len(chunk.refused))
    return number


def _publish(version: Version, count: int, folder: Path, settings: BatchSettings) -> BatchResult:
    """Put the outputs together from the parts, and where they belong."""
    kept, rows, quarantined = Sample(settings.embedding_rows), 0, 0
    output, reasons = folder / "output", folder / "reasons"
    with Output(output, version.output) as good, open(reasons, "wb") as bad:
        bad.write(outputs.QUARANTINE_HEADER)
        for part in version.parts.read(count):
            good.write(part.output)
            bad.write(part.quarantine)
            kept.add(part.kept)
            rows, quarantined = rows + part.rows, quarantined + part.quarantined
    if quarantined or version.store.head(version.quarantine):
        version.publish(reasons, version.quarantine)
    version.publish(output, version.predictions)
    kept.save(version.store, version.embeddings)  # of this very forward pass, for the drift check
    return BatchResult(
        version.item.key, version.predictions, rows, quarantined, version.model_version, version.embeddings
    )


def _refuse(version: Version, path: Path, reason: str) -> None:
    """The whole object goes to quarantine, once."""
    line = outputs.quarantined([Refused(0, reason, "")], version.item.key)
    path.write_bytes(outputs.QUARANTINE_HEADER + line)
    version.publish(path, version.quarantine)
    version.commit({"refused": reason})
    logs.warning("batch_refused", source=version.item.key, reason=reason)


def score_file(
    source: Path, output: Path, classifier: Classifier, settings: BatchSettings, column: str = ""
) -> BatchResult:
    """Score a CSV or Parquet file on disk; rows that cannot be scored go to `output` + ".quarantine.csv".

    Raises DataError.
    """
    if not source.is_file():
        raise DataError(f"there is no file {source}")
    if kind_of(output.name) == PARQUET and is_zipped(output.name):
        raise DataError(
            f"{output} would not be zipped, as Parquet compresses by itself; name it {output.with_suffix('')}"
        )
    quarantine = output.with_name(f"{output.name}.quarantine.csv")
    rows = quarantined = 0
    with (
        new_file(output) as good,
        new_file(quarantine) as bad,
        Output(good, output.name) as file,
        open(bad, "wb") as reasons,
    ):
        reasons.write(outputs.QUARANTINE_HEADER)
        for number, chunk in enumerate(chunks(source, str(source), settings.chunk_rows, column)):
            drawn = Draw(0).next(chunk.texts)
            part = parts.score(chunk, drawn, classifier, source.name, output.name, first=number == 0)
            file.write(part.output)
            reasons.write(part.quarantine)
            rows, quarantined = rows + part.rows, quarantined + part.quarantined
    if not quarantined:
        quarantine.unlink()
    return BatchResult(str(source), str(output), rows, quarantined, classifier.version)
