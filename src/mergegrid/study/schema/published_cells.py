"""The published numbers that a study measures again, matched with its own names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mergegrid.errors import ConfigError
from mergegrid.study.schema.decoders import DecoderStudy
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
    decoders = study.decoders
    if decoders is None:
        return []
    named = {
        name: family.published
        for name, family in decoders.families.items()
        if family.published and family.published.experts
    }
    if not named:
        return []
    known = [cell for cell in read_published(path) if cell.unit == "percent"]
    _check(named, {name for cell in known for name in cell.models.split("+")}, path, _expert_names)
    return [
        {
            **_about(cell),
            "family": family,
            "experts": experts,
            "task": task,
            "held_out": decoders.held_out,
        }
        for family, published in named.items()
        for cell in known
        if cell.table != GAINS
        for experts in _experts(decoders, family, published, cell)
        for task, benchmark in decoders.benchmarks.items()
        if benchmark.kind == cell.dataset
    ]


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
    decoders: DecoderStudy, family: str, published: Published, cell: Cell
) -> Iterator[str]:
    """Our experts, joined by `+` as in scores, whose score is this cell."""
    models = cell.models.split("+")
    alone = [(name,) for name in decoders.families[family].experts]
    for experts in alone if len(models) == 1 else decoders.expert_sets(family):
        if len(experts) == len(models) and all(
            set(published.experts.get(expert, [])) & set(models) for expert in experts
        ):
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


def _expert_names(published: Published) -> list[str]:
    return [name for names in published.experts.values() for name in names]


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
