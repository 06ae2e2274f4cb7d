"""The drift report: a page for a reader, JSON for a program, from real tests of real (small) windows."""

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.classifier.labels import LabelSet
from components.config import DriftSettings, RetrainSettings
from components.drift import reference as drift_reference
from components.drift.detection import detect
from components.drift.harm import assess
from components.drift.policy import Seen, decide, decide_once
from components.drift.reference import DriftReference, HeldOut
from components.drift.report import PastCheck, Report, facts, status, title, write_report

SETTINGS = DriftSettings(components=6, permutations=199)
POLICY = RetrainSettings()
LABELS = LabelSet(["Negative", "Positive"])
HOSTILE = "</li></ul><script>alert(1)</script><img src=x onerror=alert(2)>"
ROWS, MOVED = 80, 2  # rows of the window, and the embedding's column that moves


class Page(html.parser.HTMLParser):
    """What a browser would see: the words of the page, its elements, and whether each one is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words, self.tags, self.attributes, self.open = "", [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += " ".join(data.split()) + "\n" if data.strip() else ""


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 2))
    held_out = HeldOut(
        embeddings=generator.normal(size=(300, 10)),
        logits=logits,
        sources=["movies"] * 150 + ["products"] * 150,
        ids=[f"r{i}" for i in range(300)],
        confidence=np.linspace(0.5, 1, 300),
        correct=np.arange(300) % 5 > 0,
    )
    return drift_reference.fit(generator.normal(size=(200, 10)), held_out, "abc", SETTINGS)


def window(shift: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings [n, h], logits [n, k] and n texts that name their position in the column that moved."""
    generator = np.random.default_rng(1)
    embeddings, logits = generator.normal(size=(ROWS, 10)), generator.normal(size=(ROWS, 2))
    embeddings[:, MOVED] += shift
    return embeddings, logits, [f"text {i}" for i in range(ROWS)]


def report_of(reference: DriftReference, shift: float = 3.0, **changes: Any) -> Report:
    """One comparison, as `everbert drift` makes it."""
    embeddings, logits, texts = window(shift)
    result = detect(reference, embeddings, logits, SETTINGS)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    harm = assess(reference, LABELS, p, np.where(np.arange(ROWS) < 30, 1, -1))
    return Report(
        verdict=decide_once(result, harm, POLICY),
        labels=LABELS,
        reference=reference,
        result=result,
        current=reference.project(embeddings, logits),
        confidence=p.max(axis=1),
        texts=changes.pop("texts", texts),
        harm=harm,
        name="tweets.csv",
        model_version="8bb587d97e3f",
        **changes,
    )


def stream_of(reference: DriftReference, seen: dict[str, Any], **changes: Any) -> Report:
    """A check of a stream, as `everbert check` makes it."""
    alone = report_of(reference)
    assert alone.result
    result, harm = alone.result, alone.harm
    known = Seen(
        texts=2854, windows_counted=14, rows_waiting=54, window_size=200, evidence=1.2e9, bar=876_000.0,
        p_value=result.p_value, effect_size=result.effect_size, effect_interval=result.effect_interval, harm=harm,
        labelled_rows=600, hours_since_retrain=None, retrains_this_week=0,
    )  # fmt: skip
    known = dataclasses.replace(known, **seen)
    past = [PastCheck(i, f"2026-11-2{i}T05:05:09Z", "quiet", 10.0**i, 0.1**i) for i in range(1, 4)]
    verdict = decide(known, POLICY)
    past.append(PastCheck(4, "2026-11-24T05:05:09Z", verdict.verdict, known.evidence, known.p_value))
    settings = {"history": past, "at": "2026-11-24T05:05:09Z", "seen": known, "verdict": verdict} | changes
    return dataclasses.replace(alone, **settings)


def written(report: Report, folder: Path) -> Page:
    return Page(write_report(folder, report).read_text("utf-8"))


