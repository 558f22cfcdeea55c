"""Merging folders: models on disk in, model folders out, all of one pass together."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.digests import checkpoint_digest, digest_tensors
from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.checkpoints.family import Family, open_family
from mergegrid.checkpoints.model_statistics import check_fisher, check_grams, open_statistics
from mergegrid.checkpoints.publish import (
    MANIFEST,
    Draft,
    check_destination,
    publish,
    recorded_libraries,
)
from mergegrid.checkpoints.vocabulary import is_vocabulary
from mergegrid.checkpoints.writer import ShardWriter
from mergegrid.engine.budget import Plan, plan
from mergegrid.engine.chunks import BASE
from mergegrid.engine.engine import Engine
from mergegrid.engine.input_check import Seen
from mergegrid.errors import CheckpointError, ConfigError
from mergegrid.recipes.merge_file import MergeFile, parse_size, recipes_of
from mergegrid.recipes.recipe import Recipe
from mergegrid.stages import union_of_versions


@dataclass(frozen=True)
class Order:
    """A merge file whose models are opened and checked, and where its results go."""

    asked: MergeFile
    folders: Mapping[str, Path]
    """Of the base, named "", and of each expert."""
    config_files: Sequence[str]
    """Of the base, in its folder."""
    tokenizer_files: Sequence[str]
    """Of the model whose tokenizer is wanted, in its folder."""
    engine: Engine
    recipes: Mapping[Path, Recipe]
    """By the folder that is written."""
    infos: Mapping[str, TensorInfo]
    """Of the tensors that are written."""
    vocabulary: int | None
    """Embedding rows, where the base was padded."""
    notes: Sequence[str]
    """What was cut, padded or added, a line each."""
    plan: Plan


def prepare(
    asked: MergeFile,
    origin: Path,
    out: Path,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    recipe: Recipe | None = None,
    homologous: bool = True,
) -> Order:
    """Open the models of a merge file and check all that can be known before the work.

    Args:
        asked: what to merge and how.
        origin: the file it comes from; relative paths start at its folder.
        out: folder of the merged model; of several, the folder that holds theirs.
        threads: threads to use; by default one for each processor.
        max_memory: bytes that must suffice.
        device: `cpu` or `cuda`.
        recipe: the one recipe of the file under the name that a study gives it.
        homologous: whether configurations of experts and base must agree, and not shapes alone.

    Raises:
        CheckpointError: a model is damaged, cannot be merged, or is not homologous with the base.
        ConfigError: the recipe does not fit the models, or the memory does not suffice.
    """
    recipes = recipes_of(asked, origin) if recipe is None else {out.name: recipe}
    _check_names(asked, origin)
    targets = _targets(out, recipes)
    named = {BASE: asked.base, **dict(sorted(asked.experts.items()))}
    folders = {name: _path(origin, folder) for name, folder in named.items()}
    _check_places(targets, folders)
    for name, folder in folders.items():
        _check_folder(name, folder)
    config_files = model_files.config_files(folders[BASE])
    tokenizer_files = model_files.tokenizer_files(folders[_tokenizer(asked)])
    experts = {name: folder for name, folder in folders.items() if name != BASE}
    family = open_family(folders[BASE], experts, asked.output.vocabulary, homologous)
    aligned = family.aligned
    statistics = {
        name: open_statistics(_path(origin, path)) for name, path in asked.statistics.items()
    }
    engine = Engine(aligned.base, aligned.experts, statistics)
    merges = [engine.merge(recipe) for recipe in recipes.values()]
    _check_statistics(engine, recipes.values())
    infos = {
        name: TensorInfo(info.shape, DTYPES.get(asked.output.dtype, info.dtype))
        for name, info in aligned.base.infos.items()
    }
    planned = plan(engine, merges, infos, threads, max_memory, device)
    engine.settings = planned.settings
    return Order(
        asked=asked,
        folders=folders,
        config_files=config_files,
        tokenizer_files=tokenizer_files,
        engine=engine,
        recipes=targets,
        infos=infos,
        vocabulary=aligned.rows,
        notes=[*family.notes, *_lost_tokens(asked, family)],
        plan=planned,
    )


def carry_out(order: Order, progress: Callable[[int], None] = lambda _: None) -> list[Path]:
    """Merge, and publish every folder; gives the folders.

    Raises:
        CheckpointError: a model cannot be read, a merged element is not finite, or there is no
            room on the disk. Nothing is left behind then.
        DamagedError: a published model is not what its manifest says.
    """
    size = parse_size(order.asked.output.shard_size)
    seen = Seen(order.engine.models)
    statistics = {
        name: checkpoint_digest(digest_tensors(each))
        for name, each in order.engine.statistics.items()
    }
    with ExitStack() as stack:
        drafts: list[tuple[Draft, ShardWriter]] = []
        outputs: list[tuple[Recipe, ShardWriter]] = []
        for folder, recipe in order.recipes.items():
            draft = stack.enter_context(publish(folder, _made_from(order, recipe, statistics)))
            writer = ShardWriter(draft.path, order.infos, size, order.plan.cached)
            stack.callback(writer.close)
            writer.open()
            drafts.append((draft, writer))
            outputs.append((recipe, writer))
        with seen.damage_first(order.folders):
            order.engine.stream(outputs, seen.add, progress)
        # Not every method reads every model: an average has no use for the base.
        found = seen.compare(order.folders)
        inputs = {name or "base": checkpoint_digest(each) for name, each in found.items()}
        libraries = union_of_versions(map(recorded_libraries, order.folders.values()))
        for (draft, writer), recipe in zip(drafts, order.recipes.values(), strict=True):
            writer.close()
            draft.made_from["inputs"] = inputs
            draft.made_from["libraries"] = libraries
            draft.weight_files, draft.tensors = writer.files, writer.tensors()
            _add_companions(order, recipe, draft)
    return list(order.recipes)


def _check_folder(name: str, folder: Path) -> None:
    if not folder.is_dir():
        who = f"expert {name}" if name else "the base"
        raise CheckpointError(
            f"{who}: there is no folder {folder}; correct the path (it starts at the merge file)"
        )


def _path(origin: Path, text: str) -> Path:
    return origin.parent / Path(text).expanduser()


def _targets(out: Path, recipes: Mapping[str, Recipe]) -> dict[Path, Recipe]:
    """Where each recipe's model goes."""
    out = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
    if len(recipes) == 1:
        return dict.fromkeys([out], *recipes.values())
    if (out / MANIFEST).is_file():
        raise ConfigError(
            f"{out} is a model, and the lists of the recipe ask for a folder of "
            f"{len(recipes)} models; name another place for them"
        )
    return {out / name: each for name, each in recipes.items()}


