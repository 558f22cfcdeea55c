"""Examples of a task: read, checked, deduplicated and split once, the same for every model.

The prepared table has one row per example:

    split       text_a                               text_b  label
    train       What is the capital of Yugoslavia ?  None    3
    validation  ...
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.errors import DataError
from mergegrid.hashing import digest
from mergegrid.study.schema.tasks import Table, Task
from mergegrid.study.tasks.hub_splits import class_names
from mergegrid.study.tasks.labels import class_of, is_missing, named_labels, number_of
from mergegrid.study.tasks.rank_pairs import rank_pairs
from mergegrid.study.tasks.table_files import read_table, row_name, text_column, values_of

STAGE_VERSIONS = {"prepare_task": 1}

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def prepare(task: Task, paths: Mapping[str, Path]) -> pd.DataFrame:
    """Prepare the examples of a task.

    Args:
        task: the settings of the task.
        paths: where its tables (`train`, and `validation`, `test` if any) were fetched to.

    Raises:
        DataError: a column is missing or has a value that is not text, a label is unknown or not a
            number, or a split is empty.
    """
    splits = {
        name: _examples(task, paths[name], name)
        for name in SPLITS
        if getattr(task, name) is not None
    }
    read = {name: len(part) for name, part in splits.items()}
    if task.drop_duplicates or task.rank_pairs:
        splits = _without_duplicates(splits)
    unique = {name: len(part) for name, part in splits.items()}
    # The permutation of the reference code's split (arXiv 2311.03099).
    shuffle = np.random.RandomState(task.split_seed)
    splits = _split(task, splits, shuffle)
    if task.rank_pairs:
        splits = {name: rank_pairs(task.rank_pairs, part, shuffle) for name, part in splits.items()}
    splits = {name: _sample(task, name, splits[name], shuffle) for name in SPLITS}
    for name, part in splits.items():
        if part.empty:
            raise DataError(
                f"the {name} split has no examples; add examples, or raise the sizes of the task"
                f"{_dropped(read, unique)}"
            )
        logger.info("%s: %d examples", name, len(part))
    return pd.concat(splits, names=["split"]).reset_index(level="split").reset_index(drop=True)


def examples_digest(examples: pd.DataFrame) -> str:
    """SHA-256 of prepared examples."""
    return digest(examples.to_dict(orient="split", index=False))


def _examples(task: Task, path: Path, name: str) -> pd.DataFrame:
    """Read the rows of a table that have texts and a label."""
    table = getattr(task, name)
    frame = read_table(table, path)
    texts = [
        # Surrounding white space is not part of a text.
        [text.strip() if text else None for text in text_column(table, frame, column)]
        for column in task.text
    ]
    labels = values_of(table, frame, task.rank_pairs.score if task.rank_pairs else task.label)
    if table.split and task.classes:
        labels = named_labels(labels, class_names(table, path, task.label), task.classes)
    complete = [
        row
        for row, (label, *parts) in enumerate(zip(labels, *texts, strict=True))
        if all(parts) and not is_missing(label, task.classes)
    ]
    if len(complete) < len(labels):
        first = next(row for row, kept in enumerate([*complete, None]) if row != kept)
        logger.warning(
            "%s: dropped %d of %d rows without text or label, first %s",
            *(name, len(labels) - len(complete), len(labels), row_name(table, first)),
        )
    examples = pd.DataFrame(
        {
            "text_a": [texts[0][row] for row in complete],
            "text_b": [texts[1][row] for row in complete] if len(texts) == 2 else None,
        },
        dtype="object",
    )
    examples["label"] = _labels(task, table, {row: labels[row] for row in complete})
    return examples


def _labels(task: Task, table: Table, values: Mapping[int, Any]) -> NDArray[Any]:
    """Convert label values by row to numbers or class indices."""
    if task.is_regression or task.rank_pairs:
        numbers = [number_of(value) for value in values.values()]
        if None in numbers:
            row, value = list(values.items())[numbers.index(None)]
            raise DataError(
                f"{row_name(table, row)} has the label {value!r}, which is not a number; correct "
                "it, list the classes with `labels`, or choose another label column"
            )
        return np.array(numbers, dtype=np.float64)
    classes = [class_of(value, task.classes) for value in values.values()]
    if None in classes:
        unknown = [row for row, index in zip(values, classes, strict=True) if index is None]
        labels = ", ".join(dict.fromkeys(repr(values[row]) for row in unknown[:100]))
        raise DataError(
            f"{table.source} has {len(unknown)} rows with labels that are not in `labels` of the "
            f"task, {task.classes}: {labels}; the first is {row_name(table, unknown[0])}; correct "
            "the rows, or add their labels"
        )
    return np.array(classes, dtype=np.int64)


def _without_duplicates(splits: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Drop repeated `train` examples, and those that a later split has too; `test` is unchanged."""
    keys = {name: _keys(part) for name, part in splits.items()}
    unique = {}
    for name, part in splits.items():
        keep = ~keys[name].duplicated() if name == "train" else pd.Series(True, part.index)
        for later in SPLITS[SPLITS.index(name) + 1 :]:
            if later in keys:
                keep &= ~keys[name].isin(keys[later])
        if not keep.all():
            logger.info("%s: dropped %d repeated examples", name, int((~keep).sum()))
        unique[name] = part[keep].reset_index(drop=True)
    return unique


def _dropped(read: Mapping[str, int], unique: Mapping[str, int]) -> str:
    """How many examples were dropped as repeated, for a message; "" if none."""
    counts = [
        f"{read[name] - unique[name]} of {read[name]} in {name}"
        for name in read
        if unique[name] < read[name]
    ]
    if not counts:
        return ""
    return (
        f" (dropped, because they repeat or occur in a later split: {', '.join(counts)}; "
        "`drop_duplicates: false` keeps them)"
    )


def _keys(part: pd.DataFrame) -> "pd.Series[str]":
    """Texts without differences in case and white space."""
    text = part["text_a"].astype(str) + "\t" + part["text_b"].astype(str)
    return text.str.lower().str.replace(r"[^\S\t]+", " ", regex=True)


def _split(
    task: Task, splits: dict[str, pd.DataFrame], shuffle: np.random.RandomState
) -> dict[str, pd.DataFrame]:
    """Shuffle `train`, and take missing splits from it."""
    splits = dict(splits)
    train = splits["train"].iloc[shuffle.permutation(len(splits["train"]))]
    if "test" not in splits:
        held_out = round(task.test_fraction * len(train))
        splits["test"], train = train.iloc[:held_out], train.iloc[held_out:]
    if task.sizes.train is not None and not task.rank_pairs:
        train = train.iloc[: task.sizes.train]
    if "validation" not in splits:
        # Rounded down, as the reference code does.
        size = int((1 - task.validation_fraction) * len(train))
        train, splits["validation"] = train.iloc[:size], train.iloc[size:]
    splits["train"] = train
    return splits


def _sample(
    task: Task, name: str, part: pd.DataFrame, shuffle: np.random.RandomState
) -> pd.DataFrame:
    """Draw as many examples of a split as `sizes` permits."""
    size = getattr(task.sizes, name)
    if task.rank_pairs and task.sizes.train is not None and name != "test":
        train = int((1 - task.validation_fraction) * task.sizes.train)
        size = train if name == "train" else size or task.sizes.train - train
    elif name == "train":
        size = None
    if size is None or size >= len(part):
        return part.reset_index(drop=True)
    drawn = np.sort(shuffle.permutation(len(part))[:size])
    return part.iloc[drawn].reset_index(drop=True)
