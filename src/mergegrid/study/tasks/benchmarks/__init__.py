"""Benchmarks for decoders, one module each; to add one, write a module and list it here."""

from mergegrid.study.schema.benchmarks import BenchmarkKind
from mergegrid.study.tasks.benchmarks import (
    alpaca_eval,
    exact_answers,
    gsm8k,
    humaneval,
    math,
    mbpp,
)
from mergegrid.study.tasks.benchmarks.question import Reader

READERS: dict[BenchmarkKind, Reader] = {
    "gsm8k": gsm8k.read,
    "math": math.read,
    "humaneval": humaneval.read,
    "mbpp": mbpp.read,
    "alpaca_eval": alpaca_eval.read,
    "instructions": exact_answers.read,
}
