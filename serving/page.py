"""A page for people at `/`: type a text and see what the model says of it; hand in a table and get it back scored."""

import asyncio
import re
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import jinja2

import serving.kserve_import  # noqa: F401  kserve reads sys.argv when it is imported

from fastapi import FastAPI, Request  # isort: skip
from fastapi.responses import HTMLResponse, JSONResponse, Response  # isort: skip

from components import logs, report
from components.batch.score import score_file
from components.batch.tables import PARQUET, kind_of, stem_of
from components.classifier.classifier import Classifier
from components.classifier.engine import Scores
from components.config import BatchSettings, ServingSettings
from components.errors import DataError
from serving.batcher import MicroBatcher
from serving.observation import UPLOAD
from serving.predictor import SentimentPredictor
from serving.queued import QueueFullError

_POLICY = (  # the page needs nothing from anywhere, so it may have nothing from anywhere
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MOST_LETTERS = 40  # of a file's name: they may take four bytes each, and a name 255
_LOOK_SECONDS = 0.1  # how often it is seen whether the client is still there
_CHUNK_ROWS = 64  # a request of its own each, so that a large table takes turns with the others


def add_page(app: FastAPI, predictor: SentimentPredictor, settings: ServingSettings) -> None:
    """Put the page into the application, before kserve puts its own answer at the same place."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(resources.files("serving").joinpath("page.html").read_text("utf-8"))
    one_at_a_time = asyncio.Lock()

    async def page() -> HTMLResponse:
        filled = template.render(
            name=predictor.name, version=predictor.classifier.version, megabytes=settings.page_megabytes,
            characters=settings.maximum_characters, style=report.style(),
        )  # fmt: skip
        return HTMLResponse(filled, headers={"Content-Security-Policy": _POLICY})

    async def score_table(request: Request, name: str) -> Response:
        try:
            with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
                source = Path(folder) / _plain(name)
                await _save(request.stream(), source, settings.page_megabytes)
                async with one_at_a_time:
                    return await _scored_while_wanted(source, predictor, request)
        except DataError as error:
            return JSONResponse({"error": str(error).replace(f"{folder}/", "")}, status_code=400)

    app.add_api_route("/", page, methods=["GET"], response_model=None)
    app.add_api_route(UPLOAD, score_table, methods=["POST"], response_model=None)


class _Queued(Classifier):
    """A classifier whose texts are scored in the model server's batches, in turn with everybody else's."""

    def __init__(self, classifier: Classifier, batcher: MicroBatcher, given_up: threading.Event) -> None:
        super().__init__(classifier.engine, classifier.labels, classifier.description, classifier.folder)
        self._served, self._batcher, self._given_up = classifier, batcher, given_up

    def score(self, texts: Sequence[str], *, description: str = "") -> Scores:
        while True:
            if self._given_up.is_set():
                raise DataError("nobody waits for the table any more")
            try:
                return self._batcher.submit(self._served, texts).result().scores
            except QueueFullError as error:
                time.sleep(error.retry_after)


async def _scored_while_wanted(source: Path, predictor: SentimentPredictor, request: Request) -> Response:
    """`_scored` in a thread, which ends with the chunk in hand when the client leaves or the server stops."""
    given_up = threading.Event()
    work = asyncio.ensure_future(asyncio.to_thread(_scored, source, predictor, given_up))
    try:
        while not (await asyncio.wait({work}, timeout=_LOOK_SECONDS))[0]:
            if await request.is_disconnected():
                given_up.set()
        return work.result()
    finally:
        given_up.set()
        await asyncio.wait({work})  # it writes into a folder that goes next


def _plain(name: str) -> str:
    """A file name of harmless characters that ends as `name` does. Raises DataError if that is no table's end."""
    if not kind_of(name):
        raise DataError(f"{name[:80]} is neither CSV nor Parquet: its name must end in .csv, .csv.gz or .parquet")
    return re.sub(r"[^\w.-]", "_", name)[-_MOST_LETTERS:].lstrip(".")


async def _save(stream: AsyncIterator[bytes], path: Path, megabytes: int) -> None:
    left = megabytes << 20
    with path.open("wb") as file:
        async for block in stream:
            left -= len(block)
            if left < 0:
                raise DataError(f"the file is larger than {megabytes} MB; use everbert batch for large files")
            file.write(block)


def _scored(source: Path, predictor: SentimentPredictor, given_up: threading.Event) -> Response:
    """The table with its predictions; in a ZIP with the rows that were set aside, if there are any."""
    kind = source.name.removeprefix(stem_of(source.name))
    if kind_of(source.name) == PARQUET:
        kind = kind[: len(PARQUET)]  # it compresses by itself, and is not zipped again
    output = source.with_name(f"{stem_of(source.name)}.scored{kind}")
    classifier = _Queued(predictor.classifier, predictor.batcher, given_up)
    result = score_file(source, output, classifier, BatchSettings(chunk_rows=_CHUNK_ROWS))
    if result.quarantined:
        quarantine = output.with_name(f"{output.name}.quarantine.csv")
        parts, output = (output, quarantine), source.with_name(f"{stem_of(source.name)}.scored.zip")
        with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as together:
            for part in parts:
                together.write(part, part.name)
    logs.event("table scored", rows=result.rows, quarantined=result.quarantined, model_version=result.model_version)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(output.name)}", "X-Rows": str(result.rows),
        "X-Quarantined": str(result.quarantined), "X-Model-Version": result.model_version,
    }  # fmt: skip
    return Response(output.read_bytes(), media_type="application/octet-stream", headers=headers)
