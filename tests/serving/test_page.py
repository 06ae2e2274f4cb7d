"""The page of `everbert serve --page` in a real browser, against the real server.

Needs a Chromium on the machine (Debian: apt-get install chromium); without one these tests are skipped, and say so.
"""

import gzip
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import chromium
import pandas as pd
import pyarrow.parquet as pq
import pytest
import requests
from server_process import Server, running, wait_until
from test_pages import TEXTS

from components.classifier.classifier import PREDICTION_COLUMNS, Classifier

pytestmark = pytest.mark.slow

REVIEWS = ["a fine film", "dull, and long", "so <b>so</b>", "word " * 300]


@pytest.fixture(scope="module")
def server(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log, settings = tmp_path_factory.mktemp("server") / "log", '{"threads": 1, "page": true, "page_megabytes": 1}'
    with running(str(small_model), log, settings) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    program = chromium.found()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(chromium.NAMES)} is on the path")
    with chromium.tab(program, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def tab(browser: chromium.Tab, server: Server) -> chromium.Tab:
    browser.show(f"{server.url}/", 1280, "light")
    return browser


def words(tab: chromium.Tab, name: str) -> str:
    return tab.ask(f"document.getElementById('{name}').innerText")


def classify(tab: chromium.Tab, text: str) -> None:
    tab.ask(f"document.getElementById('text').value = {text!r}")
    tab.ask("document.querySelector('#one button').click()")
    wait_until(lambda: not tab.ask("document.querySelector('#one button').disabled"), 20)


def hand_in(tab: chromium.Tab, path: Path) -> None:
    found = tab.call("Runtime.evaluate", expression="document.getElementById('file')")["result"]
    tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])
    tab.ask("document.querySelector('#many button').click()")
    wait_until(lambda: not tab.ask("document.querySelector('#many button').disabled"), 60)


def download(tab: chromium.Tab, name: str, folder: Path) -> Path:
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    tab.ask("document.getElementById('download').click()")
    wait_until(lambda: (folder / name).is_file(), 20)
    return folder / name


@pytest.mark.parametrize("text", [REVIEWS[0], REVIEWS[1], REVIEWS[3]])
def test_a_text_gets_label_confidence_and_version(tab: chromium.Tab, small_model: Path, text: str) -> None:
    classifier = Classifier.load(small_model)
    (expected,) = classifier.predict([text])
    classify(tab, text)
    assert words(tab, "label") == expected.predicted_sentiment
    assert float(words(tab, "confidence").removesuffix(" %")) == pytest.approx(
        100 * expected.confidence_score, abs=0.06
    )
    assert words(tab, "version").startswith(f"version {expected.model_version}")
    assert ("windows" in words(tab, "version")) == (expected.windows > 1)
    assert ("abstains" in words(tab, "abstained")) == expected.abstained
    assert words(tab, "classes").split()[::3] == ["Negative", "Positive"]
    assert tab.problems == []


def test_a_table_comes_back_with_predictions(tab: chromium.Tab, small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    pd.DataFrame({"id": range(200), "review": REVIEWS * 50}).to_csv(path, index=False)
    hand_in(tab, path)
    classifier = Classifier.load(small_model)
    assert words(tab, "done") == f"200 rows scored by version {classifier.version}."
    scored = pd.read_csv(download(tab, "reviews.scored.csv", tmp_path))
    assert list(scored) == ["id", "review", *PREDICTION_COLUMNS]
    assert scored["review"].tolist() == REVIEWS * 50
    assert scored["predicted_label"].tolist() == [p.predicted_label for p in classifier.predict(REVIEWS)] * 50
    assert tab.problems == []


def test_rows_that_were_set_aside_come_back_too(tab: chromium.Tab, tmp_path: Path) -> None:
    path = tmp_path / "some bad.csv"
    path.write_text("text,stars\ngood,5\n,3\nbad,1\n")
    hand_in(tab, path)
    assert "2 rows scored" in words(tab, "done")
    assert "1 set aside" in words(tab, "done")
    with zipfile.ZipFile(download(tab, "some_bad.scored.zip", tmp_path)) as both:
        assert both.namelist() == ["some_bad.scored.csv", "some_bad.scored.csv.quarantine.csv"]
        assert both.read("some_bad.scored.csv").startswith(b"text,stars,predicted_label,")
        assert b"no text" in both.read("some_bad.scored.csv.quarantine.csv")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("<img src=x onerror=alert(1)>.txt", "text\ngood\n", "<img src=x onerror=alert(1)>.txt is neither CSV nor"),
        ("stars.csv", "stars\n5\n", "stars.csv"),
        ("large.csv", "text\n" + "good\n" * 300_000, "larger than 1 MB"),
    ],
)
def test_what_is_no_table_of_texts_is_refused_in_words(
    tab: chromium.Tab, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    hand_in(tab, tmp_path / name)
    assert reason in words(tab, "refused")
    assert tempfile.gettempdir() not in words(tab, "refused")
    assert tab.ask("document.getElementById('back').hidden")


def test_the_page_asks_nobody_else(tab: chromium.Tab, server: Server) -> None:
    classify(tab, "good")
    assert tab.requests
    assert all(address.startswith((server.url, "data:")) for address in tab.requests)
    assert tab.problems == []
    policy = requests.get(f"{server.url}/", timeout=10).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read(
    browser: chromium.Tab, server: Server, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.show(f"{server.url}/", width, scheme)
    classify(browser, REVIEWS[3])
    (tmp_path / "reviews.csv").write_text("text\ngood\n")
    hand_in(browser, tmp_path / "reviews.csv")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    texts = browser.ask(TEXTS)
    assert {"Label", "Confidence", "Download reviews.scored.csv"} <= {words for words, _, _ in texts}
    assert [(words, size) for words, size, _ in texts if size < 11] == []
    assert [(words, contrast) for words, _, contrast in texts if contrast < 4.5] == []


def test_a_table_is_named_in_any_script_and_given_up_when_its_client_leaves(server: Server) -> None:
    address = f"{server.url}/page/table"
    named = requests.post(address, params={"name": "評" * 84 + ".csv"}, data=b"text\ngood\n", timeout=30)
    assert named.status_code == 200, named.text
    large = ("text\n" + ("word " * 60 + "\n") * 3000).encode()
    with pytest.raises(requests.ReadTimeout):
        requests.post(address, params={"name": "a.csv"}, data=large, timeout=(5, 0.05))
    # The next one has its turn when the chunk in hand is done, not the whole table.
    assert requests.post(address, params={"name": "b.csv"}, data=b"text\ngood\n", timeout=30).status_code == 200
    scored = [json.loads(line)["rows"] for line in server.log.read_text("utf-8").splitlines() if "table scored" in line]
    assert scored[-1] == 1
    assert 3000 not in scored


def test_a_zipped_parquet_table_comes_back_as_parquet(server: Server) -> None:
    file = io.BytesIO()
    pd.DataFrame({"text": REVIEWS}).to_parquet(file)
    for name in ("a.parquet.gz", "a.PARQUET"):
        content = gzip.compress(file.getvalue()) if name.endswith("gz") else file.getvalue()
        answer = requests.post(f"{server.url}/page/table", params={"name": name}, data=content, timeout=30)
        assert answer.headers["Content-Disposition"].endswith("''a.scored." + name.split(".")[1])
        assert pq.read_table(io.BytesIO(answer.content)).column("text").to_pylist() == REVIEWS
