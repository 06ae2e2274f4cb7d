"""The bookkeeping of a back-test: what is forgotten, when a policy retrains, how the history is cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components import config
from components.backtest.course import Retrain, Step
from components.backtest.history import History, Window, cut, source_of
from components.backtest.outcome import outcome
from components.backtest.policies import COMPARED, POLICIES, named
from components.backtest.trigger import Never, OnDrift, Schedule
from components.classifier.engine import Scores
from components.config import DriftSettings, Settings
from components.drift import reference
from components.errors import InputError
from components.files import write_json
from pipelines.backtest import run

FIRST = {"movies": 0.9, "tweets": 0.6}
SETTINGS = config.load(None, {"retrain": {"checks_a_year": 1000}})  # a lower bar, which is computed in less time


def step(number: int, held_out: Mapping[str, float], made: Retrain | None = None, accuracy: float = 0.5) -> Step:
    return Step(number, "tweets", 100 * number, accuracy, "quiet", "", made, dict(held_out))


def test_forgotten_is_what_the_end_is_below_the_best_on_the_way() -> None:
    steps = [step(1, {"movies": 0.8, "tweets": 0.95}), step(2, {"movies": 0.85, "tweets": 0.9})]
    found = outcome("naive", FIRST, steps)
    assert found.best == {"movies": 0.9, "tweets": 0.95}
    assert found.forgotten == pytest.approx({"movies": 0.05, "tweets": 0.05})
    assert found.mean_accuracy == pytest.approx(0.875)


def test_nothing_is_forgotten_where_the_end_is_best() -> None:
    found = outcome("everbert", FIRST, [step(1, {"movies": 0.91, "tweets": 0.95})])
    assert found.most_forgotten == 0
    assert found.best == {"movies": 0.91, "tweets": 0.95}


def test_costs_are_those_of_all_retrains_and_live_accuracy_counts_rows() -> None:
    made = [Retrain(True, "", 400, 30.0, 40.0), Retrain(False, "", 600, 50.0, 65.0)]
    steps = [step(1, FIRST, made[0], 0.9), step(2, FIRST, made[1], 0.6), step(3, FIRST, None, 0.5)]
    found = outcome("everbert", FIRST, steps)
    assert (found.retrains, found.promoted, found.training_rows) == (2, 1, 1000)
    assert (found.training_cpu_seconds, found.all_cpu_seconds) == (80.0, 105.0)
    assert found.live_accuracy == pytest.approx((100 * 0.9 + 200 * 0.6 + 300 * 0.5) / 600)


def test_the_schedule_retrains_every_k_windows_and_never_never() -> None:
    windows = [Window(number, "tweets", pd.DataFrame()) for number in range(1, 8)]
    nothing = Scores(*(np.zeros((0, 2)),) * 3)
    assert [Schedule(3).saw(w, nothing).verdict for w in windows].count("retrain") == 2
    assert [w.number for w in windows if Schedule(3).saw(w, nothing).verdict == "retrain"] == [3, 6]
    assert {Never().saw(w, nothing).verdict for w in windows} == {"quiet"}


def test_policies_by_name() -> None:
    assert [policy.name for policy in named(["naive", "never", "naive"])] == ["naive", "never"]
    assert set(COMPARED) <= set(POLICIES)
    with pytest.raises(InputError, match="there is no policy 'nonsense'; there are never, schedule"):
        named(["never", "nonsense"])


def test_naive_is_everbert_without_replay_distillation_and_proof() -> None:
    settings = POLICIES["naive"].settings(Settings())
    assert (settings.data.replay_ratio, settings.training.distillation) == (0, 0)
    assert not POLICIES["naive"].proof
    assert POLICIES["everbert"].settings(Settings()) == Settings()


@pytest.mark.parametrize(("rows", "window", "sizes"), [(10, 3, [3, 3, 4]), (10, 30, [10]), (7, 2, [1, 2, 2, 2])])
def test_windows_are_consecutive_and_nearly_equal(rows: int, window: int, sizes: list[int]) -> None:
    parts = cut(pd.DataFrame({"text": range(rows)}), window)
    assert [len(part) for part in parts] == sizes
    assert [text for part in parts for text in part["text"]] == list(range(rows))


def test_the_source_is_the_stem() -> None:
    assert [source_of(file) for file in ("a/b/tweets.csv", "tweets.csv.gz", "a.b.csv")] == ["tweets", "tweets", "a.b"]


def write(path: Path, rows: int, words: str) -> str:
    lines = [f"{words} {n} {n * 7919} {words[::-1]},{n % 2}" for n in range(rows)]
    path.write_text("\n".join(["review,label", *lines]) + "\n", encoding="utf-8")
    return str(path)


def settings_of(minimum_rows: int = 2) -> Settings:
    return config.load(None, {"data": {"minimum_rows": minimum_rows, "near_duplicate_similarity": 1}})


def test_the_history_keeps_the_order_of_time_and_holds_rows_out(tmp_path: Path) -> None:
    files = [write(tmp_path / "movies.csv", 60, "a film"), write(tmp_path / "tweets.csv", 50, "my day")]
    history = History.read(files, 20, 0.2, settings_of().data, tmp_path)
    assert history.sources == ["movies", "tweets"]
    assert [(w.number, w.source, len(w.rows)) for w in history.windows] == [(1, "tweets", 20), (2, "tweets", 20)]
    came_in = [int(row_id.split("-")[1]) for w in history.windows for row_id in w.rows["id"]]
    assert came_in == sorted(came_in)
    assert dict(history.held_out["source"].value_counts()) == {"movies": 12, "tweets": 10}
    assert not set(history.held_out["id"]) & {*history.first["id"], *(i for w in history.windows for i in w.rows["id"])}


def test_a_stream_that_is_none_is_said_in_a_line(tmp_path: Path) -> None:
    movies, other = write(tmp_path / "movies.csv", 60, "a film"), write(tmp_path / "tweets.csv", 50, "my day")
    (tmp_path / "again").mkdir()
    copy = write(tmp_path / "again" / "tweets.csv", 40, "a film")
    (tmp_path / "empty.csv").write_text("text,label\nnot a label,maybe\n", encoding="utf-8")
    for files, said in (
        ([movies], "two or more files"),
        ([movies, other, copy], "two files of the stream have the same name"),
        ([movies, str(tmp_path / "empty.csv")], "empty.csv has no usable row"),
        ([movies, "tweets.txt"], "tweets.txt is not a .csv or .csv.gz file"),
        ([movies, "none.csv"], "none.csv does not exist"),
    ):
        with pytest.raises(InputError, match=said):
            History.read(files, 20, 0.2, settings_of().data, tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What measuring takes of a model folder: a reference of 600 rows with 8 standard normal embeddings."""
    generator = np.random.default_rng(5)
    embeddings, logits = generator.normal(size=(600, 8)), generator.normal(size=(600, 2))
    held_out = reference.HeldOut(
        embeddings, logits, ["movies"] * 600, list(map(str, range(600))), np.full(600, 0.8), np.arange(600) % 5 > 0
    )
    train = generator.normal(size=(300, 8))
    reference.fit(train, held_out, "digest", DriftSettings()).save(tmp_path / "drift_reference.npz")
    write_json(tmp_path / "everbert.json", {"temperature": 1.0})
    write_json(tmp_path / "config.json", {"id2label": {"0": "Negative", "1": "Positive"}})
    return tmp_path


