"""Behavioural tests: what a sentiment classifier must get right, whatever its accuracy (Ribeiro et al. 2020).

Minimum functionality (plain praise and blame), negation, and invariance of the label to names, to typos and
to case. They are English and need the labels Positive and Negative; another label set is not tested.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from components.classifier.labels import LabelSet

Label = Callable[[Sequence[str]], Sequence[int]]  # texts to label numbers
_THINGS = ("film", "book", "phone", "place", "show")
_PRAISE = ("I love this {}.", "What a wonderful {}!", "This {} is excellent.", "The best {} I know.", "A great {}.")
_BLAME = ("I hate this {}.", "What an awful {}!", "This {} is terrible.", "The worst {} I know.", "A bad {}.")
_NEGATED_PRAISE = (
    "I do not like this {}.",
    "This is not a good {}.",
    "The {} is not worth the money.",
    "I would not recommend this {}.",
    "This {} was never interesting.",
)
_NAMES = ("Mary", "Ahmed", "Wei", "Olga", "Carlos")
_NAMED = (
    "{} was brilliant in this one.",
    "{} ruined it for me.",
    "I watched it with {} and we loved it.",
    "My friend {} found it boring.",
)
_LEAST_LETTERS = 6  # of a word that is misspelt
_FAILURES_KEPT = 10


@dataclass(frozen=True)
class Behaviour:
    """The outcome of one kind. `failures` says what was expected of which text; they are ours, or of the test rows."""

    kind: str
    passed: int
    tests: int
    failures: list[str]

    @property
    def pass_rate(self) -> float:
        return self.passed / self.tests


def behaviours(label: Label, labels: LabelSet, texts: Sequence[str]) -> list[Behaviour]:
    """Every kind, or none for labels that are not of sentiment. `texts` are real ones for the invariance tests."""
    negative, positive = labels.number("Negative"), labels.number("Positive")
    if negative is None or positive is None:
        return []
    praise, blame = _filled(_PRAISE), _filled(_BLAME)
    expected = [(text, positive) for text in praise] + [(text, negative) for text in blame]
    named = [(text.format(_NAMES[0]), text.format(name)) for text in _NAMED for name in _NAMES[1:]]
    found = [
        _expect("minimum functionality", label, labels, expected),
        _expect("negation", label, labels, [(text, negative) for text in _filled(_NEGATED_PRAISE)]),
        _invariant("names", label, labels, named),
        _invariant("typos", label, labels, [(t, with_typo(t)) for t in texts if with_typo(t) != t]),
        _invariant("case", label, labels, [(t, t.upper()) for t in texts if t.upper() != t]),
    ]
    return [behaviour for behaviour in found if behaviour.tests]


def with_typo(text: str) -> str:
    """The text with two neighbouring letters swapped in the middle of its longest word, if that is long enough."""
    word = max(text.split(), key=len, default="")
    middle = len(word) // 2
    if len(word) < _LEAST_LETTERS or not word[middle - 1 : middle + 1].isalpha():
        return text
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return text.replace(word, swapped, 1)


def _filled(templates: Sequence[str]) -> list[str]:
    return [template.format(thing) for template in templates for thing in _THINGS]


def _expect(kind: str, label: Label, labels: LabelSet, expected: Sequence[tuple[str, int]]) -> Behaviour:
    """Each text has the label that is expected of it."""
    found = label([text for text, _ in expected])
    failures = [
        f"{text} (expected {labels.names[wanted]}, not {labels.names[got]})"
        for (text, wanted), got in zip(expected, found, strict=True)
        if wanted != got
    ]
    return Behaviour(kind, len(expected) - len(failures), len(expected), failures[:_FAILURES_KEPT])


def _invariant(kind: str, label: Label, labels: LabelSet, pairs: Sequence[tuple[str, str]]) -> Behaviour:
    """Each changed text has the label of the text it was made of."""
    before, after = label([text for text, _ in pairs]), label([text for _, text in pairs])
    failures = [
        f"{changed} ({labels.names[new]}; as “{text}” it was {labels.names[old]})"
        for (text, changed), old, new in zip(pairs, before, after, strict=True)
        if old != new
    ]
    return Behaviour(kind, len(pairs) - len(failures), len(pairs), failures[:_FAILURES_KEPT])
