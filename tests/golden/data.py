"""Golden numbers of preparing data: examples of tasks, questions and instructions."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from golden.recorded import Numbers
from mergegrid.study.finetuning.instruction_examples import prepare_instructions as prepare_outputs
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.instructions import Instructions
from mergegrid.study.schema.tasks import Task
from mergegrid.study.tasks.examples import examples_digest, prepare
from mergegrid.study.tasks.questions import prepare_questions as prepare_benchmark

GSM8K = [
    {"question": "Two and three?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
    {"question": "What is left?", "answer": "He made $70,000.\n#### 70,000"},
]
MATH = [
    {
        "problem": "Convert to polar coordinates.",
        "solution": "They are $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}.$",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "unique_id": "test/precalculus/807.json",
    },
    {"problem": "Halve 1.", "solution": "It is $\\boxed{\\dfrac{1}{2}}$."},
]
HUMANEVAL = [
    {
        "task_id": "HumanEval/0",
        "prompt": "\n\ndef double(x):\n    '''Twice x.'''\n",
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0",
    },
    {
        "task_id": "HumanEval/1",
        "prompt": "from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    '''Sum.'''\n",
        "entry_point": "total",
        "canonical_solution": "    return sum(xs)\n",
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
    },
]
MBPP = [
    {
        "task_id": 11,
        "text": "Write a function to double.",
        "code": "def double(x):\r\n    return 2 * x",
        "test_list": ["assert double(1) == 2", "assert double(0) == 0"],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
    {
        "task_id": 367,
        "text": "Write a function to find the value of a leaf.",
        "code": "def value(leaf):\r\n    return leaf.value",
        "test_list": ["assert value(Leaf(3)) == 3"],
        "test_setup_code": "class Leaf:\n    def __init__(self, x):\n        self.value = x",
        "challenge_test_list": [],
    },
]
TALK = [
    {"instruction": "Name a fruit.", "output": "Apple", "dataset": "koala", "generator": "x"},
    {"instruction": "Name a tree.", "output": "The lime tree.", "dataset": "vicuna"},
]
WORDS = [
    {"instruction": "Write three words.", "output": "one two\nthree"},
    {"instruction": "Write two letters.", "output": " a b "},
]
RECORDS = {
    "gsm8k": GSM8K,
    "math": MATH,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "alpaca_eval": TALK,
    "instructions": WORDS,
}


def benchmark(kind: str, **changes: Any) -> Benchmark:
    """A benchmark with records in a file."""
    values: dict[str, Any] = {"kind": kind, "records": {"source": "path:records.jsonl"}}
    if kind == "alpaca_eval":
        values["judge"] = {"model": "tiny"}
    return Benchmark.model_validate({**values, **changes})


def prepare_task(folder: Path) -> Any:
    """Splits of one table and of three, pairs, numbers, ranks; duplicates, gaps and spaces."""
    texts = [f"text {index % 17}" + " more" * (index % 3) for index in range(40)]
    rows = {
        "text": [*texts, " spaced  out ", "", "None", "007"],
        "other": [f"other {index % 5}" for index in range(44)],
        "label": [*(["pos", "neg"][index % 2] for index in range(40)), "pos", "neg", "neg", "pos"],
        "rating": [index * 7 % 23 / 4 for index in range(44)],
    }
    table = pd.DataFrame(rows)
    table.to_csv(folder / "train.csv", index=False)
    table.iloc[30:].to_csv(folder / "validation.tsv", index=False, sep="\t")
    table.iloc[5:12].to_json(folder / "test.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "train.parquet")
    lines = "".join(f"{row.label}:{row.text}\n" for row in table.head(12).itertuples())
    (folder / "train.txt").write_text(lines)
    train = {"train": {"source": "path:train.csv"}}
    three = train | {
        "validation": {"source": "path:validation.tsv"},
        "test": {"source": "path:test.jsonl", "rows": ":-1"},
    }
    classes = {"text": ["text"], "labels": ["neg", "pos"], "metric": "accuracy"}
    numbers = {"label": "rating", "metric": "pearson"}
    pattern = {"format": "lines", "pattern": "(?P<label>\\w+):(?P<text>.*)"}
    rank = {"score": "rating", "max_words": 3}
    kinds: dict[str, dict[str, Any]] = {
        "one table": {**classes, **train},
        "three tables": {**classes, **three, "sizes": {"train": 20, "validation": 5, "test": 4}},
        "with duplicates": {**classes, **three, "drop_duplicates": False, "split_seed": 3},
        "pairs": {**classes, **train, "text": ["text", "other"], "validation_fraction": 0.3},
        "numbers": {**numbers, "text": ["text"], "train": {"source": "path:train.parquet"}},
        "lines": {**classes, "train": {"source": "path:train.txt", **pattern}},
        "ranks": {"text": ["text"], "metric": "accuracy", **train, "rank_pairs": rank},
    }
    found = {}
    for name, values in kinds.items():
        task = Task.model_validate(values)
        tables = {split: getattr(task, split) for split in ("train", "validation", "test")}
        paths = {
            split: folder / each.source.removeprefix("path:")
            for split, each in tables.items()
            if each
        }
        examples = prepare(task, paths)
        columns = [examples[each].tolist() for each in ("split", "text_a", "text_b", "label")]
        rows_ = ["|".join(map(str, row)) for row in zip(*columns, strict=True)]
        found[name] = {"rows": rows_, "digest": examples_digest(examples)}
    return found


def prepare_questions(folder: Path) -> Any:
    """Records of every kind of benchmark, slices, other prompts, and questions made up."""
    found = {}
    for kind, records in RECORDS.items():
        path = _written(folder / f"{kind}.jsonl", records)
        found[kind] = prepare_benchmark(benchmark(kind), path)
    given = {"start": 1, "end": 2, "prompt": "Q: {instruction}\nA:"}
    found["slice"] = prepare_benchmark(benchmark("mbpp", **given), folder / "mbpp.jsonl")
    for kind, name in [
        ("instructions", "instructions"),
        ("gsm8k", "word_problems"),
        ("mbpp", "functions"),
    ]:
        made = {"generator": name, "count": 5, "seed": 1}
        found[name] = prepare_benchmark(benchmark(kind, records=None, generated=made), None)
    return found


def prepare_instructions(folder: Path) -> Any:
    """Records with more of the question in a column, one twice, one empty; and made-up ones."""
    records: list[dict[str, Any]] = [
        {
            "ask": f"Ask {index % 9}",
            "more": "" if index % 3 else f"more {index}",
            "answer": f" {index} ",
        }
        for index in range(14)
    ]
    path = _written(folder / "records.jsonl", [*records, {"ask": "x", "more": "", "answer": ""}])
    columns = {"instruction": "ask", "output": "answer", "records": {"source": "path:x.jsonl"}}
    made = {"generator": "instructions", "count": 8, "seed": 2}
    kinds: dict[str, dict[str, Any]] = {
        "records": {**columns, "input": "more"},
        "some": {**columns, "count": 6, "validation_fraction": 0.4, "split_seed": 4},
        "generated": {"generated": made},
        "problems": {"generated": {**made, "generator": "word_problems"}},
    }
    return {
        name: prepare_outputs(Instructions.model_validate(values), path)
        for name, values in kinds.items()
    }


def _written(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


NUMBERS = {
    "prepare_task": Numbers(prepare_task),
    "prepare_questions": Numbers(prepare_questions),
    "prepare_instructions": Numbers(prepare_instructions),
}
