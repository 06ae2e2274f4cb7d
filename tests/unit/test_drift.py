"""Drift: what a check finds and refuses, windows of any size, the reference on disk."""

import dataclasses

import numpy as np
import pytest

from components.classifier.labels import LabelSet
from components.config import DriftSettings
from components.drift import reference as drift_reference
from components.drift.detection import detect, detect_stream
from components.drift.measurement import Measure
from components.drift.reference import DriftReference, HeldOut
from components.errors import DataError, ModelFolderError, SettingsError

WIDTH = 12
SETTINGS = DriftSettings(components=8, permutations=199, level=0.05)


def rows(seed: int, n: int, shift: float = 0.0, head: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """n embeddings of unequal variance, one dimension constant, and two-class logits independent of them."""
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(n, WIDTH)) * np.linspace(2, 0.5, WIDTH) + shift
    embeddings[:, 3] = 7.0
    logits = generator.normal(size=(n, 2))
    logits[:, 1] += head
    return embeddings, logits


def reference_of(n: int = 400, seed: int = 0, sources: list[str] | None = None) -> DriftReference:
    held_out, logits = rows(seed + 1, n)
    return fit(rows(seed, 300)[0], held_out, logits, sources or ["movies"] * n)


def fit(train: np.ndarray, embeddings: np.ndarray, logits: np.ndarray, sources: list[str]) -> DriftReference:
    n = len(embeddings)
    ids = [str(i) for i in range(n)]
    held_out = HeldOut(embeddings, logits, sources, ids, np.full(n, 0.9), np.arange(n) % 10 > 0)
    return drift_reference.fit(train, held_out, "abc", SETTINGS)


@pytest.fixture(scope="module")
def reference() -> DriftReference:
    return reference_of()


def test_slices_are_uncorrelated_have_unit_deviation_and_stay_finite_where_constant(reference: DriftReference) -> None:
    embeddings, logits = rows(0, 300)
    projected = reference.project(embeddings, logits)
    assert projected.shape == (300, 9)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(np.corrcoef(projected[:, :8].T), np.eye(8), atol=1e-4)
    np.testing.assert_allclose(reference.slices.std(axis=0), 1, atol=1e-4)
    assert not detect(reference, *rows(60, 120), SETTINGS).drifted


def test_components_beyond_the_first_are_kept_for_their_means() -> None:
    generator = np.random.default_rng(0)
    embeddings, logits = generator.normal(size=(200, 80)), generator.normal(size=(200, 2))
    n = len(embeddings)
    held_out = HeldOut(embeddings, logits, ["a"] * n, [str(i) for i in range(n)], np.ones(n), np.ones(n, dtype=bool))
    wide = drift_reference.fit(
        generator.normal(size=(300, 80)), held_out, "abc", dataclasses.replace(SETTINGS, components=80)
    )
    assert (wide.slices.shape, wide.head.shape, wide.further.shape) == ((200, 64), (200, 1), (200, 16))
    np.testing.assert_array_equal(wide.project(embeddings, logits), np.hstack([wide.slices, wide.head]))
    # A shift along the last component alone, which only the means see.
    moved = generator.normal(size=(150, 80)) + np.linalg.pinv(wide.basis.components)[79] * 1.5
    result = detect(wide, moved, generator.normal(size=(150, 2)), dataclasses.replace(SETTINGS, components=80))
    assert result.drifted
    assert result.effect_size < 0.1


def test_a_shifted_mean_is_found_every_time(reference: DriftReference) -> None:
    results = [detect(reference, *rows(seed, 150, shift=0.6), SETTINGS) for seed in range(100, 110)]
    assert all(result.drifted for result in results)
    assert min(result.effect_size for result in results) > 0.3


def test_a_shift_of_the_head_alone_is_found(reference: DriftReference) -> None:
    result = detect(reference, *rows(50, 200, head=1.0), SETTINGS)
    assert result.drifted
    assert result.head_shift > 0.5
    assert result.effect_size < 0.15


def test_one_wild_text_does_not_hide_the_drift_of_the_others(reference: DriftReference) -> None:
    embeddings, logits = rows(51, 150, shift=0.6)
    embeddings[7] += 500
    assert detect(reference, embeddings, logits, SETTINGS).drifted


