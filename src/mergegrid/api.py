"""Merging, inspecting and measuring models from Python.

Everything here is exported by `mergegrid` itself, whose docstring has an example of a merge.

    >>> from mergegrid import deltas
    >>> print(deltas("models/llama", "models/llama-math").verdict)
    DARE applies: 99.2 % of |delta| are below 0.002.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from pydantic import ValidationError

from mergegrid import preflight
from mergegrid.adapter_merging import run_adapter_merge
from mergegrid.checkpoints.checkpoint import Checkpoint
from mergegrid.checkpoints.disk import check_free_space
from mergegrid.checkpoints.folder import open_checkpoint
from mergegrid.checkpoints.header_folders import check_family
from mergegrid.checkpoints.inspection import Inspection
from mergegrid.checkpoints.inspection import inspect as inspect_folder
from mergegrid.checkpoints.sources.models import (
    Folder,
    Models,
    local_folder,
    locate_models,
    model_label,
)
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
from mergegrid.recipes.output import Output, byte_limit
from mergegrid.recipes.recipe import Recipe
from mergegrid.sparsifiers.none import NoSparsifier

logger = logging.getLogger(__name__)

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
    base_is: str | Sequence[str] = ...,
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
    base_is: str | Sequence[str] = ...,
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
    base_is: str | Sequence[str] = (),
    threads: int | None = None,
    max_memory: int | str | None = None,
    device: str = "cpu",
) -> Path | dict[str, Any]:
    """Merge experts of one base: folders or state dicts in, a folder or tensors out.

    Args:
        base: folder or hub id of the base, or its state dict.
        experts: folders or hub ids (of whole models or LoRA adapters) or state dicts of the
            experts, by the names that masks depend on.
        sparsifier: what happens to the deltas before merging; by default nothing.
        method: how the sparsified experts become one model; by default their average.
        out: folder to write. Without it the merged tensors are returned.
        output: dtype, shards, tokenizer and vocabulary of the merged model.
        statistics: files of model statistics by expert, for methods that need them.
        base_is: further names of the base, for adapters that name it otherwise than its folder.
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
    limit = byte_limit(max_memory, "max_memory")
    if isinstance(base, Mapping):
        if out is not None or statistics or base_is:
            raise ConfigError(
                "state dicts are merged in memory: `out`, `statistics` and `base_is` need model "
                "folders; save the models first, or omit them"
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
    texts = {name: folder for name, folder in experts.items() if isinstance(folder, str | Path)}
    recipe = recipe.model_copy(update={"family": model_label(base) or "base"})
    try:
        output.check_experts(texts)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    models = locate_models({"": base, **texts})
    job = MergeJob(
        base=models.base,
        experts=models.experts,
        recipes={} if out is None else {Path(out).expanduser(): recipe},
        output=output,
        statistics={name: Path(path) for name, path in (statistics or {}).items()},
        hub=models.hub,
        base_is=_names(base_is),
    )
    if out is None and output.form == "adapter":
        raise ConfigError("an adapter is written to a folder: give `out`, or omit `form`")
    if out is not None:
        return run_job(job, threads, limit, device)[0]
    if job.missing:
        preflight.before_download(job, threads, limit, device, recipe)
    models.download()
    opened = job.open()
    for note in opened.notes:
        logger.info("%s", note)
    opened.plan(threads, limit, device, recipe)
    return output_arrays(opened.tensors(recipe), opened.infos)


def job_of(merge_file: Path, out: Path, ignore_unused: bool = False) -> MergeJob:
    """The merge job of a merge file, or of a mergekit file.

    Args:
        merge_file: YAML file; relative paths in it start at its folder. The revisions of models on
            the hub are resolved to commits.
        out: folder of the merged model or, if lists ask for several, of their folders.
        ignore_unused: note parameters of a mergekit file that its method does not use, instead of
            refusing them.

    Raises:
        ConfigError: the file is invalid, or `out` is a model and several are to be written.
        SourceError: a model on the hub does not exist or is not accessible.
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

    models = locate_models({"": content.base, **content.experts}, merge_file.parent)

    def path(text: str) -> Path:
        return merge_file.parent / Path(text).expanduser()

    return MergeJob(
        base=models.base,
        experts=models.experts,
        recipes={
            out if len(recipes) == 1 else out / name: recipe for name, recipe in recipes.items()
        },
        output=content.output,
        statistics={name: path(file) for name, file in content.statistics.items()},
        hub=models.hub,
        base_is=_names(content.base_is),
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

    Models on the hub are downloaded if all that their headers and configs tell is right.

    Args:
        job: the merge job.
        threads: number of threads; one per processor if None.
        max_memory: memory limit in bytes.
        device: `cpu` or `cuda`.
        dry_run: validate and log the plan; write nothing, and download no weights.

    Returns:
        The published folders; none for a dry run.

    Raises:
        MergegridError: the inputs or settings do not fit; nothing is written then.
    """
    if job.output.form == "adapter":
        return run_adapter_merge(job, dry_run)
    count = len(job.recipes)
    summary = f"{count} model{'' if count == 1 else 's'}"
    if job.missing:
        checked = preflight.before_download(job, threads, max_memory, device)
        if dry_run:
            for model, files in checked.downloads.items():
                size = sum(files.values())
                logger.info("would download %s: %d files, %.3g GB", model, len(files), size / 1e9)
                for name, bytes_of_file in files.items():
                    logger.info("  %s: %s bytes", name, f"{bytes_of_file:,}")
            _log_plan(job, checked.notes, f"{summary}, {checked.budget or 'not planned yet'}", True)
            return []
    if not dry_run:
        Models(job.folders, dict(job.hub)).download()
    merge = job.open()
    budget = merge.plan(threads, max_memory, device)
    _log_plan(job, merge.notes, f"{summary}, {budget}", dry_run)
    check_free_space(merge.needed, {})
    if dry_run:
        return []
    with byte_progress("merge", budget.reads) as progress:
        return merge.write(progress)


def _log_plan(job: MergeJob, notes: Sequence[str], plan: str, dry_run: bool) -> None:
    for line in (*notes, plan):
        logger.info("%s", line)
    for folder, recipe in job.recipes.items() if dry_run else ():
        verb = "replace" if folder.exists() else "write"
        logger.info("would %s %s: %s", verb, folder, recipe.slug)


def deltas(
    base: Folder,
    expert: Folder,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    base_is: str | Sequence[str] = (),
) -> DeltaReport:
    """Measure how far an expert is from its base, and whether DARE applies to it.

    Args:
        base: folder or hub id of the base.
        expert: folder or hub id of the expert, a whole model or a LoRA adapter.
        dtype: dtype that a merged model would be rounded to; by default the base's.
        threads: number of threads; by default one per processor.
        base_is: further names of the base, for an adapter that names it otherwise.

    Raises:
        MergegridError: a model is damaged, or the expert was not fine-tuned from this base.
    """
    name = model_label(expert) or "expert"
    models = locate_models({"": base, name: expert})
    check_family(models, _names(base_is))
    models.download()
    folder, count = models.experts[name], threads or processors()
    return measure(models.base, folder, dtype, count, name, _names(base_is))


def inspect(folder: Folder) -> Inspection:
    """Read all of a model folder: its tensors with their digests, checked by its manifest.

    Raises:
        MergegridError: the folder holds no model, or differs from its manifest.
    """
    return inspect_folder(local_folder(folder))


def open_model(folder: Folder) -> Checkpoint:
    """Open a model folder as a lazy mapping from tensor name to float32 NumPy array.

    Nothing is read before a tensor is accessed. A tied matrix has one name, as in a merge.

    Raises:
        MergegridError: the folder holds no weights, or they are damaged.
    """
    folder = local_folder(folder)
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


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
