"""What a new study costs: jobs, downloads, disk, memory, and time where there is a measured basis.

Measured costs are in resources/measured_costs.csv, which `benchmarks/answers.py` fills. What has
not been measured, such as answers of vLLM on a GPU, has no estimate.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mergegrid.recipes.recipe import Recipe
from mergegrid.study.live.run_state import duration
from mergegrid.study.new_study.models import CheckedModels
from mergegrid.study.runtime.memory_estimates import generation_mb
from mergegrid.study.runtime.project_files import project_folder
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.study import Study


@dataclass(frozen=True)
class MeasuredCost:
    """A cost that was measured once, and on what."""

    value: float
    unit: str
    parameters: float
    """Size of the measured model."""
    basis: str
    """Model and machine."""


def measured_costs() -> dict[str, MeasuredCost]:
    """Measured costs by name, from resources/measured_costs.csv."""
    path = project_folder() / "resources" / "measured_costs.csv"
    with path.open(encoding="utf-8", newline="") as lines:
        return {
            row["cost"]: MeasuredCost(
                float(row["value"]), row["unit"], float(row["parameters"]), row["basis"]
            )
            for row in csv.DictReader(lines)
        }


def answer_counts(study: DecoderStudy, questions: Mapping[str, int]) -> Counter[str]:
    """Number of answers to each benchmark, over all variants.

    Args:
        study: the study.
        questions: number of questions by benchmark.
    """
    counts: Counter[str] = Counter()
    for recipe in _recipes(study):
        for name in study.owners(recipe):
            benchmark = study.benchmarks[name]
            end = questions[name] if benchmark.end is None else benchmark.end
            count = max(min(end, questions[name]) - benchmark.start, 0)
            counts[name] += count * benchmark.full_sampling.samples
    return counts


def estimate_lines(study: Study, models: CheckedModels, questions: Mapping[str, int]) -> list[str]:
    """Lines on what a study costs.

    Args:
        study: a study of decoders with one family.
        models: its models.
        questions: number of questions by benchmark.
    """
    decoders = study.decoders
    assert decoders is not None, "new studies are of decoders"
    counts = answer_counts(decoders, questions)
    variants = sum(1 for _ in _recipes(decoders))
    per_benchmark = ", ".join(f"{count:,} to {name}" for name, count in counts.items())
    lines = [f"answers: {counts.total():,} by {variants} variants ({per_benchmark})"]
    lines += [_downloads(models)]
    if models.size.stored:
        lines += _memory(models)
        lines.append(_time(decoders, models, counts))
    else:
        lines.append(
            "memory and time: unknown, because the weights of the base have no headers; they are "
            "known after the download"
        )
    return lines


def _recipes(study: DecoderStudy) -> Iterator[Recipe]:
    for family, config in study.families.items():
        for seed in study.training_seeds(family):
            for expert in config.experts:
                yield from study.sweep_recipes(family, expert, seed)
            for experts in study.expert_sets(family):
                yield from study.merge_recipes(family, experts, seed)


def _downloads(models: CheckedModels) -> str:
    if not models.downloads:
        return "downloads: no models; small data sets where benchmarks are on the hub"
    sizes = ", ".join(f"{model} {_size(size)}" for model, size in models.downloads.items())
    total = _size(sum(models.downloads.values()))
    return f"downloads: {total} of models ({sizes}), into the hub's cache"


def _memory(models: CheckedModels) -> list[str]:
    host = generation_mb(models.size, 0, one_engine=True)
    count = len(models.sources)
    return [
        f"disk: up to {_size(count * models.size.stored)} in results/ for {count} models, where "
        "the file system can neither clone nor link files; merged models are not written",
        f"GPU memory: {_size(models.size.stored)} of weights, and the cache of the engine (by "
        f"arithmetic, not measured on a GPU); host: {_size(host * 1e6)} per job",
    ]


def _size(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _time(study: DecoderStudy, models: CheckedModels, counts: Mapping[str, int]) -> str:
    # Without `generation.dtype`, an engine computes in the dtype of the checkpoint.
    wide = models.size.stored >= 4 * models.size.parameters
    cost = measured_costs()[f"seconds_per_token_cpu_{'float32' if wide else 'bfloat16'}"]
    most = sum(
        count * study.benchmarks[name].full_sampling.max_tokens for name, count in counts.items()
    )
    seconds = cost.value * most * models.size.parameters / cost.parameters
    return (
        f"time: on CPUs at most {duration(seconds)} for all answers, one after the other and each "
        f"at full length (measured: {cost.basis}; scaled by parameters); jobs run side by side. "
        "On GPUs no estimate: nothing has been measured there. A run shows the time left once its "
        "first jobs are done"
    )
