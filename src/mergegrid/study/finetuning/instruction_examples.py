"""Instructions to fine-tune on: read or generated, deduplicated and split once for all seeds.

The prepared table has one row per question:

    split       instruction                                  output
    train       Join these words with hyphens: lamp river    lamp-river
    validation  ...
"""

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from mergegrid.errors import DataError
from mergegrid.study.schema.instructions import (
    Calibration,
    Instructions,
    QuestionsAndAnswers,
)
from mergegrid.study.tasks.generators import generate
from mergegrid.study.tasks.table_files import read_table, text_column

STAGE_VERSIONS = {"prepare_instructions": 1}

logger = logging.getLogger(__name__)


def prepare_instructions(data: Instructions, path: Path | None) -> pd.DataFrame:
    """Prepare the examples that a decoder is fine-tuned on.

    Args:
        data: settings of the instructions.
        path: where the records were fetched to; None for generated ones.

    Raises:
        DataError: a column is missing, or too few examples are left for both splits.
    """
    examples = _examples(data, _records(data, path))
    repeated = examples["instruction"].duplicated()
    if repeated.any():
        logger.info("dropped %d repeated questions", int(repeated.sum()))
    examples = examples[~repeated]
    # The same permutation splits the examples of encoders.
    shuffle = np.random.RandomState(data.split_seed)
    examples = examples.iloc[shuffle.permutation(len(examples))[: data.count]]
    # Rounded down, but at least one example validates.
    train = min(int((1 - data.validation_fraction) * len(examples)), len(examples) - 1)
    if train < 1:
        raise DataError(
            f"only {len(examples)} instructions are left, too few for training and validation; "
            "add more"
        )
    logger.info("%d instructions for training, %d for validation", train, len(examples) - train)
    split = np.where(np.arange(len(examples)) < train, "train", "validation")
    examples.insert(0, "split", split)
    return examples.reset_index(drop=True)


def prepare_calibration(data: Calibration, path: Path | None) -> pd.DataFrame:
    """Prepare texts that model statistics are gathered from, in a random order.

    Returns:
        A table with the column `text`, or with the columns `instruction` and `output`.

    Raises:
        DataError: a column is missing, or nothing is left.
    """
    records = _records(data, path)
    if data.texts is None:
        examples = _examples(data, records)
    else:
        assert data.records is not None, "texts are a column of records"
        texts = pd.Series(text_column(data.records, records, data.texts), dtype="string")
        texts = texts.fillna("").str.strip()
        examples = pd.DataFrame({"text": texts[texts != ""]}).astype("object")
    examples = examples.drop_duplicates()
    if examples.empty:
        raise DataError("no text is left to gather statistics from; add some")
    order = np.random.RandomState(0).permutation(len(examples))
    return examples.iloc[order].reset_index(drop=True)


def _records(data: QuestionsAndAnswers, path: Path | None) -> pd.DataFrame:
    if data.generated is not None:
        settings = data.generated
        return pd.DataFrame(generate(settings.generator, settings.count, settings.seed))
    assert data.records is not None, "a data set has records or a generator"
    assert path is not None, "records are fetched before they are read"
    return read_table(data.records, path)


def _examples(data: QuestionsAndAnswers, records: pd.DataFrame) -> pd.DataFrame:
    """Instruction and output of each record that has both."""
    columns = [data.instruction, data.output, *([data.input] if data.input else [])]
    for column in columns:
        if column not in records:
            raise DataError(
                f"the instructions have no column {column!r}; choose one of "
                f"{', '.join(map(str, records))}"
            )
        if data.records is not None:
            records[column] = text_column(data.records, records, column)
    texts = {name: records[name].astype("string").fillna("").str.strip() for name in columns}
    instruction, output = texts[data.instruction], texts[data.output]
    if data.input:
        extra = texts[data.input]
        instruction = instruction.where(extra == "", instruction + "\n" + extra)
    examples = pd.DataFrame({"instruction": instruction, "output": output}).astype("object")
    empty = (examples == "").any(axis="columns")
    if empty.any():
        logger.warning("dropped %d records without a question or an answer", int(empty.sum()))
    return examples[~empty]
