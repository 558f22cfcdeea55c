"""
The checked configuration and the functions that rules share. No rule is here.
"""

import os

from mergegrid.checkpoints.identity import identity_files
from mergegrid.checkpoints.sources.cache import root as cache_root
from mergegrid.checkpoints.sources.path import find as find_path
from mergegrid.checkpoints.sources.source import PathOrigin
from mergegrid.errors import MergegridError
from mergegrid.hashing import canonical_json, digest
from mergegrid.stages import stage_versions
from mergegrid.study.live.handler import announce, marked
from mergegrid.study.reporting.catalogue import FIGURES, TABLES
from mergegrid.study.runtime import memory_estimates, snakemake_compat
from mergegrid.study.schema import decoder_jobs, encoder_jobs, export_jobs
from mergegrid.study.schema.job_parameters import as_parameters
from mergegrid.study.schema.loading import check_paths, check_study, read_yaml
from mergegrid.study.schema.published_cells import published_cells, published_gains
from snakemake.exceptions import WorkflowError

# A job on a cluster starts its own Snakemake, without the --resources of the run.
if snakemake_compat.is_main(workflow):
    given = snakemake_compat.limit_of(workflow, "gpu") is not None
    os.environ["MERGEGRID_RUN"] = "gpu" if given else "cpu"


envvars:
    "MERGEGRID_RUN",


def configuration_files():
    """The configuration files of this run, in the order given."""
    # A file of the command line is read again as the default, and then listed twice.
    return list(dict.fromkeys(map(str, workflow.configfiles)))


def checked_study():
    files = configuration_files()
    try:
        for path in files:
            read_yaml(Path(path))
        study = check_study(config, " + ".join(files))
        check_paths(study)
        return study
    except MergegridError as error:
        raise WorkflowError(str(error))


# Jobs end with the Snakemake that started them; each process of Snakemake sets this anew.
os.environ.update(MERGEGRID_SNAKEMAKE=str(os.getpid()))
snakemake_compat.end_on_interrupt()
HELD = snakemake_compat.hold_folder(workflow)
STUDY = checked_study()
ENCODERS, DECODERS = STUDY.encoders, STUDY.decoders
ENCODER_FAMILIES = ENCODERS.families if ENCODERS else {}
DECODER_FAMILIES = DECODERS.families if DECODERS else {}
FAMILIES = STUDY.families
EXPERTS = sorted({name for family in FAMILIES.values() for name in family.experts})
TASKS = ENCODERS.tasks if ENCODERS else {}
BENCHMARKS = DECODERS.benchmarks if DECODERS else {}
SOURCES = {
    source.name: source for grid in reversed(STUDY.grids) for source in grid.sources()
}
RESOURCES = snakemake_compat.folder_of_rules(workflow).parents[1] / "resources"


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


def as_json(settings):
    return canonical_json(settings.model_dump(mode="json"))


def gpus():
    """One GPU per job when the run was given GPUs (--resources gpu=N), else none."""
    return 1 if os.environ["MERGEGRID_RUN"] == "gpu" else 0


def jobs_per_gpu():
    """Number of jobs on encoders that share a GPU of this machine; 1 on a cluster.

    Call it when jobs are about to start: a run gets its executor after the rules are read.
    """
    return STUDY.jobs_per_gpu if gpus() and snakemake_compat.runs_here(workflow) else 1


def encoder_gpus(wildcards):
    """GPUs of a job on encoders; a job that shares one holds a `gpu_share` instead."""
    return 0 if jobs_per_gpu() > 1 else gpus()


def encoder_share(wildcards):
    """One of the places on a shared GPU."""
    return 1 if jobs_per_gpu() > 1 else 0


def whole_share(count):
    """All places on `count` GPUs, for a job that shares none of them."""
    return count * jobs_per_gpu() if jobs_per_gpu() > 1 else 0


