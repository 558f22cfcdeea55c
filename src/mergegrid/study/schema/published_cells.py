"""The published numbers that a study measures again, matched with its own names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mergegrid.errors import ConfigError
from mergegrid.recipes.recipe import base_only
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.published import Cell, Published, read_published
from mergegrid.study.schema.study import Study

#: Average changes from adding a sparsifier, over all ordered pairs.
GAINS = "glue_merge_gain"
#: What merges were scored as; everything else is about one expert.
MERGES = "decoder_merge"


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
    known = [cell for cell in read_published(path) if cell.unit == "percent"]
    names = {name for cell in known for name in cell.models.split("+")}
    by_family = {family: published for _, family, published in named}
    _check(by_family, names, path, lambda published: published.names)
    return [
        {
            **_about(cell),
            "family": family,
            "experts": experts,
            "task": task,
            "held_out": grid.held_out if isinstance(grid, DecoderStudy) else 0.0,
            **_of_base(cell, published),
        }
        for grid, family, published in named
        for cell in known
        if cell.table != GAINS
        for task in _tasks(grid, cell)
        for experts in _experts(grid, family, published, cell, task)
    ]


def _tasks(grid: DecoderStudy | EncoderStudy, cell: Cell) -> list[str]:
    """Our names for the data set of a cell, with the metric of the cell for tasks of encoders."""
    if isinstance(grid, DecoderStudy):
        return [name for name, one in grid.benchmarks.items() if one.kind == cell.dataset]
    task = grid.tasks.get(cell.dataset)
    return [cell.dataset] if task and task.metric == cell.metric else []


def _of_base(cell: Cell, published: Published) -> dict[str, Any]:
    """The base is an expert without its deltas."""
    return {"sparsifier": base_only().kind, "rate": 1.0} if cell.models == published.base else {}


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


def _experts(
    grid: DecoderStudy | EncoderStudy, family: str, published: Published, cell: Cell, task: str
) -> Iterator[str]:
    """Our experts, joined by `+` as in scores, whose score on a task is this cell."""
    models = cell.models.split("+")
    alone = [(name,) for name in grid.families[family].experts]
    for experts in alone if len(models) == 1 else grid.expert_sets(family):
        scored = any(task in grid.evaluations_of(family, expert) for expert in experts)
        if cell.models == published.base:
            matches = scored
        else:
            matches = len(experts) == len(models) and all(
                set(published.experts.get(expert, [])) & set(models) for expert in experts
            )
        if matches and (scored or isinstance(grid, DecoderStudy)):
            yield "+".join(sorted(experts))


def _about(cell: Cell) -> dict[str, Any]:
    return {
        "merged": "+" in cell.models,
        "models": cell.models,
        "method": cell.method,
        "sparsifier": cell.sparsifier,
        "rate": cell.rate,
        "scale": cell.scale,
        "rescale": cell.rescale,
        # Ours are shares.
        "published": round(cell.value / 100, 6),
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
