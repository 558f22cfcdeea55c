"""Which questions of a benchmark are of the validation split: a share of them by their names."""

import pandas as pd

from mergegrid.errors import DataError
from mergegrid.hashing import digest
from mergegrid.study.schema.decoder_jobs import QuestionSplit
from mergegrid.study.schema.splits import Split


def split_of(benchmark: str, question: str, validation_fraction: float) -> Split:
    """Return the split of a question, which depends on its name alone, not on other questions."""
    position = int(digest([benchmark, question])[:8], 16) / 2**32
    return "validation" if position < validation_fraction else "test"


def in_split(questions: pd.DataFrame, chosen: QuestionSplit) -> pd.DataFrame:
    """The questions that are read.

    Raises:
        DataError: none is in the split.
    """
    if chosen.split is None:
        return questions
    benchmark, fraction = chosen.benchmark, chosen.validation_fraction
    splits = [split_of(benchmark, name, fraction) for name in questions["id"]]
    part = questions[[split == chosen.split for split in splits]]
    if part.empty:
        raise DataError(
            f"none of the {len(questions)} questions of {benchmark} is in the {chosen.split} "
            "split; use more questions, change decoders.validation_fraction "
            f"({fraction:g}), or remove similarity.split"
        )
    return part
