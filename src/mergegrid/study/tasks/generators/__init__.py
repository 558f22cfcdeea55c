"""Generators: small programs that make up questions with answers, for a try without any data set.

A new one is a module and a line here. The same records train an expert (`instruction`, `output`)
and, of another seed, measure it (the columns of a benchmark).
"""

from collections.abc import Callable
from typing import Any

from mergegrid.study.schema.benchmarks import GeneratorName
from mergegrid.study.tasks.generators import functions, instructions, word_problems

GENERATORS: dict[GeneratorName, Callable[[int, int], list[dict[str, Any]]]] = {
    "instructions": instructions.generate,
    "word_problems": word_problems.generate,
    "functions": functions.generate,
}


def generate(generator: GeneratorName, count: int, seed: int) -> list[dict[str, Any]]:
    """Make `count` records; two seeds never have a question in common.

    Raises:
        ConfigError: the generator has no questions left for so high a seed, or so many of them.
    """
    return GENERATORS[generator](count, seed)
