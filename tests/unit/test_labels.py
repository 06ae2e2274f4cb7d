"""Labels by number, by name, and as tables spell them."""

import pytest

from components.classifier.labels import LabelSet
from components.errors import DataError


@pytest.mark.parametrize(
    ("names", "values", "numbers"),
    [
        (["Negative", "Positive"], ["neg", " POSITIVE ", 1, "1.0", 0.0, "2", ""], [0, 1, 1, 1, 0, None, None]),
        (["1.0", "2.0", "3.0"], ["1.0", "2.0", "3.0", "1", 2, 3.0, "4"], [0, 1, 2, 0, 1, 2, None]),
        (["1", "2", "3"], ["1", "1.0", 3, 3.0], [0, 0, 2, 2]),
    ],
    ids=["words", "numbers with a point", "numbers from 1"],
)
def test_a_name_goes_before_a_number(names: list[str], values: list[object], numbers: list[int | None]) -> None:
    assert [LabelSet(names).number(value) for value in values] == numbers


def test_two_spellings_of_one_label_are_no_two_labels() -> None:
    with pytest.raises(DataError, match="two or more different label names"):
        LabelSet(["1", "1.0"])
