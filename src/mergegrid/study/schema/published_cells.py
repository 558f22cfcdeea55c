"""The published numbers that a study measures again, matched with its own names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergegrid.errors import ConfigError
from mergegrid.recipes.recipe import base_only
from mergegrid.study.schema.benchmarks import Benchmark
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.published import Cell, Published, read_published
from mergegrid.study.schema.study import Study

#: Average changes from adding a sparsifier, over all ordered pairs.
GAINS = "glue_merge_gain"
#: Factors from published units to ours.
_UNITS = {"percent": 0.01, "tokens": 1.0}


def published_cells(study: Study, path: Path) -> list[dict[str, Any]]:
    """Published scores beside our names for them: `family`, `experts`, `task` and the cell.

    `held_out` is the share of the questions that our scores are not of.

    Raises:
        ConfigError: a family names models that the file does not have.
    """
    named = [
        (grid, name, family.published)
        for grid in study.grids
        for name, family in grid.families.items()
        if family.published and family.published.names
    ]
    if not named:
        return []
    known = [cell for cell in read_published(path) if cell.unit in _UNITS]
    names = {name for cell in known for name in (cell.models, *cell.models.split("+"))}
    by_family = {family: published for _, family, published in named}
    _check(by_family, names, path, lambda published: published.names)
    _check_tables(by_family, {cell.table for cell in known}, path)
    datasets = {cell.dataset for cell in known}
    return [
        {
            **_about(cell),
            "family": family,
            "task": task,
            "compared": metric,
            "held_out": held_out,
            "differs": published.differs.get(task, ""),
            **matched,
        }
        for grid, family, published in named
        for cell in known
        if cell.table != GAINS and (not published.tables or cell.table in published.tables)
        for task, metric, held_out in _scored(grid, cell, datasets)
        for matched in _matches(grid, family, published, cell, task)
    ]


def _scored(
    grid: DecoderStudy | EncoderStudy, cell: Cell, datasets: set[str]
) -> Iterator[tuple[str, str, float]]:
    """What the study scores like a cell: our name, metric, and the share that is held out.

    A benchmark of decoders is the published one of its name or, if it has none, of its kind.
    """
    if isinstance(grid, EncoderStudy):
        task = grid.tasks.get(cell.dataset)
        if task and task.metric == cell.metric:
            yield cell.dataset, cell.metric, 0.0
        return
    for name, benchmark in grid.benchmarks.items():
        known_as = name if name in datasets else benchmark.kind
        metric = _metric(benchmark, cell.metric)
        if known_as == cell.dataset and metric:
            yield name, metric, grid.held_out
    # Names of its metrics end with the filter of answers.
    metric = {"accuracy": "acc,none"}.get(cell.metric, cell.metric)
    if grid.harness and cell.dataset in grid.harness.tasks and "," in metric:
        yield cell.dataset, metric, 0.0


def _metric(benchmark: Benchmark, published: str) -> str | None:
    """Our metric that is a published one, if the benchmark has it."""
    if benchmark.kind in ("humaneval", "mbpp"):
        return published if published in [f"pass@{k}" for k in benchmark.pass_at] else None
    if benchmark.kind == "alpaca_eval":
        return published if published == "win_rate" else None
    if published == f"mean@{benchmark.sampling.samples}":
        return "accuracy"
    lengths = ("tokens", "think_ratio") if benchmark.lengths else ()
    return published if published in ("accuracy", *lengths) else None


def published_gains(study: Study, path: Path) -> list[dict[str, Any]]:
    """Published average changes over pairs: `family`, `method`, `sparsifier`, `value` in per cent.

    Raises:
        ConfigError: a family names models that the file does not have.
    """
    named = {
        name: family.published
        for name, family in (study.encoders.families if study.encoders else {}).items()
        if family.published and family.published.pairs
    }
    if not named:
        return []
    known = [cell for cell in read_published(path) if cell.table == GAINS]
    _check(named, {cell.models for cell in known}, path, _pair_names)
    return [
        {
            "family": family,
            "method": cell.method,
            "sparsifier": cell.sparsifier,
            "value": cell.value,
        }
        for family, published in named.items()
        for cell in known
        if cell.models == published.pairs
    ]


def _matches(
    grid: DecoderStudy | EncoderStudy, family: str, published: Published, cell: Cell, task: str
) -> Iterator[dict[str, Any]]:
    """Our experts, joined by `+` as in scores, whose score on a task is this cell.

    A harness scores everything; so does a benchmark of decoders that a model of the set has.
    """
    models = cell.models.split("+")
    alone = [(name,) for name in grid.families[family].experts]
    for experts in alone if len(models) == 1 else grid.expert_sets(family):
        if not _is_scored(grid, family, experts, task):
            continue
        joined = {"experts": "+".join(sorted(experts))}
        if cell.models == published.base:
            # The base is an expert without its deltas.
            yield {**joined, "sparsifier": base_only().kind, "rate": 1.0}
        elif (len(models) > 1 or cell.method == "single") and (
            named := _named(published, experts, models)
        ):
            yield {**joined, **_weighted(cell, named)}
    for expert, merge in published.merges.items():
        whole = (cell.models, cell.method, cell.sparsifier) == (merge.models, merge.method, "none")
        if whole and _is_scored(grid, family, (expert,), task):
            yield {"experts": expert, "merged": False, "scale": None}


def _named(
    published: Published, experts: Sequence[str], models: Sequence[str]
) -> dict[str, str] | None:
    """Our experts by their published names, if they are exactly these models."""
    names = {
        model: expert
        for expert in experts
        for model in set(published.experts.get(expert, [])) & set(models)
    }
    complete = len(experts) == len(models) == len(names) == len(set(names.values()))
    return names if complete else None


def _weighted(cell: Cell, named: Mapping[str, str]) -> dict[str, Any]:
    """The scale of an average is the weight of the last model, here under our names."""
    if cell.method != "average" or cell.scale is None:
        return {}
    return {"weighted": named[cell.models.split("+")[-1]], "names": sorted(named.values())}


def _is_scored(
    grid: DecoderStudy | EncoderStudy, family: str, experts: Sequence[str], task: str
) -> bool:
    harness = isinstance(grid, DecoderStudy) and grid.harness and task in grid.harness.tasks
    return bool(harness) or any(task in grid.evaluations_of(family, name) for name in experts)


def _about(cell: Cell) -> dict[str, Any]:
    return {
        "merged": "+" in cell.models,
        "table": cell.table,
        "models": cell.models,
        "method": cell.method,
        "sparsifier": cell.sparsifier,
        "rate": cell.rate,
        "scale": cell.scale,
        "rescale": cell.rescale,
        "metric": cell.metric,
        "unit": cell.unit,
        # Ours are shares, and tokens.
        "published": round(cell.value * _UNITS[cell.unit], 6),
        "source": cell.source,
        "trust": cell.trust,
    }


def _pair_names(published: Published) -> list[str]:
    return [published.pairs] if published.pairs else []


def _check(
    named: dict[str, Published],
    known: set[str],
    path: Path,
    names: Callable[[Published], list[str]],
) -> None:
    for family, published in named.items():
        for name in names(published):
            if name not in known:
                raise ConfigError(
                    f"families.{family}.published: {name!r} is not among the models of {path} "
                    f"({', '.join(sorted(known))}); name one of these"
                )


def _check_tables(named: dict[str, Published], known: set[str], path: Path) -> None:
    for family, published in named.items():
        if wrong := sorted(set(published.tables) - known):
            raise ConfigError(
                f"families.{family}.published.tables: {wrong[0]!r} is not among the tables of "
                f"{path} ({', '.join(sorted(known))}); name one of these"
            )
