"""What a user can get wrong, through the real command: exit 2, one line that says it, nothing half-written."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command_process import assert_refused, everbert

from components.classifier.model_folder import DESCRIPTION, REFERENCE
from components.storage import ObjectStore
from pipelines.local_services import free_port

pytestmark = pytest.mark.slow

CLOSED = "http://127.0.0.1:9"
ROWS = [f"{('bad', 'good')[n % 2]} film {n * 7919**3} by {n * 104729**3},{n % 2}" for n in range(1, 61)]


def table(path: Path, header: str = "text,label", rows: list[str] = ROWS) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("id,body,label", ["1,good,1"], "no text column (text or review or reviews); its columns are id, body, label"),
        ("text,label", ["good,great", "bad,awful"], "labels seen: awful, great; the label set is 0 (Negative), 1 (Pos"),
        ("text,label", [row for row in ROWS if row.endswith("1")], "every row has the label Positive"),
        ("text,label", ROWS[:8], "fewer than 10"),
        ("text,label", [], "no usable row"),
    ],
    ids=["no text column", "unknown labels", "one class", "too few rows", "no rows"],
)
def test_a_table_that_gives_no_data_set(tmp_path: Path, header: str, rows: list[str], said: str) -> None:
    source = table(tmp_path / "reviews.csv", header, rows)
    assert_refused(everbert("prepare", "--source", source, "--output", tmp_path / "out" / "data"), said)
    assert not list((tmp_path / "out").iterdir())


def test_places_without_reviews(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, said in (("none.csv", "does not exist"), ("empty", "holds no reviews")):
        assert_refused(everbert("prepare", "--source", tmp_path / place, "--output", tmp_path / "data"), said)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_an_output_that_is_somebody_elses_folder(tmp_path: Path) -> None:
    source = table(tmp_path / "reviews.csv")
    assert_refused(everbert("prepare", "--source", source, "--output", tmp_path), "choose another --output")
    assert [path.name for path in tmp_path.iterdir()] == ["reviews.csv"]


@pytest.fixture(params=["no model", "pickle", "added file", "tampered reference", "tampered reference, resealed"])
def bad_model(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[Path, str]:
    """(a folder that must not be loaded, what the refusal says)."""
    folder = tmp_path / "model"
    if request.param == "no model":
        folder.mkdir()
        return folder, f"holds no {DESCRIPTION}"
    shutil.copytree(tiny_model, folder)
    if request.param == "pickle":
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        return folder, "pytorch_model.bin is a pickle"
    if request.param == "added file":
        (folder / "special_tokens_map.json").write_text('{"cls_token": "[SEP]", "sep_token": "[CLS]"}', "utf-8")
        return folder, "special_tokens_map.json was added after training"
    (folder / REFERENCE).write_bytes((folder / REFERENCE).read_bytes()[:-100])
    if request.param == "tampered reference":
        return folder, f"{REFERENCE} was changed after training"
    description = folder / DESCRIPTION
    description.write_text(description.read_text(encoding="utf-8").replace('"temperature": 1.5', '"temperature": 9.5'))
    return folder, f"{DESCRIPTION} was changed after training"


def test_a_folder_that_is_not_a_model_as_it_was_trained(bad_model: tuple[Path, str], tmp_path: Path) -> None:
    folder, said = bad_model
    current = table(tmp_path / "current.csv")
    assert_refused(everbert("drift", "--model", folder, "--current", current, "--report", tmp_path / "report"), said)
    assert not (tmp_path / "report").exists()


def test_every_command_that_takes_a_model_refuses_one_with_a_pickle(tiny_model: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "model", "weights.pkl is a pickle"
    shutil.copytree(tiny_model, folder)
    (folder / "weights.pkl").write_bytes(b"anything")
    source, data, output = table(tmp_path / "in.csv"), tmp_path / "data", tmp_path / "out"
    assert everbert("prepare", "--source", source, "--output", data, "--minimum-rows", "1").code == 0
    commands = (
        ("predict", "--model", folder, "--input", source, "--output", output),
        ("evaluate", "--model", folder, "--data", data),
        ("evaluate", "--model", tiny_model, "--champion", folder, "--data", data),
        ("train", "--data", data, "--output", output, "--warm-start", folder),
        ("train", "--data", data, "--output", output, "--base-model", folder),
        ("serve", "--model", folder, "--http-port", str(free_port()), "--grpc-port", str(free_port())),
    )
    with ThreadPoolExecutor(2) as pool:
        for answer in pool.map(lambda arguments: everbert(*arguments), commands):
            assert_refused(answer, said)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "in.csv", "data"}


def test_a_base_model_that_is_not_one(tmp_path: Path) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    source = table(tmp_path / "in.csv")
    assert everbert("prepare", "--source", source, "--output", data, "--minimum-rows", "1").code == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}", encoding="utf-8")
    cases = ((data, "holds no config.json"), (broken, "cannot load the base model"), ("./no", "no base model folder"))
    for base, said in cases:
        assert_refused(everbert("train", "--data", data, "--output", output, "--base-model", base), said)
    assert not output.exists()


@pytest.fixture
def calls(tiny_model: Path, tmp_path: Path) -> list[tuple[str | Path, ...]]:
    """Each way to the object store, to the bucket `nowhere`."""
    ports = ("--http-port", str(free_port()), "--grpc-port", str(free_port()))
    return [
        ("batch", "--model", tiny_model, "--bucket", "s3://nowhere"),
        ("prepare", "--source", "s3://nowhere/reviews.csv", "--output", tmp_path / "data"),
        ("prepare", "--source", "s3://nowhere/reviews/", "--output", tmp_path / "data"),
        ("serve", "--model", "s3://nowhere/models/sentiment", *ports),
    ]


def test_an_object_store_that_is_down(
    calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"ENDPOINT_URL": CLOSED, "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for arguments in calls:
        started = time.monotonic()
        assert_refused(everbert(*arguments), f"the object store {CLOSED} does not answer")
        assert time.monotonic() - started < 30  # about 15 on a machine with nothing else to do
    assert not list(tmp_path.iterdir())


def test_an_object_store_that_refuses(
    calls: list[tuple[str, ...]], bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for arguments in calls:
        assert_refused(everbert(*arguments), "there is no bucket 'nowhere'")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    for arguments in calls:
        mine = [str(argument).replace("s3://nowhere", f"s3://{bucket.bucket}") for argument in arguments]
        assert_refused(everbert(*mine), "refused the credentials")
    assert not list(tmp_path.iterdir())


def test_a_prefix_for_a_bucket_is_not_dropped_without_a_word(tmp_path: Path) -> None:
    answer = everbert("report", "--bucket", "s3://reviews/team-a", "--output", tmp_path / "report")
    assert_refused(answer, "s3://reviews/team-a names a prefix, and Everbert needs a bucket of its own: give s3://rev")
    assert not list(tmp_path.iterdir())


def test_an_object_that_is_not_there(bucket: ObjectStore, tmp_path: Path) -> None:
    answer = everbert("prepare", "--source", bucket.uri("reviews.csv"), "--output", tmp_path / "data")
    assert_refused(answer, f"there is nothing under {bucket.uri('reviews.csv')}")


@pytest.mark.parametrize("kind", ["http", "grpc"])
def test_a_port_that_is_taken(tiny_model: Path, kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"http": free_port(), "grpc": free_port()} | {kind: port}
        flags = [word for name, number in ports.items() for word in (f"--{name}-port", str(number))]
        assert_refused(everbert("serve", "--model", tiny_model, *flags), f"port {port}")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own of that size; the test is skipped where none can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    source = table(tmp_path / "in.csv", rows=[f"film {n**70 + 3**400},{n % 2}" for n in range(1, 801)])
    data = tmp_path / "data"
    assert everbert("prepare", "--source", source, "--output", data, "--near-duplicate-similarity", "1").code == 0
    with small_disk(tmp_path / "disk", "64k") as disk:
        for arguments in (
            ("prepare", "--source", source, "--near-duplicate-similarity", "1", "--output", disk / "data"),
            ("predict", "--model", tiny_model, "--input", source, "--output", disk / "out.csv"),
            ("train", "--data", data, "--base-model", tiny_model, "--epochs", "1", "--output", disk / "model"),
            ("compile", "--output", disk / "deep" / "pipeline.yaml"),
        ):
            (disk / "filler").write_bytes(b"x" * 2000) if arguments[0] != "compile" else fill(disk)
            answer = everbert(*arguments)
            assert answer.code == 2, answer.stderr
            *logged, last = answer.stderr.strip().splitlines()
            assert last.startswith("everbert: "), answer.stderr
            assert "No space left on device" in last
            assert all(line.startswith("{") for line in logged), answer.stderr
            assert not [path for path in disk.rglob("*") if path.is_file() and path.name != "filler"]


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
