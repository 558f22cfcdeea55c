"""The text of a new study: YAML with a comment at everything that a reader may want to change."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mergegrid.study.new_study.models import CheckedModels
from mergegrid.study.new_study.options import ChosenBenchmark
from mergegrid.study.new_study.ready_benchmarks import READY
from mergegrid.study.schema.names import RESULTS

#: Below so many questions, a tenth of them is too few to select settings on.
_FEW = 50
#: Location of the reference of all keys.
_REFERENCE = "config/README.md of mergegrid"


def study_text(models: CheckedModels, benchmarks: Sequence[ChosenBenchmark]) -> str:
    """The configuration file of a study of decoders.

    Args:
        models: base and experts.
        benchmarks: what the experts are evaluated on.
    """
    experts = [name for name in models.sources if name]
    joined = ", ".join(experts[:-1]) + (" and " if len(experts) > 1 else "") + experts[-1]
    selects = min(benchmark.questions for benchmark in benchmarks) >= _FEW
    parts = [
        _HEAD.format(title=_quoted(f"{models.label}: {joined}"), reference=_REFERENCE),
        "".join(map(_benchmark, benchmarks)),
        _family(models, benchmarks, experts),
        _GRID,
        _merges(selects) if len(experts) > 1 else _NO_MERGES,
    ]
    return "".join(parts)


def family_name(label: str) -> str:
    """A name for the family of a base: it becomes part of paths."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", label).strip(".-_").lower() or "family"
    return f"{name}-family" if name in {taken.lower() for taken in RESULTS} else name


_HEAD = """\
# A study of mergegrid. In this folder:
#   mergegrid check study.yaml    checks this file
#   mergegrid run                 runs the study (with GPUs: mergegrid run --resources gpu=1)
#   mergegrid summary study.yaml  says what it found
# Every key is described in {reference}. After a change, the same command runs only
# what depends on it.
title: {title}

paths: {{results: results, logs: logs}}

decoders:
  # The questions that models answer, and how answers are graded (`kind`).
  benchmarks:
"""
_GRID = """\

  # The engine that writes answers: vLLM where it is installed, else transformers. All variants of
  # a set of experts pass through one engine and are merged in memory, without checkpoints on disk.
  # Without `one_engine`, every variant is a job of its own, and several GPUs work at a time.
  generation: {one_engine: true}

  # Shares of the deltas that sparsifiers drop.
  rates: [0.5, 0.9]
  seeds:
    # Seeds of the random masks; three show how much results depend on them: [0, 1, 2].
    mask: [0]

  # Every expert alone, under each sparsifier at every rate.
  sweep:
    sparsifiers:
      - {kind: dare}
      - {kind: drop_only}
"""
_NO_MERGES = """\

  # One expert has nothing to be merged with; with a second one, add `merges` here.
"""


def _benchmark(benchmark: ChosenBenchmark) -> str:
    lines = [f"    {benchmark.name}:", f"      kind: {benchmark.kind}"]
    if benchmark.path is not None:
        lines.append(f"      records: {_mapping({'source': f'path:{benchmark.path}'})}")
        lines.append(f"      # {benchmark.questions:,} questions.")
    else:
        ready = READY[benchmark.name]
        if ready.records:
            lines.append(f"      records: {_mapping(ready.records)}")
        lines.append(
            f"      # The first of the {ready.questions:,} questions only, for a first look:"
        )
        lines.append("      # end: 100")
        if ready.judged:
            lines += _JUDGE
    return "\n".join(lines) + "\n"


_JUDGE = [
    "      # The judge: a server with an OpenAI-compatible API, started before the study, such as",
    "      # vllm serve Qwen/Qwen2.5-7B-Instruct",
    "      judge:",
    "        style: function",
    "        model: Qwen/Qwen2.5-7B-Instruct",
    '        base_url: "http://127.0.0.1:8000/v1"',
    "        api_key_env: none",
]


def _family(
    models: CheckedModels, benchmarks: Sequence[ChosenBenchmark], experts: Sequence[str]
) -> str:
    chat = (
        "      # Questions are put into the chat template of the base; false: into the prompts of\n"
        "      # the paper.\n"
        "      chat: true\n"
        if models.has_chat_template
        else "      # The base has no chat template: prompts are those of the paper.\n"
    )
    lines = [
        "\n  # A base and the experts that were fine-tuned from it.",
        "  families:",
        f"    {family_name(models.label)}:",
        f"      base: {_mapping({'source': models.sources['']})}",
        f"{chat}      experts:",
    ]
    for name in experts:
        measured = [benchmark for benchmark in benchmarks if name in benchmark.experts]
        lines.append(f"        {name}:")
        if any(benchmark.guessed for benchmark in measured):
            lines.append("          # Chosen for you; list those that measure its ability.")
        names = ", ".join(benchmark.name for benchmark in measured)
        lines.append(f"          benchmarks: [{names}]")
        lines.append(f"          source: {_mapping({'source': models.sources[name]})}")
    return "\n".join(lines) + "\n"


def _merges(selects: bool) -> str:
    coefficient, rate = ("[0.5, 1.0]", "[0.5, 0.9]") if selects else ("0.5", "0.9")
    end = (
        "  # Settings in lists are selected on a tenth of the questions, scored on the others.\n"
        "  selection: validation\n"
        "  validation_fraction: 0.1\n"
        if selects
        else "  # Settings are fixed: there are too few questions to select some on a part.\n"
    )
    return f"""
  # Experts merged by every method, with and without dropping before; `mergegrid methods` lists
  # what else there is.
  merges:
    # `all` experts, `pairs` of them, or lists of names.
    sets: [all]
    methods:
      - {{kind: average}}
      - {{kind: task_arithmetic, coefficient: {coefficient}}}
      - {{kind: ties}}
    sparsifiers:
      - {{kind: none}}
      - {{kind: dare, rate: {rate}}}
{end}"""


def _mapping(values: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{key}: {_quoted(value)}' for key, value in values.items())}}}"


def _quoted(text: str) -> str:
    """A text in YAML, where the quotes of JSON mean the same."""
    return json.dumps(text, ensure_ascii=False)
