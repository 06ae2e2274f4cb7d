"""Every setting once: its name, default, range and help.

Order of precedence, lowest first: the defaults below, a YAML file (`--config`), flags.
The YAML file and the pipeline's `settings` parameter have the same shape: section -> setting -> value.
Endpoints and credentials are not settings; they come from the environment (see README).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.drift.statistics import REGISTRY
from components.errors import SettingsError
from components.setting import check_shape, read_yaml, section_of, setting


@dataclass(frozen=True)
class DataSettings:
    """prepare: from raw reviews to a data set folder."""

    text_column: str = setting("", "column that holds the text; empty: the first found of text, review, reviews")
    label_column: str = setting("label", "column that holds the label (a number, or a name of --labels)")
    labels: tuple[str, ...] = setting(("Negative", "Positive"), "label names in the order of their numbers, from 0")
    test_share: float = setting(
        0.2, "share held out for the test split, on which a promotion is proven", minimum=0, maximum=0.5
    )
    validation_share: float = setting(0.1, "share held out for validation", minimum=0.01, maximum=0.5)
    near_duplicate_similarity: float = setting(
        0.8,
        "rows whose character 5-grams overlap (Jaccard) by this much are one row; 1 turns it off",
        minimum=0.5,
        maximum=1,
    )
    minimum_rows: int = setting(10, "fewest rows of each label that each split must hold", minimum=1)
    replay_ratio: float = setting(
        1.0, "old training rows replayed for each new training row, against forgetting", minimum=0, maximum=100
    )
    seed: int = setting(13, "seed of the splits and of the replay sample", minimum=0)


@dataclass(frozen=True)
class TrainingSettings:
    """train: from a data set folder to a model folder."""

    epochs: int = setting(
        2, "passes over the training rows; the best by calibrated validation loss is kept", minimum=1, maximum=100
    )
    learning_rate: float = setting(1e-4, "peak learning rate of AdamW", minimum=1e-7, maximum=1e-2)
    warm_learning_rate: float = setting(
        5e-5,
        "the same from the champion's weights, which are fitted already: too much of it costs the old domains",
        minimum=1e-7,
        maximum=1e-2,
    )
    batch_size: int = setting(32, "texts in one optimizer step", minimum=1, maximum=4096)
    micro_batch_tokens: int = setting(
        4096, "most tokens in one forward pass; a larger batch takes several, and one step", minimum=16
    )
    precision: str = setting(
        "auto",
        "number format of the products, in training and in scoring: auto takes bfloat16 where the hardware has it",
        choices=("auto", "float32", "bfloat16"),
    )
    patience: int = setting(
        1, "epochs without a lower validation loss before training stops; 0: never early", minimum=0, maximum=100
    )
    label_smoothing: float = setting(0.0, "share of the target that goes to all labels alike", minimum=0, maximum=0.9)
    imbalance: float = setting(
        3.0, "weigh the labels once the commonest has this many times the rows of the rarest; 0: never", minimum=0
    )
    checkpoint_minutes: float = setting(
        5.0, "minutes between checkpoints, from which --resume goes on", minimum=0, maximum=10_000
    )
    max_length: int = setting(
        128, "tokens in one window; longer texts take several windows when scored", minimum=8, maximum=512
    )
    warmup_share: float = setting(0.1, "share of the steps in which the learning rate rises", minimum=0, maximum=1)
    weight_decay: float = setting(0.01, "weight decay of AdamW", minimum=0, maximum=1)
    gradient_clip: float = setting(1.0, "largest norm of the gradient", minimum=0.01)
    distillation: float = setting(
        1.0,
        "weight of keeping the champion's answer on the training rows where it is right, against forgetting; 0: off",
        minimum=0,
        maximum=100,
    )
    abstain_threshold: float = setting(
        0.55, "a prediction with less calibrated confidence than this is marked abstained", minimum=0, maximum=1
    )
    answered_error_rate: float = setting(
        0.0,
        "choose the abstain threshold on the validation rows so that those answered err no oftener than this; 0: off",
        minimum=0,
        maximum=0.5,
    )
    seed: int = setting(13, "seed of the head's initial weights, the order of the rows and dropout", minimum=0)


@dataclass(frozen=True)
class PromotionSettings:
    """decide: when a challenger replaces the champion."""

    level: float = setting(
        0.05, "significance level of the one-sided exact McNemar test on the new domain", minimum=1e-6, maximum=0.5
    )
    margin: float = setting(
        0.02, "accuracy that a challenger must be shown not to lose on the golden set", minimum=0, maximum=0.5
    )
    slice_margin: float = setting(
        0.05, "the same for each slice of the golden set that is large enough to tell", minimum=0, maximum=0.5
    )
    calibration_margin: float = setting(0.03, "largest rise of the expected calibration error", minimum=0, maximum=0.5)
    watch_level: float = setting(
        0.01,
        "chance that the watch after a promotion ever rolls back a champion that is no worse than its predecessor; it "
        "holds however often one looks, since a row that was counted stays counted",
        minimum=1e-6,
        maximum=0.5,
    )
    watch_rows: int = setting(
        2000, "labelled live rows that the watch compares on, each once, as their labels come in; then it is over",
        minimum=1,
    )  # fmt: skip
    behaviour_margin: float = setting(
        0.1, "largest fall of the pass rate of a kind of behavioural test", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class DeploymentSettings:
    """deploy: how a version is rolled out to an InferenceService. Without one they are not read."""

    steps: tuple[int, ...] = setting(
        (10, 50, 100), "percent of the traffic that a new version gets, step by step; the last is 100", minimum=1,
        maximum=100,
    )  # fmt: skip
    watch_seconds: float = setting(60, "how long each step is watched before the next", minimum=0, maximum=86_400)
    ready_seconds: float = setting(600, "most seconds until a step's pods are ready and answer", minimum=1)
    probe_seconds: float = setting(1.0, "from one probe request to the next", minimum=0.01, maximum=3600)
    error_rate: float = setting(0.05, "largest share of a step's probes that may go wrong", minimum=0, maximum=1)
    latency_seconds: float = setting(
        2.0, "slowest that the new version's answers may be (95th percentile of a step)", minimum=0.001
    )
    mode: str = setting(
        "Standard", "deployment mode of an InferenceService that is not there yet", choices=("Standard", "Knative")
    )

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)) or self.steps[-1:] != (100,):
            raise SettingsError(f"deployment.steps must rise and end with 100, not {', '.join(map(str, self.steps))}")


@dataclass(frozen=True)
class DriftSettings:
    """drift: is the current window unlike what the model was trained on, and by how much."""

    level: float = setting(0.01, "significance level of one check", minimum=5e-4, maximum=0.5)
    statistic: str = setting(
        "sliced_wasserstein",
        "; ".join(f"{s.name}: {s.help}" for s in REGISTRY.values()),
        choices=tuple(REGISTRY),
    )
    minimum_window: int = setting(20, "fewest texts a window needs before it is tested", minimum=2)
    maximum_window: int = setting(1000, "most texts in one window of a series of checks", minimum=2)
    exact_window: int = setting(
        1000, "most texts that are calibrated by permutation; more are by the reference's stored null", minimum=50
    )
    components: int = setting(192, "principal components of the embeddings that are compared", minimum=1, maximum=4096)
    permutations: int = setting(
        999, "most permutations that calibrate one test; it stops earlier when p is clear", minimum=99, maximum=100_000
    )
    seed: int = setting(13, "seed of the permutations", minimum=0)


@dataclass(frozen=True)
class RetrainSettings:
    """The retrain policy: what an alarm and harm must amount to, and what a retrain waits for."""

    false_retrain_budget: float = setting(
        0.01, "chance of any false alarm in a year of checks on unchanged texts", minimum=1e-6, maximum=0.5
    )
    checks_a_year: int = setting(8760, "most windows that are tested in a year", minimum=1, maximum=10_000_000)
    effect_size: float = setting(
        0.15, "smallest shift, in standard deviations of the reference, that counts as harm", minimum=0
    )
    estimated_loss: float = setting(
        0.02,
        "smallest loss of accuracy, estimated without labels, that counts as harm if its 95 % interval leaves out 0",
        minimum=0,
        maximum=1,
    )
    measured_loss: float = setting(
        0.02,
        "smallest loss of accuracy on labelled rows that counts as harm if its 95 % interval leaves out 0",
        minimum=0,
        maximum=1,
    )
    minimum_measured: int = setting(50, "fewest labelled rows on which a loss is measured", minimum=1)
    minimum_labels: int = setting(200, "fewest labelled new rows that a retrain needs", minimum=1)
    pseudo_confidence: float = setting(
        0.0,
        "calibrated confidence from which the champion's answers on new texts without a label train its successor too; "
        "they never judge; 0: none do",
        minimum=0,
        maximum=1,
    )
    cooldown_hours: float = setting(24, "hours from one retrain to the next, at least", minimum=1, maximum=8760)
    weekly_cap: int = setting(2, "most retrains in seven days", minimum=0, maximum=1000)
    annotation_rows: int = setting(200, "most texts in one request for labels", minimum=0, maximum=100_000)


@dataclass(frozen=True)
class ServingSettings:
    """serve: the KServe model server."""

    maximum_texts: int = setting(256, "most texts in one request", minimum=1)
    maximum_characters: int = setting(100_000, "most characters in one text", minimum=1)
    maximum_megabytes: int = setting(32, "largest request", minimum=1, maximum=1024)
    batch_tokens: int = setting(2048, "most tokens of concurrent requests in one forward pass", minimum=1)
    queue_seconds: float = setting(
        2.0, "longest that a request may wait for the model; one that would wait longer is refused with 429",
        minimum=0.01, maximum=3600,
    )  # fmt: skip
    poll_seconds: float = setting(1.0, "how often the server looks for a new champion", minimum=0.05, maximum=3600)
    page_megabytes: int = setting(50, "largest file that the page of --page takes", minimum=1)
    threads: int = setting(0, "CPU threads of the model; 0: as many as there are cores", minimum=0)
    payload_bucket: str = setting(
        "", "s3://BUCKET that a sample of texts and answers is kept in, for the drift check; empty: nothing is kept"
    )
    payload_share: float = setting(0.1, "share of the texts that are kept, drawn at random", minimum=0, maximum=1)
    payload_content: str = setting(
        "embedding",
        "what is kept of a text beside its answer: what the model made of it, or the text itself too",
        choices=("embedding", "text"),
    )
    payload_seconds: float = setting(300, "most seconds until what is kept is written", minimum=0.1, maximum=86_400)
    payload_megabytes: int = setting(
        64, "most memory for what is kept and not written; beyond it texts are dropped", minimum=1, maximum=100_000
    )
    payload_days: float = setting(14, "age at which a server deletes what servers have kept", minimum=0.0001)


@dataclass(frozen=True)
class BatchSettings:
    """batch: score the CSV and Parquet files of an S3 prefix."""

    chunk_rows: int = setting(2048, "rows read, scored and written at a time", minimum=1)
    predictions_format: str = setting(
        "same", "what predictions are written as; same: as their input", choices=("same", "csv", "parquet")
    )
    poll_seconds: float = setting(
        10.0, "seconds between two looks at what has come in, and at who is champion", minimum=0.1
    )
    embedding_rows: int = setting(10_000, "most embeddings kept for each file for the drift check", minimum=0)


@dataclass(frozen=True)
class ClusterSettings:
    """compile, submit, check with --submit kfp: what a run asks of a cluster. A laptop does not read them."""

    gpus: int = setting(0, "GPUs of train and of evaluate; 0: they run on the CPU", minimum=0, maximum=16)
    gpu_resource: str = setting("nvidia.com/gpu", "what the cluster calls a GPU; a taint of that name is tolerated")
    node_selector: tuple[str, ...] = setting((), "LABEL=VALUE of the nodes that may run train and evaluate")
    tolerations: tuple[str, ...] = setting((), "taints (their keys) that train and evaluate tolerate")
    cpu: float = setting(2.0, "CPU cores of train and of evaluate, requested and limited", minimum=0.1, maximum=1024)
    memory: str = setting("8Gi", "their memory, the shared memory included")
    shared_memory: str = setting("1Gi", "what of it they may share between processes, at /dev/shm")
    light_cpu: float = setting(1.0, "CPU cores of every other step", minimum=0.1, maximum=1024)
    light_memory: str = setting("2Gi", "memory of every other step")
    retries: int = setting(2, "how often a step that failed is tried again", minimum=0, maximum=100)
    retry_seconds: int = setting(30, "seconds before the first of these; twice as many before each next", minimum=0)
    timeout_hours: float = setting(12.0, "hours after which an attempt at a step is ended", minimum=0.01, maximum=720)
    service_account: str = setting("everbert-pipeline", "service account of the steps")
    namespace: str = setting("", "profile of a Kubeflow that several users share; empty: there is only one user")


@dataclass(frozen=True)
class Settings:
    """All sections."""

    data: DataSettings = DataSettings()
    training: TrainingSettings = TrainingSettings()
    promotion: PromotionSettings = PromotionSettings()
    deployment: DeploymentSettings = DeploymentSettings()
    drift: DriftSettings = DriftSettings()
    retrain: RetrainSettings = RetrainSettings()
    serving: ServingSettings = ServingSettings()
    batch: BatchSettings = BatchSettings()
    cluster: ClusterSettings = ClusterSettings()


SECTIONS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Settings))


def load(path: str | Path | None = None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Settings from the defaults, then the YAML file at `path`, then `overrides` (section -> name -> value).

    Raises SettingsError naming the file, the setting and what would be valid.
    """
    merged: dict[str, dict[str, Any]] = {}
    for where, layer in ((str(path), read_yaml(path)), ("settings", overrides or {})):
        check_shape(where, layer, SECTIONS)
        for section, values in layer.items():
            merged.setdefault(section, {}).update(values)
    return Settings(
        **{name: section_of(type(getattr(Settings, name)), name, merged.get(name, {})) for name in SECTIONS}
    )


def as_overrides(settings: Settings) -> dict[str, dict[str, Any]]:
    """The inverse of `load`: plain JSON values, section -> name -> value, of what differs from the defaults."""
    overrides: dict[str, dict[str, Any]] = {}
    for name in SECTIONS:
        section = getattr(settings, name)
        for f in dataclasses.fields(section):
            value = getattr(section, f.name)
            if value != f.default:
                overrides.setdefault(name, {})[f.name] = list(value) if isinstance(value, tuple) else value
    return overrides


def for_steps(settings: Settings) -> dict[str, dict[str, Any]]:
    """`as_overrides` for the pipeline's steps: all but what is said of the cluster, which is compiled in."""
    return as_overrides(dataclasses.replace(settings, cluster=ClusterSettings()))
