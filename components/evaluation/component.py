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
    cost: Output[Artifact],
) -> None:
    """Score the challenger, and the champion at the address `champion` if there is one, on the held-out rows."""
    from contextlib import ExitStack
    from pathlib import Path

    from components.accounting.cost import measured
    from components.evaluation.report import evaluation_page
    from components.files import write_json
    from components.storage import local_folder

    with ExitStack() as stack:
        stack.enter_context(measured(cost.path))
        from components.evaluation import evaluate as step  # loading torch takes time too

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
    evaluation: Input[Artifact],
    prepare_cost: Input[Artifact],
    train_cost: Input[Artifact],
    evaluate_cost: Input[Artifact],
    new_sources: list,
    bucket: str,
    settings: dict,
    model_name: str,
    cause: str,
    retrain_id: str,
    run_id: str,
    decision: Output[Artifact],
) -> bool:
    """Promote the challenger only on proof; the record goes to decisions/ of the bucket, a line to the ledger."""
    import json
    from pathlib import Path

    from components import config
    from components.accounting import outcomes
    from components.accounting.cost import Cost
    from components.evaluation import decide as step
    from components.evaluation.record import keep_record, without_texts

    result = without_texts(json.loads(Path(evaluation.path).read_text(encoding="utf-8")))
    promotion = config.load(None, settings).promotion
    made = step.decide(result, promotion, new_sources)
    record = keep_record(made.record(result, promotion, new_sources), Path(decision.path), bucket)
    parts = (prepare_cost, train_cost, evaluate_cost)
    costs = [Cost(**json.loads(Path(part.path).read_text(encoding="utf-8"))) for part in parts]
    described = {"id": retrain_id or run_id, "model_name": model_name, "cause": cause, "record": record}
    outcomes.write_run(bucket, result, made.verdict, made.reason, costs, **described)
    return made.promoted
