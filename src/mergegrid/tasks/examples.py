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

from mergegrid.config.tasks import Task
from mergegrid.errors import DataError
from mergegrid.provenance import digest
from mergegrid.tasks.pairs import rank_pairs
from mergegrid.tasks.tables import read_table

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def prepare(task: Task, paths: Mapping[str, Path]) -> pd.DataFrame:
    """Make the examples of a task.

    Args:
        task: the task as configured.
        paths: where each of its tables (`train`, and `validation`, `test` if given) was fetched to.

    Raises:
        DataError: a column is missing, a label is unknown, or a split is left empty.
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
    label = task.rank_pairs.score if task.rank_pairs else task.label
    for column in (*task.text, label):
        if column not in frame:
            raise DataError(
                f"{table.source} has no column {column!r}; it has {', '.join(map(str, frame))}"
            )
    texts = [frame[column].astype("string").str.strip() for column in task.text]
    examples = pd.DataFrame(
        {
            "text_a": texts[0],
            "text_b": texts[1] if len(texts) == 2 else None,
            "label": frame[label],
        }
    )
    empty = frame[label].isna()
    for text in texts:
        empty |= text.isna() | (text == "")
    if empty.any():
        logger.info("%s: left out %d rows without text or label", name, int(empty.sum()))
        examples = examples[~empty].reset_index(drop=True)
    examples["label"] = _labels(task, examples["label"], table.source)
    return examples.astype({"text_a": "object", "text_b": "object"})


def _labels(task: Task, labels: "pd.Series[Any]", source: str) -> "pd.Series[Any]":
    if task.is_regression or task.rank_pairs:
        numbers = pd.to_numeric(labels, errors="coerce").astype("float64")
        if numbers.isna().any():
            value = labels[numbers.isna()].iloc[0]
            raise DataError(
                f"{source} has the label {value!r}, which is not a number; "
                "list the classes with `labels`, or name another column"
            )
        return numbers
    classes = {label: index for index, label in enumerate(task.classes)}
    unknown = labels[~labels.isin(list(classes))]
    if not unknown.empty:
        values = ", ".join(repr(value) for value in unknown.unique()[:5].tolist())
        raise DataError(
            f"{source} has {len(unknown)} rows with labels that the task does not list: {values}; "
            f"listed are {task.classes}"
        )
    return labels.map(classes).astype("int64")


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
