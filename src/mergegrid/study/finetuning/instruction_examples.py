"""Instructions to learn from: read or made up, deduplicated and split once, the same for all seeds.

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
from mergegrid.study.schema.decoders import Instructions
from mergegrid.study.tasks.generators import generate
from mergegrid.study.tasks.tables import read_table, text_column

STAGE_VERSIONS = {"prepare_instructions": 1}

logger = logging.getLogger(__name__)


def prepare_instructions(data: Instructions, path: Path | None) -> pd.DataFrame:
    """Make the examples that a decoder is fine-tuned on.

    Args:
        data: the instructions as configured.
        path: where its records were fetched to, if it has any.

    Raises:
        DataError: a column is missing, or there is too little for both splits.
    """
    examples = _without_duplicates(_examples(data, _records(data, path)))
    # The permutation by which the examples of encoders are split, too.
    shuffle = np.random.RandomState(data.split_seed)
    examples = examples.iloc[shuffle.permutation(len(examples))[: data.count]]
    # Rounded down, but for one example at least.
    learnt = min(int((1 - data.validation_fraction) * len(examples)), len(examples) - 1)
    if learnt < 1:
        raise DataError(
            f"{len(examples)} instructions are left, too few for training and validation; give more"
        )
    logger.info("%d instructions to learn, %d to validate", learnt, len(examples) - learnt)
    split = np.where(np.arange(len(examples)) < learnt, "train", "validation")
    examples.insert(0, "split", split)
    return examples.reset_index(drop=True)


def _records(data: Instructions, path: Path | None) -> pd.DataFrame:
    if data.generated is not None:
        made = data.generated
        return pd.DataFrame(generate(made.generator, made.count, made.seed))
    assert data.records is not None, "a data set has records or a generator"
    assert path is not None, "records are fetched before they are read"
    return read_table(data.records, path)


def _examples(data: Instructions, records: pd.DataFrame) -> pd.DataFrame:
    """Instruction and output of each record that has both."""
    columns = [data.instruction, data.output, *([data.input] if data.input else [])]
    for column in columns:
        if column not in records:
            raise DataError(
                f"the instructions have no column {column!r}; they have "
                f"{', '.join(map(str, records))}: name the right one"
            )
        if data.records is not None:
            records[column] = text_column(data.records, records, column)
    texts = {name: records[name].astype("string").fillna("").str.strip() for name in columns}
    instruction, output = texts[data.instruction], texts[data.output]
    if data.input:
        below = texts[data.input]
        instruction = instruction.where(below == "", instruction + "\n" + below)
    examples = pd.DataFrame({"instruction": instruction, "output": output}).astype("object")
    empty = (examples == "").any(axis="columns")
    if empty.any():
        logger.warning("left out %d records without a question or an answer", int(empty.sum()))
    return examples[~empty]


def _without_duplicates(examples: pd.DataFrame) -> pd.DataFrame:
    """The first example of each question."""
    repeated = examples["instruction"].duplicated()
    if repeated.any():
        logger.info("left out %d repeated questions", int(repeated.sum()))
    return examples[~repeated]
