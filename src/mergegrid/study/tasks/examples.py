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
from mergegrid.study.tasks.labels import class_of, is_missing, number_of
from mergegrid.study.tasks.pairs import rank_pairs
from mergegrid.study.tasks.tables import place, read_table, text_column, values_of

STAGE_VERSIONS = {"prepare_task": 1}

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def prepare(task: Task, paths: Mapping[str, Path]) -> pd.DataFrame:
    """Make the examples of a task.

    Args:
        task: the task as configured.
        paths: where each of its tables (`train`, and `validation`, `test` if given) was fetched to.

    Raises:
        DataError: a column is missing or holds no text, a label is unknown or not a number, or a
            split is left empty.
    """
    splits = {
        name: _examples(task, paths[name], name)
        for name in SPLITS
        if getattr(task, name) is not None
    }
    if task.drop_duplicates or task.rank_pairs:
        splits = _without_duplicates(splits)
    # The permutation of the reference code's split (arXiv 2311.03099).
    shuffle = np.random.RandomState(task.split_seed)
    splits = _split(task, splits, shuffle)
    if task.rank_pairs:
        splits = {name: rank_pairs(task.rank_pairs, part, shuffle) for name, part in splits.items()}
    splits = {name: _sample(task, name, splits[name], shuffle) for name in SPLITS}
    for name, part in splits.items():
        if part.empty:
            raise DataError(f"no example is left in the {name} split; give more, or larger sizes")
        logger.info("%s: %d examples", name, len(part))
    return pd.concat(splits, names=["split"]).reset_index(level="split").reset_index(drop=True)


def examples_digest(examples: pd.DataFrame) -> str:
    """SHA-256 that stands for prepared examples."""
    return digest(examples.to_dict(orient="split", index=False))


def _examples(task: Task, path: Path, name: str) -> pd.DataFrame:
    table = getattr(task, name)
    frame = read_table(table, path)
    texts = [
        # White space around a text is not part of it.
        [text.strip() if text else None for text in text_column(table, frame, column)]
        for column in task.text
    ]
    labels = values_of(table, frame, task.rank_pairs.score if task.rank_pairs else task.label)
    whole = [
        row
        for row, (label, *each) in enumerate(zip(labels, *texts, strict=True))
        if all(each) and not is_missing(label, task.classes)
    ]
    if len(whole) < len(labels):
        gap = next(row for row, kept in enumerate([*whole, None]) if row != kept)
        logger.warning(
            "%s: left out %d of %d rows without text or label, first %s",
            *(name, len(labels) - len(whole), len(labels), place(table, gap)),
        )
    examples = pd.DataFrame(
        {
            "text_a": [texts[0][row] for row in whole],
            "text_b": [texts[1][row] for row in whole] if len(texts) == 2 else None,
        },
        dtype="object",
    )
    examples["label"] = _labels(task, table, {row: labels[row] for row in whole})
    return examples


def _labels(task: Task, table: Table, values: Mapping[int, Any]) -> NDArray[Any]:
    """The numbers or the classes of labels by row."""
    if task.is_regression or task.rank_pairs:
        numbers = [number_of(value) for value in values.values()]
        if None in numbers:
            row, value = list(values.items())[numbers.index(None)]
            raise DataError(
                f"{place(table, row)} has the label {value!r}, which is not a number; "
                "correct it, list the classes with `labels`, or name another column"
            )
        return np.array(numbers, dtype=np.float64)
    classes = [class_of(value, task.classes) for value in values.values()]
    if None in classes:
        unknown = [row for row, index in zip(values, classes, strict=True) if index is None]
        named = ", ".join(dict.fromkeys(repr(values[row]) for row in unknown[:100]))
        raise DataError(
            f"{table.source} has {len(unknown)} rows with labels that the task does not list: "
            f"{named}; listed are {task.classes}, and the first is {place(table, unknown[0])}: "
            "correct the rows, or list their label"
        )
    return np.array(classes, dtype=np.int64)


def _without_duplicates(splits: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Leave out what repeats in `train`, and what a later split has too; `test` stays whole."""
    keys = {name: _keys(part) for name, part in splits.items()}
    kept = {}
    for name, part in splits.items():
        later = [keys[each] for each in SPLITS[SPLITS.index(name) + 1 :] if each in keys]
        fresh = ~keys[name].duplicated() if name == "train" else pd.Series(True, part.index)
        for other in later:
            fresh &= ~keys[name].isin(other)
        if not fresh.all():
            logger.info("%s: left out %d repeated examples", name, int((~fresh).sum()))
        kept[name] = part[fresh].reset_index(drop=True)
    return kept


def _keys(part: pd.DataFrame) -> "pd.Series[str]":
    text = part["text_a"].astype(str) + "\t" + part["text_b"].astype(str)
    return text.str.lower().str.replace(r"[^\S\t]+", " ", regex=True)


def _split(
    task: Task, splits: dict[str, pd.DataFrame], shuffle: np.random.RandomState
) -> dict[str, pd.DataFrame]:
    splits = dict(splits)
    train = splits["train"].iloc[shuffle.permutation(len(splits["train"]))]
    if "test" not in splits:
        held_out = round(task.test_fraction * len(train))
        splits["test"], train = train.iloc[:held_out], train.iloc[held_out:]
    if task.sizes.train is not None and not task.rank_pairs:
        train = train.iloc[: task.sizes.train]
    if "validation" not in splits:
        # Rounded down, as the reference code does.
        learnt = int((1 - task.validation_fraction) * len(train))
        train, splits["validation"] = train.iloc[:learnt], train.iloc[learnt:]
    splits["train"] = train
    return splits


def _sample(
    task: Task, name: str, part: pd.DataFrame, shuffle: np.random.RandomState
) -> pd.DataFrame:
    size = getattr(task.sizes, name)
    if task.rank_pairs and task.sizes.train is not None and name != "test":
        learnt = int((1 - task.validation_fraction) * task.sizes.train)
        size = learnt if name == "train" else size or task.sizes.train - learnt
    elif name == "train":
        size = None
    if size is None or size >= len(part):
        return part.reset_index(drop=True)
    chosen = np.sort(shuffle.permutation(len(part))[:size])
    return part.iloc[chosen].reset_index(drop=True)