def test_equal_input_gives_equal_results(reference: DriftReference) -> None:
    window = rows(60, 120)
    assert detect(reference, *window, SETTINGS) == detect(reference, *window, SETTINGS)


def test_a_large_window_is_tested_against_the_stored_null_in_whatever_chunks_it_comes(
    reference: DriftReference,
) -> None:
    quiet, moved = rows(61, 3000), rows(62, 3000, shift=0.15)
    settings = dataclasses.replace(SETTINGS, level=0.001)
    for window, drifted in ((quiet, False), (moved, True)):
        whole = detect(reference, *window, settings)
        assert (whole.n, whole.calibration, whole.drifted) == (3000, "stored null", drifted)
        chunks = zip(np.array_split(window[0], 7), np.array_split(window[1], 7), strict=True)
        streamed = detect_stream(reference, chunks, settings)
        assert streamed.p_value == pytest.approx(whole.p_value, abs=0.001)
        assert streamed.effect_size == pytest.approx(whole.effect_size, abs=1e-4)


def test_the_size_of_a_shift_lies_in_its_interval(reference: DriftReference) -> None:
    """Every slice of the window is moved by exactly so much; 19 of 20 intervals should hold it."""
    for shift in (0.0, 0.3):
        held = 0
        for seed in range(300, 320):
            embeddings, logits = rows(seed, 200)
            moved = embeddings + shift * np.linalg.pinv(reference.basis.components).T.sum(axis=1)
            low, high = detect(reference, moved, logits, SETTINGS).effect_interval
            held += low <= shift <= high
        assert held >= 16


def test_embeddings_of_another_model_are_refused(reference: DriftReference) -> None:
    assert not detect(reference, *rows(63, 100), SETTINGS, model_digest="abc").drifted
    with pytest.raises(DataError, match="the embeddings are of model other, the drift reference is of model abc"):
        detect(reference, *rows(63, 100), SETTINGS, model_digest="other")


def test_a_window_of_one_text_repeated_is_drift(reference: DriftReference) -> None:
    embeddings, logits = rows(64, 1)
    assert detect(reference, np.repeat(embeddings, 60, axis=0), np.repeat(logits, 60, axis=0), SETTINGS).drifted


def test_a_naive_rule_alarms_on_a_quiet_small_window(reference: DriftReference) -> None:
    naive = detect(reference, *rows(65, 60), dataclasses.replace(SETTINGS, statistic="mean_wasserstein1"))
    assert naive.drifted
    assert naive.p_value > 0.05
    assert not detect(reference, *rows(65, 60), SETTINGS).drifted


def test_a_stored_null_serves_its_own_statistic_only(reference: DriftReference) -> None:
    other = dataclasses.replace(SETTINGS, statistic="sliced_wasserstein2")
    assert not detect(reference, *rows(66, 100), other).drifted
    with pytest.raises(DataError, match="holds the null of sliced_wasserstein, not of sliced_wasserstein2"):
        detect(reference, *rows(66, 1500), other)


def test_a_reference_says_how_large_the_windows_of_a_series_may_be(reference: DriftReference) -> None:
    assert reference.largest_window == 40
    assert window_of(reference, DriftSettings(minimum_window=20)) == 40
    assert window_of(reference, DriftSettings(minimum_window=20, maximum_window=30)) == 30
    with pytest.raises(DataError, match=r"of 400 rows supports windows of at most 40 texts, and drift\.min"):
        window_of(reference, DriftSettings(minimum_window=50))


def window_of(reference: DriftReference, settings: DriftSettings) -> int:
    return Measure(reference, "", LabelSet(["Negative", "Positive"]), 1.0).window_size(settings)


def test_the_smallest_source_that_may_decide_makes_the_windows_small() -> None:
    """A series shares the luck of the group that it is compared with."""
    embeddings, logits = rows(1, 1100)
    known = fit(rows(0, 300)[0], embeddings, logits, ["movies"] * 700 + ["products"] * 310 + ["tweets"] * 90)
    assert known.largest_window == 31
    assert window_of(known, DriftSettings(minimum_window=20)) == 31
    assert window_of(known, DriftSettings(minimum_window=50)) == 50


