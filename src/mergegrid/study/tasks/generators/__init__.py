"""Generators of questions with answers, to try a study without a data set.

To add one, write a module and list it here. The same records train an expert (`instruction`,
`output`) and, with another seed, measure it (the columns of a benchmark).
"""

from collections.abc import Callable
from typing import Any

from mergegrid.study.schema.benchmarks import GeneratorName
from mergegrid.study.tasks.generators import formatting, functions, word_problems

GENERATORS: dict[GeneratorName, Callable[[int, int], list[dict[str, Any]]]] = {
    "instructions": formatting.generate,
    "word_problems": word_problems.generate,
    "functions": functions.generate,
}


def generate(generator: GeneratorName, count: int, seed: int) -> list[dict[str, Any]]:
    """Generate `count` records; different seeds never have a question in common.

    Raises:
        ConfigError: the generator has too few questions for this seed and count.
    """
    return GENERATORS[generator](count, seed)
