"""The object store and MLflow of one machine, together: for `everbert run`, and for a loop on data of one's own."""

import contextlib
import fcntl
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from components.errors import ResourceError
from components.storage import ObjectStore
from pipelines.local_services import OF_ANOTHER_STORE, mlflow_server, no_survivors, object_store, reaching

BUCKET = "everbert"
# Not whatever begins with AWS_: the shell's own session token is nobody else's business.
_REACHED_BY = (
    "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "MLFLOW_TRACKING_URI",
)  # fmt: skip


@contextlib.contextmanager
def services(folder: Path) -> Iterator[tuple[ObjectStore, str]]:
    """The bucket and MLflow's address, whose data are in `folder`, with all that reaches them in the environment.

    Both run for as long as the block does. Raises ResourceError if one does not start.
    """
    print("start the object store and MLflow ...", file=sys.stderr, flush=True)
    with object_store(folder / "store") as s3, reaching(s3.environment):
        store = ObjectStore(BUCKET)
        store.create_bucket()
        with mlflow_server(folder / "mlflow", f"s3://{BUCKET}/models", s3.environment) as url:
            os.environ["MLFLOW_TRACKING_URI"] = url
            yield store, url


@contextlib.contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Nobody else has the folder for as long as the block runs. Raises ResourceError if somebody has."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResourceError(f"another run uses {work}; stop it, or choose another --work-dir") from error
        yield


def stay_up(work: Path) -> None:
    """`everbert services`: until Ctrl-C or SIGTERM, with data that outlive it in `work`/services.

    Raises ResourceError if it is up already, or does not start.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has it ignore the first, with &
        signal.signal(number, signal.default_int_handler)
    folder = (work / "services").resolve()
    with alone_in(folder), no_survivors(), services(folder) as (store, url), _environment_file(folder) as path:
        lines = [f"  S3      {os.environ['AWS_ENDPOINT_URL']}, bucket s3://{store.bucket}", f"  MLflow  {url}"]
        lines += ["", f"In another shell: . {shlex.quote(str(path))}", "Ctrl-C stops both; what they hold stays."]
        print("\n".join(lines), file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


@contextlib.contextmanager
def _environment_file(folder: Path) -> Iterator[Path]:
    """What a shell needs to reach the services, in a file for this user alone that goes when they stop."""
    path = folder / "environment"
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(f"unset {' '.join(OF_ANOTHER_STORE)}\n")
        file.writelines(f"export {name}={shlex.quote(os.environ[name])}\n" for name in _REACHED_BY)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