def limit_gpu_shares():
    """Run at most as many jobs on shared GPUs at a time as there are places on them."""
    if jobs_per_gpu() > 1:
        places = jobs_per_gpu() * snakemake_compat.limit_of(workflow, "gpu")
        snakemake_compat.set_limit(workflow, "gpu_share", places)
        text = f"Jobs on encoders share GPUs: at most {places} at a time."
        logger.info(text, extra=marked())


# Cores per GPU of a SLURM job (sbatch --cpus-per-gpu), to feed it, compile and merge. On nodes with
# fewer, set `cpus_per_gpu` in the default-resources of a profile. Without SLURM it has no effect.
CPUS_PER_GPU = snakemake_compat.default_resource(workflow, "cpus_per_gpu") or 8
# Jobs that merge or measure whole models use several threads, whose number changes no byte; Snakemake
# gives at most the cores there are. More would wait for the disk.
MERGE_THREADS = 4


def measuring_threads():
    """Threads of a short job on whole models: not all cores of a small machine, which it would wait for."""
    cores = snakemake_compat.cores_of(workflow)
    # A process of one job has the cores of that job.
    if cores is None or not snakemake_compat.is_main(workflow):
        return MERGE_THREADS
    return max(1, min(MERGE_THREADS, cores // 2))


def decoder_size(family):
    """Size of a decoder, once its base is on disk; memory is requested when a job is ready."""
    return memory_estimates.size_of(Path(STUDY.paths.results, family, "base"))


def limit_merged_models():
    """Merge few decoders ahead of the GPUs that read them, unless --resources sets a limit.

    One for each engine that answers, and as many again so that no GPU waits for a merge. Otherwise idle
    cores would merge far ahead of the GPUs, until the disk is full.
    """
    devices = snakemake_compat.limit_of(workflow, "gpu")
    # A job on a cluster does not know the limits of the run, and merges only its own model.
    if (
        devices is not None
        and DECODERS
        and snakemake_compat.limit_of(workflow, "merged_models") is None
    ):
        fewest = min(DECODERS.generation_of(name).gpus for name in DECODER_FAMILIES)
        limit = 2 * max(1, devices // fewest)
        snakemake_compat.set_limit(workflow, "merged_models", limit)


def source_parameters(name):
    """The part of a source that decides what is fetched: not the columns of a table, nor its license."""
    source = SOURCES[name].config
    return as_parameters(source=source.source, sha256=source.sha256)


def record_of(name):
    """The record of a fetched source; none for data that is generated."""
    return {"record": f"<results>/sources/{name}.json"} if name in SOURCES else {}


def per_expert(pattern, grid):
    """A pattern filled for every expert and training seed of a study of encoders or decoders."""
    return [
        pattern.format(family=name, expert=expert, seed=seed)
        for name, family in (grid.families if grid else {}).items()
        for expert in family.experts
        for seed in grid.training_seeds(name)
    ]


def per_set(pattern, sets):
    """A pattern filled for every set of encoders and training seed; `sets` gives those of a family."""
    return [
        pattern.format(family=name, set="+".join(experts), seed=seed)
        for name in ENCODER_FAMILIES
        for experts in sets(name)
        for seed in ENCODERS.training_seeds(name)
    ]


def experts_of(wildcards):
    """The experts of the wildcard `set`."""
    return wildcards.set.split("+")


def task_examples(wildcards):
    """The examples of the task of an expert."""
    family = ENCODER_FAMILIES[wildcards.family]
    return f"<results>/tasks/{family.task_of(wildcards.expert)}.parquet"


def set_examples(wildcards):
    """The examples of the task of each expert of a set."""
    family = ENCODER_FAMILIES[wildcards.family]
    names = map(family.task_of, experts_of(wildcards))
    return [f"<results>/tasks/{task}.parquet" for task in names]


def is_ready(wildcards):
    """Whether an expert is imported instead of fine-tuned."""
    expert = FAMILIES[wildcards.family].experts[wildcards.expert]
    return bool(expert.source or getattr(expert, "family", None))


def ready_source(wildcards):
    """The source of a ready expert; none for an expert that is fine-tuned."""
    name = f"expert~{wildcards.family}~{wildcards.expert}"
    return source_parameters(name) if name in SOURCES else None
