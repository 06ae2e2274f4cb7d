"""What a drift report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from components.classifier.labels import LabelSet
from components.drift.detection import DriftResult
from components.drift.harm import Harm
from components.drift.policy import Seen, Verdict
from components.drift.reference import DriftReference


@dataclass(frozen=True)
class PastCheck:
    """One check in the history of a model version."""

    number: int
    at: str
    """ISO 8601, UTC."""
    verdict: str
    evidence: float
    """After its windows were counted."""
    p_value: float | None
    """Of its last window; None if no window was full."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows. Without `seen` it is one comparison on its own: no evidence, no history."""

    verdict: Verdict
    labels: LabelSet
    reference: DriftReference
    result: DriftResult | None
    """The test of the last window; None if no window is full yet."""
    current: np.ndarray
    """[n, d + k'] the current rows, as `reference.project` gives them."""
    confidence: np.ndarray
    """[n] calibrated confidence of their predictions."""
    texts: Sequence[str]
    """The n texts."""
    reference_texts: Mapping[str, str] = field(default_factory=dict)
    """Row id -> text, from the model's data set; may lack any of them."""
    harm: Harm | None = None
    seen: Seen | None = None
    history: Sequence[PastCheck] = ()
    """Oldest first, this check last."""
    name: str = ""
    """What was checked: a file, a stream."""
    model_version: str = ""
    at: str = ""
    """ISO 8601, UTC."""
    run: str = ""
    """The id of the pipeline run that this check started, or empty."""
    request: str = ""
    """Where the CSV for annotators is, or empty."""
    request_rows: int = 0