@pytest.fixture(scope="module")
def stream(reference: DriftReference, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """A retrain in a stream, and the folder of its report."""
    report = stream_of(reference, {}, run="check-4", request="s3://b/labels/requested/4.csv")
    return report, write_report(tmp_path_factory.mktemp("stream"), report).parent


def test_one_comparison(reference: DriftReference, tmp_path: Path) -> None:
    report = report_of(reference)
    page = written(report, tmp_path / "new")
    assert not page.open
    assert report.result
    assert report.verdict.verdict == "warn"
    for words in (report.verdict.reason, "The texts have changed", "tweets.csv · 80 texts · model 8bb587d97e3f"):
        assert words in page.words
    for words in ("p = 0.005 for 80 texts", "1 of 200 comparisons", "Nothing by itself", "Slice "):
        assert words in page.words
    assert "The evidence" not in page.words
    assert "Measured: on the 30 current texts" in page.words
    assert "Only labels show those." in page.words
    assert all(f"\n{name}\n" in page.words for name in ("all", "movies", "products"))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["drift.html", "drift.json"]


def test_json_holds_the_verdict_and_the_measurements_and_no_text(stream: tuple[Report, Path]) -> None:
    report, folder = stream
    content = (folder / "drift.json").read_text("utf-8")
    found = json.loads(content)
    assert report.result
    assert report.harm
    assert found["verdict"] == "retrain"
    assert found["reason"] == report.verdict.reason
    assert found["result"]["p_value"] == report.result.p_value
    assert found["result"]["slice_distances"] == report.result.slice_distances
    assert found["harm"]["measured_accuracy"] == report.harm.measured_accuracy
    assert found["seen"]["evidence"] == 1.2e9
    assert [check["number"] for check in found["history"]] == [1, 2, 3, 4]
    assert (found["run"], found["request"]) == ("check-4", "s3://b/labels/requested/4.csv")
    assert "text 7" not in content
    assert found == json.loads(json.dumps(facts(report)))


def test_the_same_report_is_the_same_page(stream: tuple[Report, Path], tmp_path: Path) -> None:
    report, folder = stream
    assert write_report(tmp_path, report).read_bytes() == (folder / "drift.html").read_bytes()


def test_the_slice_that_moved_is_explained_by_texts_from_its_end(reference: DriftReference, tmp_path: Path) -> None:
    report = report_of(reference, reference_texts={f"r{i}": f"known {i}" for i in range(300)})
    page = written(report, tmp_path)
    assert report.result
    moved = int(np.argmax(report.result.slice_distances[:6]))
    now, before = report.current[:, moved], reference.slices[:, moved]
    high = now.mean() > before.mean()
    first = page.words[page.words.index(f"Slice {moved + 1} of 6") :]
    now_end, before_end = first.split("Now, at the ")[1].split("Before, at the ")[:2]
    assert now_end.startswith("high end" if high else "low end")
    assert f"\ntext {np.argmax(now if high else -now)}\n" in now_end
    assert before_end.startswith("low end" if high else "high end")
    assert f"\nknown {np.argmin(before if high else -before)}\n" in before_end


def test_without_the_reference_texts_the_page_says_so(reference: DriftReference, tmp_path: Path) -> None:
    words = written(report_of(reference), tmp_path).words
    assert "Only current texts are shown" in words
    assert "Before, at the" not in words
    some = written(report_of(reference, reference_texts={"r7": "the only one", "r207": "the only one"}), tmp_path).words
    assert "the only one" in some


def test_hostile_texts_stay_text(reference: DriftReference, tmp_path: Path) -> None:
    texts = [HOSTILE + str(i) for i in range(ROWS)]
    known = {f"r{i}": f"known {i} {HOSTILE}" for i in range(300)}
    changes = {"reference_texts": known, "texts": texts, "at": HOSTILE, "run": HOSTILE, "request": HOSTILE}
    page = written(dataclasses.replace(report_of(reference, **changes), name=HOSTILE, model_version=HOSTILE), tmp_path)
    assert not page.open
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "src"]
    assert page.words.count("<script>alert(1)</script>") > 10


def test_long_texts_are_cut(reference: DriftReference, tmp_path: Path) -> None:
    page = written(report_of(reference, texts=[f"{i} " + "y" * 900 for i in range(ROWS)]), tmp_path)
    assert "y…" in page.words
    assert "y" * 250 not in page.words