def come_in(trigger: OnDrift, number: int, rows: int, shift: float) -> str:
    generator = np.random.default_rng(number)
    scores = Scores(
        (generator.normal(size=(rows, 2))).astype(np.float32),
        (generator.normal(size=(rows, 8)) + shift).astype(np.float32),
        np.ones(rows, dtype=np.int64),
    )
    window = Window(number, "tweets", pd.DataFrame({"label": scores.logits.argmax(axis=1)}))
    return trigger.saw(window, scores).verdict


def test_drift_retrains_once_the_evidence_and_the_labels_are_there(model: Path) -> None:
    trigger = OnDrift(model, SETTINGS, hours=24)
    assert trigger.size == 60
    assert [come_in(trigger, number, 130, 0.0) for number in range(1, 6)] == ["quiet"] * 5
    assert trigger.state.windows == 10  # 650 rows; 50 wait
    trigger.took_over(model)
    assert [come_in(trigger, number, 100, 1.0) for number in (6, 7)] == ["quiet", "retrain"]


def test_an_alarm_waits_for_labels(model: Path) -> None:
    trigger = OnDrift(model, SETTINGS, hours=24)
    assert [come_in(trigger, number, 180, 1.0) for number in (1, 2)] == ["wait", "retrain"]


def test_the_cooldown_counts_the_hours_between_windows(model: Path) -> None:
    for hours, second in ((12.0, "wait"), (24.0, "retrain")):
        trigger = OnDrift(model, SETTINGS, hours)
        assert come_in(trigger, 1, 240, 1.0) == "retrain"
        trigger.took_over(model)
        assert come_in(trigger, 2, 240, 1.0) == second


def test_a_refused_challenger_leaves_its_rows_to_the_next(model: Path) -> None:
    trigger = OnDrift(model, SETTINGS, hours=48)
    assert come_in(trigger, 1, 240, 1.0) == "retrain"
    assert trigger.state.evidence == 1.0
    assert (come_in(trigger, 2, 240, 1.0), trigger.kept.rows) == ("retrain", 480)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"window": 0}, r"window \(0\)"), ({"held_out": 0.9}, r"held-out \(0.9\)"), ({"hours": 0}, r"hours \(0\)")],
)
def test_options_out_of_range_are_said_before_anything_is_read(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        run(["none.csv"], named(["never"]), Settings(), tmp_path, tmp_path, base_model="none", **options)


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        run(["none.csv"], named(["never"]), Settings(), tmp_path / "file", tmp_path, base_model="none")


def test_a_stream_that_is_not_there_leaves_no_output_and_what_was_there_alone(tmp_path: Path) -> None:
    stream = [write(tmp_path / "movies.csv", 60, "a film"), "none.csv"]
    (tmp_path / "old").mkdir()
    for name in ("new", "old"):
        with pytest.raises(InputError, match=r"none\.csv does not exist; give a \.csv"):
            run(stream, named(["never"]), Settings(), tmp_path / name, tmp_path, base_model="none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["movies.csv", "old"]
