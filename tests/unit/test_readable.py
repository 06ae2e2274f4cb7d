"""A result on a terminal: fields, tables, and nothing that scrolls for pages."""

from pipelines.readable import columns, readable


def test_nested_names_are_joined_and_values_shown_for_a_person() -> None:
    text = readable({"model": "out", "metrics": {"accuracy": 0.853846, "roc": list(range(100))}, "champion": None})
    assert text.splitlines() == [
        "model             out",
        "metrics.accuracy  0.8538",
        "metrics.roc       (100 values; --json shows them)",
        "champion          -",
    ]


def test_a_list_of_records_is_a_table() -> None:
    text = readable({"done": True, "sources": [{"source": "movies", "rows": 650}, {"source": "tv", "rows": 7}]})
    assert text == "done  yes\n\nsources\nsource  rows\n------------\nmovies   650\ntv         7"


def test_columns_are_aligned() -> None:
    assert columns(["a", "b"], [["long", "1"]]) == "a     b\n-------\nlong  1"