def test_a_window_of_one_known_source_is_no_drift() -> None:
    movies, products = rows(1, 300), rows(2, 300, shift=2.0)
    held_out = np.vstack([movies[0], products[0]])
    logits = np.vstack([movies[1], products[1]])
    sources = ["movies"] * 300 + ["products"] * 300
    known = fit(rows(0, 300)[0], held_out, logits, sources)
    result = detect(known, *rows(70, 150, shift=2.0), SETTINGS)
    assert not result.drifted
    assert result.nearest_source == "products"
    p_values = {test["source"]: test["p_value"] for test in result.by_source}
    assert p_values["all"] == p_values["movies"] == pytest.approx(1 / 200)
    assert detect(known, *rows(71, 150, shift=-2.0), SETTINGS).drifted


def test_more_classes_have_a_head_slice_each() -> None:
    generator = np.random.default_rng(3)
    embeddings, _ = rows(4, 100)
    logits = generator.normal(size=(100, 3))
    three = fit(embeddings, embeddings, logits, ["a"] * 100)
    assert three.project(embeddings, logits).shape == (100, 8 + 3)
    np.testing.assert_allclose(three.project(embeddings, logits + 5)[:, 8:], three.head, atol=1e-5)
    with pytest.raises(DataError, match="rows of 3 columns"):
        three.project(embeddings, logits[:, :2])


def test_constant_embeddings_are_no_drift() -> None:
    embeddings, logits = np.ones((60, 4)), np.zeros((60, 2))
    constant = fit(embeddings, embeddings, logits, ["a"] * 60)
    assert detect(constant, embeddings, logits, SETTINGS).p_value == 1.0


def test_bad_windows_get_one_clear_line(reference: DriftReference) -> None:
    embeddings, logits = rows(80, 60)
    with pytest.raises(DataError, match="at least 20 texts, the window has 1;"):
        detect(reference, embeddings[:1], logits[:1], SETTINGS)
    with pytest.raises(DataError, match="at least 20 texts, the window has 0;"):
        detect(reference, embeddings[:0], logits[:0], SETTINGS)
    with pytest.raises(DataError, match="embeddings must be numbers"):
        detect(reference, embeddings.astype(str), logits, SETTINGS)
    with pytest.raises(DataError, match="rows of 12 columns, found shape 60x11"):
        detect(reference, embeddings[:, 1:], logits, SETTINGS)
    with pytest.raises(DataError, match="60 rows of embeddings but 59"):
        detect(reference, embeddings, logits[1:], SETTINGS)
    embeddings[4, 2] = np.nan
    with pytest.raises(DataError, match="NaN or infinity in 1 rows, first in row 4"):
        detect(reference, embeddings, logits, SETTINGS)


def test_a_level_that_can_never_fire_is_refused(reference: DriftReference) -> None:
    with pytest.raises(SettingsError, match="can never fire: the smallest p-value"):
        detect(reference, *rows(81, 60), dataclasses.replace(SETTINGS, level=0.001))


def test_a_reference_survives_the_disk(reference: DriftReference, tmp_path) -> None:
    reference.save(tmp_path / "drift_reference.npz")
    again = DriftReference.load(tmp_path / "drift_reference.npz")
    window = rows(90, 60)
    assert detect(again, *window, SETTINGS) == detect(reference, *window, SETTINGS)
    assert again.model_digest == "abc"


def test_damaged_and_changed_references_are_refused(reference: DriftReference, tmp_path) -> None:
    path = tmp_path / "drift_reference.npz"
    with pytest.raises(ModelFolderError, match="does not exist"):
        DriftReference.load(path)
    reference.save(path)
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ModelFolderError, match="damaged"):
            DriftReference.load(path)
    np.savez(path, **(arrays | {"slices": arrays["slices"] + 1}))
    with pytest.raises(ModelFolderError, match="was changed"):
        DriftReference.load(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "head"})
    with pytest.raises(ModelFolderError, match="holds no array head"):
        DriftReference.load(path)
    np.savez(path, **(arrays | {"sources": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(ModelFolderError, match="damaged"):
        DriftReference.load(path)
