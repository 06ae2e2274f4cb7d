"""The KFP adapters of evaluate and decide."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, ClassificationMetrics, Dataset, Input, Metrics, Model, Output

from components import images


@dsl.component(base_image=images.TORCH, install_kfp_package=False)
def evaluate(
    data: Input[Dataset],
    model: Input[Model],
    champion: str,
    metrics: Output[Metrics],
    classification: Output[ClassificationMetrics],
    report: Output[HTML],
    evaluation: Output[Artifact],
) -> None:
    """Score the challenger, and the champion at the address `champion` if there is one, on the held-out rows."""
    from contextlib import ExitStack
    from pathlib import Path

    from components.evaluation import evaluate as step
    from components.evaluation.report import evaluation_page
    from components.files import write_json
    from components.storage import local_folder

    with ExitStack() as stack:
        folder = stack.enter_context(local_folder(champion)) if champion else None
        result = step.evaluate(model.path, data.path, folder)
    challenger = result["challenger"]
    for name in ("accuracy", "macro_f1", "roc_auc", "ece"):
        if challenger[name] is not None:
            metrics.log_metric(name, challenger[name])
    classification.log_confusion_matrix([c["name"] for c in challenger["classes"]], challenger["confusion"])
    roc = challenger["roc"]
    classification.log_roc_curve(roc["fpr"], roc["tpr"], roc["threshold"])
    Path(report.path).write_text(evaluation_page(result), encoding="utf-8")
    write_json(evaluation.path, result)


@dsl.component(base_image=images.LIGHT, install_kfp_package=False)
def decide(
    evaluation: Input[Artifact], new_sources: list, bucket: str, settings: dict, decision: Output[Artifact]
) -> bool:
    """Promote the challenger only on proof; the record goes to decisions/ of the bucket."""
    import json
    from pathlib import Path

    from components import config
    from components.evaluation import decide as step
    from components.evaluation.record import keep_record, without_texts

    result = without_texts(json.loads(Path(evaluation.path).read_text(encoding="utf-8")))
    promotion = config.load(None, settings).promotion
    made = step.decide(result, promotion, new_sources)
    keep_record(made.record(result, promotion, new_sources), Path(decision.path), bucket)
    return made.promoted
