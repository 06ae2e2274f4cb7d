"""Drift: the distance by hand, the test's error rates by simulation, the reference on disk."""

import dataclasses

import numpy as np
import pytest

from components.config import DriftSettings
from components.drift import reference as drift_reference
from components.drift.detection import detect
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


def test_training_rows_are_white_and_constant_dimensions_stay_finite(reference: DriftReference) -> None:
    embeddings, logits = rows(0, 300)
    projected = reference.project(embeddings, logits)
    assert projected.shape == (300, 9)
    assert projected.dtype == np.float32
    np.testing.assert_allclose(np.cov(projected[:, :8].T), np.eye(8), atol=1e-4)


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
    with pytest.raises(DataError, match="at least 50 texts, the window has 1;"):
        detect(reference, embeddings[:1], logits[:1], SETTINGS)
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
