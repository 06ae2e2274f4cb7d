"""Labels: numbers from 0 and the names that stand for them."""

from collections.abc import Mapping, Sequence

from components.errors import DataError

_ALIASES = {"negative": {"neg", "negative"}, "positive": {"pos", "positive"}, "neutral": {"neu", "neutral"}}


def _key(label: str) -> str:
    """What two spellings of a label have in common: 1 and 1.0, as tables write a whole number, are one."""
    return label.strip().casefold().removesuffix(".0")


class LabelSet:
    """The label names in the order of their numbers: LabelSet(["Negative", "Positive"]) has 0 and 1."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        if len(self.names) < 2 or len({_key(n) for n in self.names}) != len(self.names) or not all(self.names):
            raise DataError(f"a classifier needs two or more different label names, not {', '.join(names) or 'none'}")
        self._number = {str(i): i for i in range(len(self.names))}
        for i, name in enumerate(self.names):
            for alias in _ALIASES.get(_key(name), {_key(name)}):
                self._number[alias] = i

    def __len__(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @classmethod
    def from_id2label(cls, id2label: Mapping[int | str, str]) -> "LabelSet":
        return cls([id2label[key] for key in sorted(id2label, key=int)])

    def number(self, value: object) -> int | None:
        """The label's number for a number, a name or a common short form (pos, neg); None if it is none of them."""
        return self._number.get(_key(str(value)))

    def __str__(self) -> str:
        return ", ".join(f"{number} ({name})" for number, name in enumerate(self.names))
