"""Benchmarks for decoders: one module each; a new one is a module and a line here."""

from mergegrid.study.schema.benchmarks import BenchmarkKind
from mergegrid.study.tasks.benchmarks import alpaca_eval, gsm8k, humaneval, instructions, math, mbpp
from mergegrid.study.tasks.benchmarks.question import Reader

READERS: dict[BenchmarkKind, Reader] = {
    "gsm8k": gsm8k.read,
    "math": math.read,
    "humaneval": humaneval.read,
    "mbpp": mbpp.read,
    "alpaca_eval": alpaca_eval.read,
    "instructions": instructions.read,
}
