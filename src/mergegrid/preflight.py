"""Models on the hub: everything that can be checked before their weights are downloaded.

`before_download` runs `MergeJob.open` and the plan on folders that have the config, the tokenizer
and the headers of the weights, but no data. So what does not fit is found within seconds, and
before the disk fills with models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mergegrid.checkpoints.adapters.adapter import is_adapter
from mergegrid.checkpoints.compatibility import check_configs
from mergegrid.checkpoints.disk import check_free_space
from mergegrid.checkpoints.family import open_family
from mergegrid.checkpoints.header_folders import header_folders, readable
from mergegrid.engine.budget import Budget
from mergegrid.errors import HeadersOnlyError
from mergegrid.merging import MergeJob
from mergegrid.recipes.recipe import Recipe


@dataclass(frozen=True)
class Preflight:
    """What is known of a merge before its models are downloaded."""

    downloads: Mapping[str, Mapping[str, int]]
    """Bytes of the files to be downloaded, by model and file name."""
    notes: list[str]
    """As `OpenMerge.notes`; and what can only be checked afterwards."""
    budget: Budget | None
    """The plan; None if it depends on weights that are not there yet."""


def before_download(
    job: MergeJob,
    threads: int | None = None,
    max_memory: int | None = None,
    device: str = "cpu",
    recipe: Recipe | None = None,
) -> Preflight:
    """Check a merge job, some of whose models have to be downloaded first.

    Args:
        job: the merge job.
        threads: see `OpenMerge.plan`, as the others.
        max_memory: memory limit in bytes.
        device: `cpu` or `cuda`.
        recipe: a recipe that is merged in memory, instead of those of the job.

    Raises:
        CheckpointError: see `MergeJob.open`.
        ConfigError: see `MergeJob.open` and `OpenMerge.plan`; or a disk has too little space for
            the downloads and the merged models.
        SourceError: the hub cannot be reached or denies access.
    """
    from mergegrid.checkpoints.sources.hub import cache_folder, planned_downloads

    job.check_places()
    missing = job.missing
    with header_folders(job.folders, missing) as folders:
        experts = {name: folder for name, folder in folders.items() if name}
        twin = replace(job, base=folders[""], experts=experts, hub={})
        hidden = [name for name, files in missing.items() if files.pickled]
        budget, needed = None, {}
        if not hidden:
            try:
                merge = twin.open()
                budget = merge.plan(threads, max_memory, device, recipe)
                notes, needed = merge.notes, merge.needed
            except HeadersOnlyError:
                hidden = [name for name, folder in folders.items() if is_adapter(folder)]
        if budget is None:
            notes = _check_others(twin, hidden)
        notes = [readable(note, folders, missing) for note in notes]
    downloads = {str(files): planned_downloads(files) for files in missing.values()}
    size = sum(sum(sizes.values()) for sizes in downloads.values())
    check_free_space(needed, {cache_folder(): size})
    return Preflight(downloads, notes, budget)


def _check_others(job: MergeJob, hidden: Sequence[str]) -> list[str]:
    """Check a job as far as possible without the tensors of some models.

    Returns:
        As `OpenMerge.notes`, and what is checked after the download.
    """
    experts = dict(sorted(job.experts.items()))
    shown = {} if "" in hidden else {name: experts[name] for name in experts if name not in hidden}
    notes = []
    if shown:
        vocabulary, base_is = job.output.vocabulary_settings, job.base_is
        notes += open_family(job.base, shown, vocabulary, job.homologous, base_is).notes
    for name in [name for name in experts if name not in shown] if job.homologous else []:
        if not is_adapter(experts[name]):
            notes += check_configs(job.base, experts[name], name)
    names = ", ".join(f"expert {name}" if name else "the base" for name in hidden)
    return [
        *notes,
        f"{names}: tensors of .bin files and contents of adapters are only known after the "
        "download, so shapes, memory and the size of the merged model are checked then",
    ]
