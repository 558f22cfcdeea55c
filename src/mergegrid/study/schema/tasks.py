"""Tasks: where their examples are, which columns matter, and how they are scored."""

import re
from typing import Annotated, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.settings import Settings

CLASSIFICATION_METRICS = ("accuracy", "matthews", "f1", "accuracy_and_f1")
REGRESSION_METRICS = ("pearson", "spearman", "pearson_and_spearman")
Metric = Literal[
    "accuracy",
    "matthews",
    "f1",
    "accuracy_and_f1",
    "pearson",
    "spearman",
    "pearson_and_spearman",
]
Format = Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "lines"]
Count = Annotated[int, Field(ge=1)]
Label = StrictBool | int | str


class Table(SourceConfig):
    """One table of examples."""

    omitted_when_default = frozenset({"config", "split"})

    config: str | None = None
    """Configuration of a data set laid out as on the hub, such as `mrpc` of `hub:nyu-mll/glue`."""
    split: str | None = None
    """Split of such a data set, instead of `files`: its README or file names tell which files
    belong to it, and a label may be written by the name of its class."""
    files: str | None = None
    """Pattern of the files to read in a folder, such as `train-*.parquet`."""
    format: Format = "auto"
    """Format of the files; `auto` goes by the file name, `lines` needs `pattern`."""
    pattern: str | None = None
    """For `lines`: regular expression whose named groups are the columns."""
    encoding: str = "utf-8"
    """Encoding of a text file."""
    rows: Annotated[str, Field(pattern=r"^-?\d*:-?\d*$")] = ":"
    """Slice of the rows, as in Python: `-500:` takes the last 500, `:-500` leaves them out."""

    @model_validator(mode="after")
    def _splits_exclude_files(self) -> "Table":
        if self.config is not None and self.split is None:
            raise ValueError(
                f"config {self.config!r} without a split; add `split`, such as `split: train`"
            )
        if self.split is not None and (self.files is not None or self.format == "lines"):
            raise ValueError(
                f"split {self.split!r} already chooses the files; remove `files` and `pattern`, or "
                "`split`"
            )
        return self

    @model_validator(mode="after")
    def _lines_have_a_pattern(self) -> "Table":
        if (self.format == "lines") != (self.pattern is not None):
            raise ValueError(
                f"format {self.format} with pattern {self.pattern!r}; "
                "give a pattern exactly when the format is `lines`"
            )
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groupindex
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is not valid: {error}") from error
            if not groups:
                raise ValueError(
                    f"pattern {self.pattern!r} names no columns; write them as (?P<name>...)"
                )
        return self


class RankPairs(Settings):
    """Makes sentence pairs from rated sentences: is the first one rated higher than the second?

    Within each split, sentences are shuffled and paired; a pair counts when the ratings are far
    enough apart. No sentence is in two splits.
    """

    score: str
    """Column with the rating."""
    min_gap: Annotated[float, Field(gt=0)] = 1.0
    """Smallest difference of the two ratings."""
    max_words: Count | None = None
    """Maximum words of a sentence."""
    per_sentence: Count = 2
    """How often a sentence is paired."""


class Sizes(Settings):
    """Number of examples to use of each split, after shuffling; unset: all."""

    train: Count | None = None
    """Examples for fine-tuning, including the validation split."""
    validation: Count | None = None
    """Examples for selecting epochs and hyper-parameters."""
    test: Count | None = None
    """Examples for the reported scores."""


class Target(Settings):
    """The part of a task that a model depends on: its answers and how they are scored."""

    omitted_when_default = frozenset({"label_names", "unmerged"})

    task: str
    """Name of the task."""
    metric: Metric
    """How predictions are scored."""
    classes: list[Label]
    """The classes in order; empty for regression."""
    label_names: list[str] | None = None
    """Names of the classes in a ready expert, where they differ from the labels."""
    max_length: int
    """Tokens after which a text is truncated."""
    unmerged: list[str] = []
    """Patterns of tensors besides the head that a score takes from the task's expert."""

    @property
    def is_regression(self) -> bool:
        """Whether the answer is a number rather than a class."""
        return not self.classes


class Task(Settings):
    """A task for encoders: classification or regression of one text or a pair of texts."""

    omitted_when_default = frozenset({"label_names"})

    text: Annotated[list[str], Field(min_length=1, max_length=2)]
    """Column of the text, or the two columns of a pair."""
    label: str = "label"
    """Column of the answer."""
    labels: Annotated[list[Label], Field(min_length=2)] | None = None
    """The values of the label column, in the order of the classes; unset for regression. A number
    also stands for its text (`1`, `"1"`, `1.0`), and a boolean for `"True"`, `"yes"` and 1."""
    label_names: list[str] | None = None
    """What ready experts call the labels, in their order, where they have other names for them than
    the table (`[entailment, neutral, contradiction]` for 0, 1, 2); unset: as the table does."""
    metric: Metric
    """How predictions are scored."""
    train: Table
    """Training examples."""
    validation: Table | None = None
    """Examples for selection; by default a fraction of the training examples."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of the training examples held out for selection when there is no `validation`
    table."""
    test: Table | None = None
    """Examples for the reported scores; by default a fraction of the `train` table."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the `train` table held out for the reported scores when there is no `test`
    table."""
    drop_duplicates: bool = True
    """Whether to drop examples that repeat in `train` or occur in a later split too."""
    rank_pairs: RankPairs | None = None
    """Makes the pairs of a pair task from single rated sentences."""
    sizes: Sizes = Sizes()
    """Number of examples to use of each split."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the shuffle that splits and samples."""

    @property
    def is_regression(self) -> bool:
        """Whether the answer is a number rather than a class."""
        return self.labels is None and self.rank_pairs is None

    @property
    def classes(self) -> list[Label]:
        """The classes in order; empty for regression."""
        return [0, 1] if self.rank_pairs else self.labels or []

    @property
    def tables(self) -> dict[str, Table]:
        """The tables by split, as far as they are configured."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: table for split, table in tables.items() if table}

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: list[Label] | None) -> list[Label] | None:
        if labels is None:
            return None
        written = {
            str(label).lower() if isinstance(label, bool) else str(label) for label in labels
        }
        if min(len(set(labels)), len(written)) != len(labels):
            raise ValueError(f"{labels} lists a label twice; list every label once")
        return labels

    @model_validator(mode="after")
    def _consistent(self) -> "Task":
        if self.label_names is not None and len(set(self.label_names)) != len(self.classes):
            raise ValueError(
                f"label_names are {self.label_names} for the labels {self.classes}; give "
                "every label a distinct name"
            )
        allowed = REGRESSION_METRICS if self.is_regression else CLASSIFICATION_METRICS
        if self.metric not in allowed:
            kind = "regression (no labels)" if self.is_regression else "classification"
            raise ValueError(
                f"metric {self.metric} does not fit {kind}; use one of {', '.join(allowed)}"
            )
        if self.metric in ("f1", "accuracy_and_f1") and len(self.classes) != 2:
            raise ValueError(
                f"metric {self.metric} needs two classes, found {len(self.classes)}; use accuracy"
            )
        if self.rank_pairs and (self.labels is not None or len(self.text) != 1):
            raise ValueError(
                "rank_pairs makes its own pairs and labels; give one text column and no labels"
            )
        if self.rank_pairs and (self.validation is not None or self.test is not None):
            raise ValueError(
                "rank_pairs splits the sentences of the train table itself; "
                "leave out the validation and test tables"
            )
        return self

    def target(self, name: str, max_length: int) -> Target:
        """What a model that reads `max_length` tokens depends on."""
        return Target(task=name, metric=self.metric, classes=self.classes, max_length=max_length)

    def without_notes(self) -> "Task":
        """The task without licenses and names of labels, which do not change its examples."""
        unlicensed = {
            split: table.model_copy(update={"licence": None})
            for split, table in self.tables.items()
        }
        return self.model_copy(update={**unlicensed, "label_names": None})