def test_the_page_needs_no_network(stream: tuple[Report, Path]) -> None:
    text = (stream[1] / "drift.html").read_text("utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    assert "url(http" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    ("seen", "changes", "words"),
    [
        (
            {},
            {"run": "check-4"},
            [
                "The texts have changed, and a retrain has started",
                "The alarm bar is passed",
                "Run check-4 retrains the model",
            ],
        ),
        (
            {"labelled_rows": 3},
            {"request": "s3://b/labels/requested/4.csv", "request_rows": 150},
            ["A retrain is due, but it has to wait", "Label 150 texts", "s3://b/labels/requested/4.csv"],
        ),
        ({"run_under_way": "check-3"}, {}, ["it has to wait", "See that the run gets on", "check-3"]),
        ({"hours_since_retrain": 3.0}, {}, ["The retrain starts by itself", "retrain.cooldown_hours"]),
        (
            {"effect_size": 0.05},
            {},
            [
                "The texts have changed, but no harm is seen",
                "Look at the example texts below",
                "shifted by 0.05 standard",
            ],
        ),
        ({"evidence": 12.0}, {}, ["No alarm", "Below the alarm bar", "Evidence 12, alarm at 876,000", "54 texts wait"]),
    ],
)
def test_the_top_answers_what_an_operator_asks(
    reference: DriftReference, seen: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    report = stream_of(reference, seen, **changes)
    found = status(report)
    assert [answer.question for answer in found.answers] == [
        "How sure is that?",
        "How bad is it?",
        "What happens next?",
        "What should I do?",
    ]
    assert all(answer.words for answer in found.answers)
    top = title(report) + "".join(f"{answer.words} {answer.detail}" for answer in found.answers)
    assert all(part in top for part in words)
    assert found.word == report.verdict.verdict
    assert found.context == "tweets.csv · 2,854 texts · model 8bb587d97e3f · 2026-11-24 05:05 UTC"


def test_the_history_is_drawn_once_there_is_one(stream: tuple[Report, Path], tmp_path: Path) -> None:
    report, folder = stream
    page = Page((folder / "drift.html").read_text("utf-8"))
    assert "1 (2026-11-21 05:05 UTC) to 4 (2026-11-24 05:05 UTC)" in page.words
    assert "evidence\n" in page.words
    first = written(dataclasses.replace(report, history=report.history[-1:]), tmp_path).words
    assert "This is the first check of this model" in first


def test_before_the_first_full_window_the_page_says_what_it_waits_for(
    reference: DriftReference, tmp_path: Path
) -> None:
    waiting = {"windows_counted": 0, "rows_waiting": 37, "evidence": 1.0, "p_value": None, "harm": None}
    report = stream_of(reference, waiting, result=None, harm=None, history=[])
    nothing = dataclasses.replace(report, current=report.current[:0], confidence=report.confidence[:0], texts=[])
    for shown in (report, nothing):
        page = written(shown, tmp_path)
        assert not page.open
        assert "Not enough texts yet for a check" in page.words
        assert "37 texts wait until a window of 200 is full" in page.words
        assert "The test of the last window" not in page.words
        assert json.loads((tmp_path / "drift.json").read_text("utf-8"))["result"] is None


def test_more_than_two_labels(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    labels = LabelSet(["bad", "fine", "good"])

    def scores(rows: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(rows, 5)), generator.normal(size=(rows, 3))

    embeddings, logits = scores(200)
    held_out = HeldOut(
        embeddings, logits, ["a"] * 200, [str(i) for i in range(200)], np.linspace(0.34, 1, 200), np.arange(200) % 4 > 0
    )
    three = drift_reference.fit(scores(100)[0], held_out, "abc", SETTINGS)
    current, current_logits = scores(60)
    p = np.exp(current_logits) / np.exp(current_logits).sum(axis=1, keepdims=True)
    result = detect(three, current, current_logits, SETTINGS)
    harm = assess(three, labels, p, np.full(60, -1))
    projected = three.project(current, current_logits)
    report = Report(
        decide_once(result, harm, POLICY), labels, three, result, projected, p.max(axis=1), ["x"] * 60, harm=harm
    )
    assert "fine" in written(report, tmp_path).words
