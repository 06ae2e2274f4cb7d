"""The model card: README.md of a model folder (Mitchell et al. 2019, "Model Cards for Model Reporting")."""

from importlib import resources

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from components.classifier.model_folder import ModelDescription
from components.data.data_set import DataSet
from components.report import shown


def model_card(
    description: ModelDescription, data_set: DataSet, validation: pd.DataFrame, p: NDArray[np.float64]
) -> str:
    """Markdown. `p` [n, classes] are the calibrated probabilities of the n validation rows."""
    labels, number = data_set.labels, validation["label"].to_numpy()
    right = p.argmax(axis=1) == number
    slices = [(f"source {s}", (validation["source"] == s).to_numpy()) for s in sorted(set(validation["source"]))]
    slices += [(f"label {name}", number == n) for n, name in labels.id2label.items()]
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)  # noqa: S701 (Markdown)
    environment.filters |= {"shown": shown, "cell": lambda text: str(text).replace("|", "\\|").replace("\n", " ")}
    template = environment.from_string(resources.files("components.training").joinpath("card.md").read_text("utf-8"))
    return template.render(
        model=description,
        labels=labels,
        start=f"the model `{description.warm_start}`" if description.warm_start else f"`{description.base_model}`",
        sources=sorted(data_set.description["counts"]["train"]["source"].items()),
        balance=list(data_set.description["class_balance"].items()),
        slices=[(name, int(inside.sum()), float(right[inside].mean())) for name, inside in slices if inside.any()],
    )
