"""The model server: a model, loaded and warm, behind KServe's protocols, with Everbert's logs."""

import gc
import logging
import os
import socket
import warnings

import torch
from fastapi.exceptions import FastAPIDeprecationWarning

from components import logs
from components.config import ServingSettings
from components.errors import ResourceError
from serving.follower import Follower, Lookout, first
from serving.kserve_server import Server, app
from serving.page import add_page
from serving.payload_log import PayloadLog
from serving.predictor import SentimentPredictor


def serve(
    model: str, name: str, http_port: int, grpc_port: int, settings: ServingSettings, *, page: bool = False
) -> None:
    """Serve until SIGTERM, V1 and V2 on `http_port`, gRPC V2 on `grpc_port`, on all interfaces.

    `model` is a model folder, loaded once, or s3://BUCKET/models/NAME, whose champion is followed. With `page`, a page
    for people at `/`.
    Raises ResourceError (a port is taken), ModelFolderError, StorageError, SettingsError (of the payload log); nothing
    listens before the model is warm.
    """
    logs.configure()
    _quiet()
    _check_ports(http_port, grpc_port)
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    payload_log = PayloadLog.started(settings)
    classifier, champion = first(model)
    predictor = SentimentPredictor(name, classifier, settings, payload_log)
    if page:
        add_page(app, predictor, settings)
    if champion is not None:
        Follower(Lookout(model, champion), predictor.replace, settings.poll_seconds).start()
    logs.event(
        "serving", model=name, model_version=classifier.version, http_port=http_port, grpc_port=grpc_port,
        engine=classifier.engine.description,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what stays to the end: full collections went through it all, for a quarter of a second
    Server(http_port, grpc_port, settings.maximum_megabytes).start([predictor])
    predictor.close()
    logs.event("stopped", model=name)


def _check_ports(*ports: int) -> None:
    # gRPC shares a port that another server already has without a word, so look before loading anything.
    if len(set(ports)) < len(ports):
        raise ResourceError(f"HTTP and gRPC cannot both use port {ports[0]}; give two different ports")
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104  as kserve does
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or "not a port"
                raise ResourceError(f"cannot listen on port {port} ({reason}); choose another") from error


def _quiet() -> None:
    """What libraries warn of goes to Everbert's log; kserve's and uvicorn's access and latency lines go nowhere."""
    warnings.filterwarnings("ignore", category=FastAPIDeprecationWarning)  # of what kserve does
    logging.captureWarnings(True)
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:] = logging.getLogger("everbert").handlers
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        logger.addFilter(_name_the_error)


def _name_the_error(record: logging.LogRecord) -> bool:
    """Log an exception's type and not its message: a library may put the text of a review there."""
    if record.exc_info and record.exc_info[0] is not None:
        record.fields = {"error": record.exc_info[0].__name__}
        record.msg, record.args = "request failed", ()
    return True
