"""Task heads of encoders: what transformers must be told of a task."""

from typing import Any

from mergegrid.study.schema.encoder_jobs import Target


def head_config(target: Target) -> dict[str, Any]:
    """Values of a model's config that give it the head and the loss of a task."""
    if target.is_regression:
        return {"num_labels": 1, "problem_type": "regression"}
    names = {index: str(label) for index, label in enumerate(target.classes)}
    return {
        "num_labels": len(names),
        "problem_type": "single_label_classification",
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }
