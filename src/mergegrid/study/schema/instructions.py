"""Questions with answers, and texts: what decoders are trained on, and read for statistics."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from mergegrid.settings import Settings
from mergegrid.study.schema.benchmarks import Generated, with_place
from mergegrid.study.schema.tasks import Table


class QuestionsAndAnswers(Settings):
    """Questions with answers."""

    records: Table | None = None
    """Data set on the hub, or local files."""
    generated: Generated | None = None
    """Generates them instead."""
    instruction: str = "instruction"
    """Column of the question."""
    input: str | None = None
    """Column with an additional input, appended to the question where it is not empty."""
    output: str = "output"
    """Column of the answer."""
    prompt: str | None = None
    """Text around each `{instruction}`; by default that of the expert's first benchmark."""

    @model_validator(mode="after")
    def _one_source(self) -> "QuestionsAndAnswers":
        if (self.records is None) == (self.generated is None):
            raise ValueError(
                "instructions need `records` or `generated`; give exactly one of the two"
            )
        return self

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        return None if prompt is None else with_place(prompt)


class Instructions(QuestionsAndAnswers):
    """Questions with answers to train on."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction held out to measure the loss after every epoch."""
    count: Annotated[int, Field(ge=2)] | None = None
    """Number of examples to use, after shuffling; unset: all."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the shuffle that splits and samples."""

    @property
    def most_examples(self) -> int | None:
        """Upper bound of the number of training examples; None if unknown."""
        counts = [self.count, self.generated.count if self.generated else None]
        known = [count for count in counts if count is not None]
        return int((1 - self.validation_fraction) * min(known)) if known else None


class Calibration(QuestionsAndAnswers):
    """Texts that the model statistics of a decoder are gathered from, in a random order: questions
    with answers, of which the answers count, or raw texts."""

    texts: str | None = None
    """Column of raw texts, all of whose tokens count; unset: questions with answers."""

    @model_validator(mode="after")
    def _texts_are_records(self) -> "Calibration":
        if self.texts is not None and self.records is None:
            raise ValueError("`texts` is a column of `records`; give records, or remove `texts`")
        return self

    @property
    def most_examples(self) -> int | None:
        """Upper bound of the number of texts; None if unknown."""
        return self.generated.count if self.generated else None
