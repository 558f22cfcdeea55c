"""Merging, inspecting and measuring models from Python.

Everything here is exported by `mergegrid` itself, whose docstring has an example of a merge.

    >>> from mergegrid import deltas
    >>> print(deltas("models/llama", "models/llama-math").verdict)
    DARE applies: 99.2 % of |delta| are below 0.002.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError

from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.inspection import Inspection
from mergegrid.checkpoints.inspection import inspect as inspect_folder
from mergegrid.checkpoints.tensor_names import canonical, read_config
from mergegrid.delta_reports.report import DeltaReport, measure
from mergegrid.engine.budget import processors
from mergegrid.engine.method import Method
from mergegrid.engine.sparsifier import Sparsifier
from mergegrid.errors import ConfigError
from mergegrid.in_memory import merge_state_dicts, output_arrays
from mergegrid.merging import MergeJob
from mergegrid.methods.average import Average
from mergegrid.progress import byte_progress
from mergegrid.recipes.merge_file import check_expert_name, read_merge_file, recipes_of
from mergegrid.recipes.mergekit.importing import import_file, is_mergekit
from mergegrid.recipes.output import Output, parse_size
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier

logger = logging.getLogger(__name__)

Folder = str | Path
StateDict = Mapping[str, Any]
"""NumPy arrays or torch tensors by name."""


@overload
def merge(
    base: Folder,
    experts: Mapping[str, Folder],
    sparsifier: Sparsifier = ...,
    method: Method = ...,
    *,
    out: Folder,
    output: Output = ...,
    statistics: Mapping[str, Folder] | None = ...,
    threads: int | None = ...,
    max_memory: int | str | None = ...,
    device: str = ...,
) -> Path: ...


@overload
def merge(
    base: Folder | StateDict,
    experts: Mapping[str, Folder] | Mapping[str, StateDict],
    sparsifier: Sparsifier = ...,
    method: Method = ...,
    *,
    out: None = ...,
    output: Output = ...,
    statistics: Mapping[str, Folder] | None = ...,
    threads: int | None = ...,
    max_memory: int | str | None = ...,
    device: str = ...,
) -> dict[str, Any]: ...


def merge(
    base: Folder | StateDict,
    experts: Mapping[str, Folder] | Mapping[str, StateDict],
    sparsifier: Sparsifier | None = None,
    method: Method | None = None,
    *,
    out: Folder | None = None,
    output: Output | None = None,
    statistics: Mapping[str, Folder] | None = None,
    threads: int | None = None,
    max_memory: int | str | None = None,
    device: str = "cpu",
) -> Path | dict[str, Any]:
    """Merge experts of one base: folders or state dicts in, a folder or tensors out.

    Args:
        base: model folder of the base, or its state dict.
        experts: folders or state dicts of the experts, by the names that masks depend on.
        sparsifier: what happens to the deltas before merging; by default nothing.
        method: how the sparsified experts become one model; by default their average.
        out: folder to write. Without it the merged tensors are returned.
        output: dtype, shards, tokenizer and vocabulary of the merged model.
        statistics: files of model statistics by expert, for methods that need them.
        threads: number of threads; by default one per processor.
        max_memory: memory limit, in bytes or as in `1GiB`.
        device: `cpu` or `cuda`; it changes no bit of the result.

    Returns:
        The folder, or the tensors by name: torch tensors if the base is given as torch tensors,
        else NumPy arrays. Tensors in bfloat16 are float32 arrays of the rounded values in NumPy.

    Raises:
        MergegridError: the inputs or settings do not fit; nothing is written then.
    """
    for name in experts:
        try:
            check_expert_name(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    recipe = _recipe(tuple(experts), sparsifier or NoSparsifier(), method or Average())
    output = output or Output()
    limit = _bytes(max_memory)
    if isinstance(base, Mapping):
        if out is not None or statistics:
            raise ConfigError(
                "state dicts are merged in memory: `out` and `statistics` need model folders; "
                "save the models first, or omit both"
            )
        if limit is not None or output != Output(dtype=output.dtype):
            raise ConfigError(
                "state dicts are in memory already and are merged as they are: `max_memory` and "
                "all of `output` but its dtype need model folders; omit them"
            )
        return merge_state_dicts(base, experts, recipe, output.dtype, threads, device)
    for name, folder in experts.items():
        if isinstance(folder, Mapping):
            raise ConfigError(
                f"expert {name} is a state dict, but the base is a folder; "
                "pass state dicts for all models, or folders for all"
            )
    base = Path(base)
    folders = {name: Path(str(folder)).expanduser() for name, folder in experts.items()}
    recipe = recipe.model_copy(update={"family": base.name or "base"})
    if output.tokenizer not in ("base", *folders):
        raise ConfigError(
            f"output.tokenizer = {output.tokenizer!r} is not an expert; choose base or one of "
            f"{', '.join(sorted(folders))}"
        )
    job = MergeJob(
        base=base.expanduser(),
        experts=folders,
        recipes={} if out is None else {Path(out).expanduser(): recipe},
        output=output,
        statistics={name: Path(path) for name, path in (statistics or {}).items()},
    )
    if out is not None:
        return run_job(job, threads, limit, device)[0]
    opened = job.open()
    for note in opened.notes:
        logger.info("%s", note)
    opened.plan(threads, limit, device, recipe)
    return output_arrays(opened.tensors(recipe), opened.infos)


def job_of(merge_file: Path, out: Path, ignore_unused: bool = False) -> MergeJob:
    """The merge job of a merge file, or of a mergekit file.

    Args:
        merge_file: YAML file; relative paths in it start at its folder.
        out: folder of the merged model or, if lists ask for several, of their folders.
        ignore_unused: note parameters of a mergekit file that its method does not use, instead of
            refusing them.

    Raises:
        ConfigError: the file is invalid, or `out` is a model and several are to be written.
    """
    notes: tuple[str, ...] = ()
    if is_mergekit(merge_file):
        imported = import_file(merge_file, ignore_unused)
        content, notes = imported.merge_file, imported.notes
    else:
        content = read_merge_file(merge_file)
    recipes = recipes_of(content, merge_file)
    out = out.resolve() if out.is_symlink() or out.name in ("", "..") else out
    if len(recipes) > 1 and (out / "manifest.json").is_file():
        raise ConfigError(
            f"{out} is a model, but the lists of the merge file ask for {len(recipes)} models; "
            "choose another folder for them"
        )

    def path(text: str) -> Path:
        return merge_file.parent / Path(text).expanduser()

    return MergeJob(
        base=path(content.base),
        experts={name: path(folder) for name, folder in content.experts.items()},
        recipes={
            out if len(recipes) == 1 else out / name: recipe for name, recipe in recipes.items()
        },
        output=content.output,
        statistics={name: path(file) for name, file in content.statistics.items()},
        notes=notes,
    )


def run_job(
    job: MergeJob,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    dry_run: bool = False,
) -> list[Path]:
    """Open, plan and write a merge job, with its notes in the log and a progress bar.

    Args:
        job: the merge job.
        threads: number of threads; one per processor if None.
        max_memory: memory limit in bytes.
        device: `cpu` or `cuda`.
        dry_run: validate and log the plan; write nothing.

    Returns:
        The published folders; none for a dry run.

    Raises:
        MergegridError: the inputs or settings do not fit; nothing is written then.
    """
    merge = job.open()
    budget = merge.plan(threads, max_memory, device)
    for note in merge.notes:
        logger.info("%s", note)
    count = len(job.recipes)
    logger.info("%d model%s, %s", count, "" if count == 1 else "s", budget)
    if dry_run:
        for folder, recipe in job.recipes.items():
            logger.info("would write %s: %s", folder, recipe.slug)
        return []
    with byte_progress("merge", budget.reads) as progress:
        return merge.write(progress)


def deltas(
    base: Folder, expert: Folder, *, dtype: str | None = None, threads: int | None = None
) -> DeltaReport:
    """Measure how far an expert is from its base, and whether DARE applies to it.

    Args:
        base: folder of the base.
        expert: folder of the expert.
        dtype: dtype that a merged model would be rounded to; by default the base's.
        threads: number of threads; by default one per processor.

    Raises:
        MergegridError: a model is damaged, or the expert was not fine-tuned from this base.
    """
    return measure(Path(base), Path(expert), dtype, threads or processors())


def inspect(folder: Folder) -> Inspection:
    """Read all of a model folder: its tensors with their digests, checked by its manifest.

    Raises:
        MergegridError: the folder holds no model, or differs from its manifest.
    """
    return inspect_folder(Path(folder))


def open_model(folder: Folder) -> Checkpoint:
    """Open a model folder as a lazy mapping from tensor name to float32 NumPy array.

    Nothing is read before a tensor is accessed. A tied matrix has one name, as in a merge.

    Raises:
        MergegridError: the folder holds no weights, or they are damaged.
    """
    folder = Path(folder)
    return canonical(open_checkpoint(folder), read_config(folder), str(folder))


def load_into(model: Any, tensors: Mapping[str, Any]) -> None:
    """Copy tensors, such as those that `merge` returns, into a torch model.

    Tensors that the model has and the mapping lacks, such as a task head, stay as they are.

    Args:
        model: a `torch.nn.Module` with a parameter or buffer for every tensor.
        tensors: NumPy arrays or torch tensors by name.

    Raises:
        MergegridError: the model lacks a tensor.
    """
    from mergegrid.checkpoints.torch_tensors import load_into as load

    load(model, tensors)


def _recipe(experts: tuple[str, ...], sparsifier: Sparsifier, method: Method) -> Recipe:
    try:
        return Recipe(family="base", experts=experts, sparsifier=sparsifier, method=method)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise ConfigError("\n".join(lines)) from error


def _bytes(size: int | str | None) -> int | None:
    try:
        return parse_size(size) if isinstance(size, str) else size
    except ValueError as error:
        raise ConfigError(f"max_memory: {error}") from error
