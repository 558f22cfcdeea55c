"""Merged models of a study that are kept, with their scores on their cards."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mergegrid.api import run_job
from mergegrid.checkpoints.card_scores import CardScore
from mergegrid.checkpoints.licences import UNKNOWN, Licence
from mergegrid.checkpoints.parents import Parent
from mergegrid.checkpoints.sources.fetch import Record
from mergegrid.checkpoints.sources.source import HubOrigin, parse_origin
from mergegrid.merging import MergeJob
from mergegrid.recipes.recipe import Recipe, settings_slug
from mergegrid.study.schema.encoder_jobs import files_of
from mergegrid.study.schema.export_jobs import ExportRequest

#: How the hub writes licenses. Other texts are the names of other licenses.
_IDENTIFIER = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")


def export(
    request: ExportRequest,
    scores: pd.DataFrame,
    base: Path,
    experts: Mapping[str, Path],
    statistics: Mapping[str, Path],
    records: Mapping[str, Record],
    folder: Path,
    threads: int,
) -> list[Path]:
    """Merge the recipes to keep into folders below `folder`, one per recipe.

    Args:
        request: the set of experts, and what to keep of its merges.
        scores: scores of the set.
        base: published folder of the base.
        experts: published folders of the experts by name.
        statistics: folders of model statistics by expert, where a method needs them.
        records: what was fetched, by name such as `base~llama`.
        folder: folder of all exports of the set.
        threads: number of threads.

    Returns:
        The folders.
    """
    parents = parents_of(request, records)
    folders = []
    for kept, recipe in _models(request, scores):
        target = folder / f"{settings_slug(recipe.sparsifier)}+{settings_slug(recipe.method)}"
        job = MergeJob(
            base=base,
            experts={name: experts[name] for name in recipe.experts},
            recipes={target: recipe},
            output=request.output,
            statistics=files_of(recipe.method, statistics, recipe.experts),
            homologous=request.homologous,
            base_is=request.base_is,
            parents=parents,
            scores={target: scores_of(request, kept, recipe, scores, records)},
        )
        folders += run_job(job, threads)
    return folders


def recipes_to_keep(request: ExportRequest, scores: pd.DataFrame) -> list[Recipe]:
    """The named recipes, and those selected; of several mask seeds the first."""
    selected = set(scores.loc[scores["selected"], "recipe_digest"])
    kept: dict[str, Recipe] = {}
    for recipe in request.candidates:
        if recipe.slug in request.export:
            kept[recipe.slug] = recipe
        elif "selected" in request.export and recipe.digest in selected:
            seedless = recipe.sparsifier.model_dump(mode="json", exclude={"seed"})
            kept.setdefault(f"{seedless} {recipe.method}", recipe)
    return list(kept.values())


def _models(request: ExportRequest, scores: pd.DataFrame) -> Iterator[tuple[Recipe, Recipe]]:
    """The recipes to keep, each with those of its models: one, or one per expert.

    Of a recipe that was selected for some tasks only, they are those of their experts.
    """
    for recipe in recipes_to_keep(request, scores):
        heads = recipe.experts
        if recipe.slug not in request.export:
            rows = scores["selected"] & (scores["recipe_digest"] == recipe.digest)
            heads = tuple(scores.loc[rows, "head"])
        for model in dict.fromkeys(map(recipe.for_expert, heads)):
            yield recipe, model


def scores_of(
    request: ExportRequest,
    recipe: Recipe,
    model: Recipe,
    scores: pd.DataFrame,
    records: Mapping[str, Record],
) -> Sequence[CardScore]:
    """The scores of a model of a recipe on the test split of its tasks or benchmarks."""
    rows = scores[(scores["recipe_digest"] == recipe.digest) & (scores["split"] == "test")]
    card_scores = []
    for row in rows.to_dict(orient="records"):
        if recipe.for_expert(row["head"]) != model:
            continue
        task = request.scored_on[row["task"]]
        record = records.get(task.record or "")
        origin = parse_origin(record.source) if record else None
        on_hub = record if isinstance(origin, HubOrigin) else None
        card_scores.append(
            CardScore(
                task=row["task"],
                kind=task.kind,
                metric=row["metric"],
                value=float(row["value"]),
                stderr=float(row["stderr"]),
                n=int(row["n"]),
                head=row["head"] if task.kind == "text-classification" else "",
                repo=origin.repo if isinstance(origin, HubOrigin) else None,
                config=task.config,
                split=task.split,
                revision=on_hub.resolved if on_hub else None,
                benchmark=task.benchmark if row["primary"] else None,
            )
        )
    return card_scores


def parents_of(request: ExportRequest, records: Mapping[str, Record]) -> dict[str, Parent]:
    """How cards describe the base, named "", and the experts.

    An expert that the study fine-tuned has the license of its base.
    """

    def parent(name: str, key: str) -> Parent:
        record = records[key]
        origin = parse_origin(record.source)
        licence = _licence(request.licences.get(key, record.licence))
        if isinstance(origin, HubOrigin):
            return Parent(name, origin.repo, record.resolved, origin.subfolder, licence)
        return Parent(name, licence=licence)

    base = parent(request.family, f"base~{request.family}")
    parents = {"": base}
    for expert in request.experts:
        key = f"expert~{request.family}~{expert}"
        known = key in records
        parents[expert] = parent(expert, key) if known else Parent(expert, licence=base.licence)
    return parents


def _licence(stated: str) -> Licence:
    if stated == "not stated":
        return UNKNOWN
    lower = stated.lower()
    return Licence(lower) if _IDENTIFIER.fullmatch(lower) else Licence("other", stated)
