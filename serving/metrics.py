"""What Prometheus reads at /metrics, beside kserve's own four histograms. Registered once, when this is imported."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from components.classifier.classifier import Prediction

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)

REQUESTS = Counter(
    "everbert_requests", "Requests for predictions; status is HTTP's (499: the client went away) or gRPC's",
    ["protocol", "status"],
)  # fmt: skip
IN_FLIGHT = Gauge("everbert_requests_in_flight", "Requests that are being answered", ["protocol"])
LATENCY = Histogram(
    "everbert_request_seconds", "From the first byte read to the last byte written", ["protocol"], buckets=_SECONDS
)
QUEUE = Histogram("everbert_queue_seconds", "From a request's arrival to its first batch", buckets=_SECONDS)
BATCH_TOKENS = Histogram("everbert_batch_tokens", "Tokens in one forward pass of the model", buckets=_TOKENS)
TEXTS = Counter("everbert_texts", "Texts scored")
WINDOWS = Counter("everbert_windows", "Windows scored; a text that fits the model's length takes one")
LONG_TEXTS = Counter("everbert_long_texts", "Texts longer than the model's length, read in several windows, not cut")
CONFIDENCE = Histogram("everbert_confidence", "Calibrated confidence of the predicted label", buckets=_CONFIDENCE)
LABELS = Counter("everbert_predictions", "Predictions by label", ["label"])
ABSTENTIONS = Counter("everbert_abstentions", "Predictions whose confidence was below the model's abstain threshold")
PAYLOAD = Counter(
    "everbert_payload_texts", "Texts drawn for the payload log; full: no memory was left, failed: the object store did",
    ["outcome"],
)  # fmt: skip
_WAITING = Gauge("everbert_waiting_tokens", "About how many tokens wait for the model")
_MODEL = Gauge("everbert_model_info", "1 for the model that is served", ["name", "version"])

for _outcome in ("written", "full", "failed"):
    PAYLOAD.labels(_outcome)  # 0 before it first happens, so that a rate can be told


def watch(waiting_tokens: Callable[[], int]) -> None:
    """Where the length of the queue is read."""
    _WAITING.set_function(waiting_tokens)


def served(name: str, version: str) -> None:
    """From now on this version, and no other."""
    _MODEL.clear()
    _MODEL.labels(name, version).set(1)


def predicted(predictions: list[Prediction]) -> None:
    """Count one request's answers."""
    TEXTS.inc(len(predictions))
    for prediction in predictions:
        WINDOWS.inc(prediction.windows)
        LONG_TEXTS.inc(prediction.windows > 1)
        CONFIDENCE.observe(prediction.confidence_score)
        LABELS.labels(prediction.predicted_sentiment).inc()
        ABSTENTIONS.inc(prediction.abstained)
