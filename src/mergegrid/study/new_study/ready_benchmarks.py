"""Benchmarks that a new study can name: where their questions are, and how many there are."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergegrid.study.schema.benchmarks import BenchmarkKind


@dataclass(frozen=True)
class ReadyBenchmark:
    """A benchmark whose questions are on the hub or in a package."""

    kind: BenchmarkKind
    questions: int
    """Number of questions, for estimates."""
    records: Mapping[str, str] = field(default_factory=dict)
    """Location of the questions, as in a study; none where a package contains them."""
    abilities: tuple[str, ...] = ()
    """Parts of names by which experts with this ability are recognized."""
    judged: bool = False
    """Whether a judge compares answers, which has to be started first."""


READY: dict[str, ReadyBenchmark] = {
    "gsm8k": ReadyBenchmark(
        "gsm8k",
        1319,
        {
            "source": "hub:openai/gsm8k:main",
            "files": "test-*.parquet",
            "format": "parquet",
            "licence": "MIT",
        },
        ("math", "gsm", "reason"),
    ),
    "math": ReadyBenchmark(
        "math",
        500,
        {"source": "hub:HuggingFaceH4/MATH-500", "files": "test.jsonl", "licence": "MIT"},
        ("math", "gsm", "reason"),
    ),
    "humaneval": ReadyBenchmark("humaneval", 164, {}, ("code", "coding", "python", "program")),
    "mbpp": ReadyBenchmark(
        "mbpp",
        500,
        {
            "source": "hub:google-research-datasets/mbpp:full",
            "files": "test-*.parquet",
            "format": "parquet",
            "licence": "CC BY 4.0",
        },
        ("code", "coding", "python", "program"),
    ),
    "alpaca_eval": ReadyBenchmark(
        "alpaca_eval",
        805,
        {
            "source": "hub:tatsu-lab/alpaca_eval:alpaca_eval.json",
            "format": "json",
            "licence": "CC BY-NC 4.0",
        },
        ("instruct", "chat", "lm"),
        judged=True,
    ),
}
"""By name. The data sets are those of config/modern.yaml."""

#: Columns by which the kind of own records is recognized, the most specific kind first.
COLUMNS: dict[BenchmarkKind, tuple[tuple[str, ...], ...]] = {
    "humaneval": (("task_id",), ("prompt",), ("entry_point",), ("test",)),
    "mbpp": (("task_id",), ("text", "prompt"), ("test_list",)),
    "gsm8k": (("question",), ("answer",)),
    "math": (("problem",), ("solution", "answer")),
    "instructions": (("instruction",), ("output",)),
}


def kind_of_columns(columns: set[str]) -> BenchmarkKind | None:
    """The kind of benchmark whose records have these columns; None if no kind has."""
    for kind, needed in COLUMNS.items():
        if all(columns & set(names) for names in needed):
            return kind
    return None


def columns_text() -> str:
    """The columns of every kind, for messages."""
    return "; ".join(
        f"{kind}: {', '.join(' or '.join(names) for names in needed)}"
        for kind, needed in COLUMNS.items()
    )