def _check_names(asked: MergeFile, origin: Path) -> None:
    known = ", ".join(sorted(asked.experts))
    strangers = sorted(set(asked.statistics) - set(asked.experts))
    if strangers:
        raise ConfigError(
            f"{origin}: statistics names {strangers[0]}, which is no expert; name one of {known}"
        )
    if asked.output.tokenizer not in ("base", *asked.experts):
        raise ConfigError(
            f"{origin}: output.tokenizer = {asked.output.tokenizer!r}: name base or one of {known}"
        )


def _check_statistics(engine: Engine, recipes: Iterable[Recipe]) -> None:
    kinds = {recipe.method.kind for recipe in recipes}
    if "fisher" in kinds:
        check_fisher(engine.base, engine.statistics)
    if "regmean" in kinds:
        check_grams(engine.base, engine.statistics)


def _check_places(targets: Mapping[Path, Recipe], folders: Mapping[str, Path]) -> None:
    for target in targets:
        check_destination(target)
        for folder in folders.values():
            inside = target.resolve().is_relative_to(folder.resolve())
            around = folder.resolve().is_relative_to(target.resolve())
            if inside or around:
                raise ConfigError(
                    f"the output {target} and the model {folder} lie in one another; "
                    "name another place for the output"
                )
        parent = next(each for each in [*target.resolve().parents] if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(f"{parent} cannot be written to; name another place")


def _tokenizer(asked: MergeFile) -> str:
    """The model whose tokenizer is wanted."""
    return BASE if asked.output.tokenizer == "base" else asked.output.tokenizer


def _lost_tokens(asked: MergeFile, family: Family) -> list[str]:
    """A note where the tokenizer may name tokens that the merged model has no row for."""
    who = _tokenizer(asked)
    if who == BASE or asked.output.vocabulary == "pad":
        return []
    base, expert = family.aligned.base, family.opened[who]
    rows = [info.shape[0] for name, info in base.infos.items() if is_vocabulary(name)]
    theirs = [expert.infos[name].shape[0] for name in base if is_vocabulary(name)]
    if theirs <= rows:
        return []
    return [
        f"the tokenizer of expert {who} may name tokens beyond the {min(rows)} rows of the merged "
        "model; output.vocabulary: pad keeps theirs"
    ]


def _made_from(order: Order, recipe: Recipe, statistics: Mapping[str, str]) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": recipe.digest,
        "output": order.asked.output.model_dump(mode="json"),
        "statistics": dict(statistics),
        "notes": list(order.notes),
    }


def _add_companions(order: Order, recipe: Recipe, draft: Draft) -> None:
    folders, asked = order.folders, order.asked
    dtypes = {info.dtype.name for info in order.infos.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    model_files.copy_files(folders[BASE], order.config_files, draft.path)
    model_files.adapt_config(draft.path, dtype, order.vocabulary)
    model_files.copy_files(folders[_tokenizer(asked)], order.tokenizer_files, draft.path)
    base = model_files.model_name(folders[BASE])
    experts = {name: model_files.model_name(folders[name]) for name in recipe.experts}
    statistics = {name: Path(path).name for name, path in asked.statistics.items()}
    text = model_files.write_recipe(
        draft.path,
        {
            "base": base,
            "experts": experts,
            "sparsifier": recipe.sparsifier.model_dump(mode="json"),
            "method": recipe.method.model_dump(mode="json"),
            "output": asked.output.model_dump(mode="json"),
            **({"statistics": statistics} if statistics else {}),
        },
    )
    model_files.write_card(draft.path, base, experts, text, order.notes)
