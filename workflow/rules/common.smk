"""
The checked configuration and the functions that rules share. No rule is here.
"""

import fcntl
import os
import signal
from contextlib import suppress
from types import SimpleNamespace

import psutil

from mergegrid.study.schema import decoder_jobs as decoder_requests, oracle_jobs as oracle_requests, encoder_jobs as requests
from mergegrid.study.runtime import memory_estimates as hardware
from mergegrid.study.schema import similarity_jobs as similarity_requests
from mergegrid.checkpoints.sources.source import PathOrigin
from mergegrid.study.schema.loading import check_paths, check_study, read_yaml
from mergegrid.errors import MergegridError
from mergegrid.checkpoints.sources.cache import root as cache_root
from mergegrid.checkpoints.identity import identity_files
from mergegrid.checkpoints.sources.path import find as find_path
from mergegrid.study.schema.published_cells import published_cells, published_gains
from mergegrid.hashing import canonical_json, digest
from mergegrid.study.reporting.catalogue import FIGURES, TABLES
from mergegrid.stages import stage_versions
from snakemake.exceptions import WorkflowError

# A job of a cluster starts a Snakemake of its own, which is not told what the run was given.
if workflow.is_main_process:
    os.environ["MERGEGRID_RUN"] = "gpu" if "gpu" in workflow.global_resources else "cpu"


envvars:
    "MERGEGRID_RUN",


def heed_interrupts():
    """Let `kill -INT` end a run and its jobs although a shell has its background jobs ignore it.

    On a terminal, Ctrl-C reaches the jobs by itself, and Snakemake waits for them.
    """

    def interrupt(number, frame):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def checked_study():
    try:
        for path in workflow.configfiles:
            read_yaml(Path(path))
        study = check_study(config, " + ".join(map(str, workflow.configfiles)))
        check_paths(study)
        return study
    except MergegridError as error:
        raise WorkflowError(str(error))


RUN_LOCK = Path(".snakemake/mergegrid.lock")


def hold_folder():
    """Share a lock on the working folder with all runs in it, until this process ends.

    Snakemake's own locks outlive a kill -9 and a power cut; those of the kernel do not. So where
    no run lives, and the last one was on this machine, its locks mean nothing and are removed.
    """
    if workflow.output_settings.dryrun or not workflow.is_main_process:
        return None
    RUN_LOCK.parent.mkdir(exist_ok=True)
    file = RUN_LOCK.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        # Jobs of a run on a cluster may still write; only its user can tell.
        if file.read() == f"{os.uname().nodename} local":
            for lock in RUN_LOCK.parent.glob("locks/*.lock"):
                logger.info(f"Removing {lock} of a run that was killed.")
                lock.unlink()
    except BlockingIOError:
        pass  # Another run lives.
    except OSError as error:
        logger.debug(f"{RUN_LOCK} cannot be locked: {error}")
        return file
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def note_run():
    """Leave word where the jobs of this run are."""
    where = "local" if workflow.local_exec else "cluster"
    RUN_LOCK.write_text(f"{os.uname().nodename} {where}")


# Jobs end with the Snakemake that started them; each process of Snakemake reads this anew.
os.environ.update(MERGEGRID_SNAKEMAKE=str(os.getpid()))
heed_interrupts()
HELD = hold_folder()
STUDY = checked_study()
SCRIPTS = (
    Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent / "scripts"
)
DECODERS = STUDY.decoders
FAMILIES = {**STUDY.families, **(DECODERS.families if DECODERS else {})}
EXPERTS = sorted({name for family in FAMILIES.values() for name in family.experts})
RESOURCES = SCRIPTS.parents[1] / "resources"
NEEDS_STATISTICS = bool(requests.asked_statistics(STUDY))


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


def as_json(spec):
    return canonical_json(spec.model_dump(mode="json"))


def gpus():
    """One GPU per job when the run was given GPUs (--resources gpu=N), else none."""
    return 1 if os.environ["MERGEGRID_RUN"] == "gpu" else 0


def jobs_per_gpu():
    """How many jobs on encoders share a GPU of this machine; a cluster gives each its own.

    Known once the run has an executor, so it is asked where jobs are about to start.
    """
    here = workflow.is_main_process and workflow.local_exec
    return STUDY.jobs_per_gpu if gpus() and here else 1


def encoder_gpus(wildcards):
    """The GPUs of a job on encoders; where it shares one, it holds a `gpu_share` instead."""
    return 0 if jobs_per_gpu() > 1 else gpus()


def encoder_share(wildcards):
    """One of the places on a GPU that jobs share."""
    return 1 if jobs_per_gpu() > 1 else 0


def whole_share(count):
    """All places on so many GPUs, for a job that shares none of them."""
    return count * jobs_per_gpu() if jobs_per_gpu() > 1 else 0


def bound_gpu_shares():
    """Run as many jobs on shared GPUs at a time as there are places on them."""
    if jobs_per_gpu() > 1:
        places = jobs_per_gpu() * workflow.global_resources["gpu"].value
        workflow.register_resource("gpu_share", places)
        places = workflow.scheduler.resources["gpu_share"]
        logger.info(f"Jobs on encoders share GPUs: at most {places} at a time.")


# Cores that a SLURM job gets beside each of its GPUs (sbatch --cpus-per-gpu), to feed it, compile and
# merge. For nodes that have fewer, `cpus_per_gpu` among the default-resources of a profile replaces it.
# Without SLURM it has no effect.
CPUS_PER_GPU = 8


def cpus_per_gpu():
    """Cores beside each GPU: those of the default resources, else CPUS_PER_GPU."""
    defaults = workflow.resource_settings.default_resources or {}
    if "cpus_per_gpu" not in defaults:
        return CPUS_PER_GPU
    try:
        return defaults["cpus_per_gpu"].value
    except ValueError as error:
        raise WorkflowError(
            "cpus_per_gpu among the default resources must be a number; an expression belongs into "
            "set-resources of a rule"
        ) from error


# What merges or measures whole models uses several threads, whose number changes no byte; Snakemake
# gives no more than there are cores. More would wait for the disk.
MERGE_THREADS = 4


def variant_threads():
    """Threads of a job that merges variants in memory: on the CPU one, as torch has in all jobs."""
    return MERGE_THREADS if gpus() else 1


def decoder_size(family):
    """What a decoder weighs, once its base is there; memory is asked for when a job is ready."""
    return hardware.size_of(Path(STUDY.paths.results, family, "base"))


def look_for_jobs_when_one_ends():
    """Take the scheduler's limit on how many jobs are started each second away.

    To keep it, Snakemake 9 looks for jobs again a second after each time that it has looked. So
    every job that ends makes it look once more every second, to the end of the run: after a hundred
    jobs that took a sixth of a core.
    """
    workflow.scheduler.job_rate_limiter = None


def bound_merged_models():
    """Merge few decoders ahead of the GPUs that read them, unless --resources says how many.

    One for each engine that answers, and one more, so that no GPU waits for a merge. Otherwise idle
    cores would merge far ahead of the GPUs, until the disk is full.
    """
    limits = workflow.global_resources
    # A job of a cluster is not told what the run was given, and merges nothing but its own.
    if "gpu" in limits and DECODERS and "merged_models" not in limits:
        each = min(DECODERS.generation_of(name).gpus for name in DECODERS.families)
        workflow.register_resource(
            "merged_models", 2 * max(1, limits["gpu"].value // each)
        )


def asked_memory():
    """The memory in MB that the first attempt of each rule asks for, None where its inputs decide.

    Of rules whose memory goes by the size of a decoder, that for the largest.
    """
    names = list(DECODERS.families if DECODERS else []) or [None]
    found = {}
    for each in workflow.rules:
        if asked := each.resources.get("mem_mb"):
            known = {"rulename": each.name, "attempt": 1, "threads": 1}
            try:
                # What a user asks for by --set-resources is an expression, with more in its scope.
                found[each.name] = max(
                    asked.evaluate(
                        SimpleNamespace(family=name, expert=None),
                        input=None,
                        async_run=workflow.async_run,
                        **known,
                    ).value
                    for name in names
                )
            except (AttributeError, KeyError, TypeError, WorkflowError):
                found[each.name] = None
    return found


def decoder_sources():
    """What the study of decoders fetches, by the name of its record."""
    found = {}
    for name, benchmark in (DECODERS.benchmarks if DECODERS else {}).items():
        if benchmark.records:
            found[f"benchmark~{name}"] = ("dataset", benchmark.records)
    for name, family in (DECODERS.families if DECODERS else {}).items():
        found[f"base~{name}"] = ("model", family.base)
        for expert, spec in family.experts.items():
            if spec.source:
                found[f"expert~{name}~{expert}"] = ("model", spec.source)
            elif spec.data.records:
                found[f"data~{name}~{expert}"] = ("dataset", spec.data.records)
    return found


def source_configs():
    """Everything that is fetched, by the name of its record."""
    found = decoder_sources()
    for task, spec in STUDY.tasks.items():
        for split in ("train", "validation", "test"):
            if table := getattr(spec, split):
                found[f"task~{task}~{split}"] = ("dataset", table)
    for name, family in STUDY.families.items():
        found[f"base~{name}"] = ("model", family.base)
        for expert, spec in family.experts.items():
            if spec.source:
                found[f"expert~{name}~{expert}"] = ("model", spec.source)
    return found


SOURCES = source_configs()


def local_content(wildcards):
    """Digest of the file or folder of a `path:` source, so that a change in it is noticed."""
    kind, spec = SOURCES[wildcards.name]
    if not isinstance(spec.origin, PathOrigin):
        return None
    files = find_path(spec.origin, spec.sha256, cache_root()).files
    return digest(identity_files(files, kind))


def source_json(name):
    """What of a source decides what is fetched: neither the columns of a table nor its terms."""
    spec = SOURCES[name][1]
    return canonical_json({"source": spec.source, "sha256": spec.sha256})


def published(table):
    """What a table shows of the paper; nothing but for the two that compare."""
    ours = {"published": published_cells, "sparsifier_effects": published_gains}
    try:
        return ours[table](STUDY, RESOURCES / "published.csv") if table in ours else []
    except MergegridError as error:
        raise WorkflowError(str(error))


def table_request(wildcards):
    """What of the configuration a table shows beside results."""
    asked = {}
    if TABLES[wildcards.table].needs == "sources":
        terms = {name: spec.licence for name, (_, spec) in SOURCES.items()}
        asked["licences"] = terms
    if cells := published(wildcards.table):
        asked["published"] = cells
    return canonical_json(asked)


def task_sources(wildcards):
    """The records of the tables of a task, by split."""
    spec = STUDY.tasks[wildcards.task]
    splits = [
        split for split in ("train", "validation", "test") if getattr(spec, split)
    ]
    return {
        split: f"<results>/sources/task~{wildcards.task}~{split}.json"
        for split in splits
    }


def task_of(wildcards):
    return STUDY.families[wildcards.family].task_of(wildcards.expert)


def expert_origin(wildcards):
    """What an expert is made from: its base, and examples, its own source or another family's."""
    family, expert = wildcards.family, wildcards.expert
    base = {"base": f"<results>/{family}/base"}
    if owner := STUDY.families[family].experts[expert].family:
        ready = f"<results>/{owner}/experts/{expert}/seed~{wildcards.seed}"
        return base | {"expert": ready}
    if STUDY.families[family].experts[expert].source:
        return base | {"source": f"<results>/sources/expert~{family}~{expert}.json"}
    return base | {"examples": f"<results>/tasks/{task_of(wildcards)}.parquet"}


def is_ready(wildcards):
    """Whether an expert is imported, not fine-tuned here."""
    study = STUDY if wildcards.family in STUDY.families else DECODERS
    expert = study.families[wildcards.family].experts[wildcards.expert]
    return bool(expert.source or getattr(expert, "family", None))


def ready_source(wildcards):
    """The source of a ready expert; none for one that is fine-tuned here."""
    name = f"expert~{wildcards.family}~{wildcards.expert}"
    return source_json(name) if name in SOURCES else None


def per_expert(pattern, study):
    """A pattern filled for every expert of every family and every training seed of a study."""
    return [
        pattern.format(family=name, expert=expert, seed=seed)
        for name, family in (study.families if study else {}).items()
        for expert in family.experts
        for seed in study.seeds.training_of(name, study.families)
    ]


def set_experts(wildcards):
    return wildcards.set.split("+")


def set_statistics(wildcards):
    """What was gathered of the experts of a set, where a method of the study needs it."""
    if not NEEDS_STATISTICS:
        return []
    return [
        f"<results>/{wildcards.family}/statistics/{expert}/seed~{wildcards.seed}"
        for expert in set_experts(wildcards)
    ]


def set_examples(wildcards):
    """The examples of the task of each expert of a set."""
    family = STUDY.families[wildcards.family]
    return [
        f"<results>/tasks/{family.task_of(expert)}.parquet"
        for expert in set_experts(wildcards)
    ]


def asked_of_oracle(wildcards):
    """How the oracle of a set is trained."""
    return as_json(
        oracle_requests.oracle_request(
            STUDY, wildcards.family, set_experts(wildcards), int(wildcards.seed)
        )
    )


def results_for(kind):
    """The files behind one kind of results, under the name that the report's scripts expect."""
    deltas = "<results>/{family}/deltas/{expert}/seed~{seed}.parquet"
    experts = "<results>/{family}/experts/{expert}/seed~{seed}"
    files = {
        "scores": "<results>/scores.parquet",
        "deltas": [*per_expert(deltas, STUDY), *per_expert(deltas, DECODERS)],
        "similarity": similarity_files(),
        "comparisons": "<results>/comparisons.parquet",
        "experts": per_expert(experts, STUDY),
        "decoders": per_expert(experts, DECODERS),
        "sources": [f"<results>/sources/{name}.json" for name in SOURCES],
    }
    # A table says where the scores behind it were computed with several versions of a library.
    kinds = ("comparisons", "scores") if kind == "comparisons" else (kind,)
    return {each: files[each] for each in kinds}


def sweep_files():
    if STUDY.sweep is None:
        return []
    return per_expert("<results>/{family}/sweeps/{expert}/seed~{seed}.parquet", STUDY)


def prediction_files():
    """What encoders answered, one file for every file of their scores."""
    scores = re.compile(r"^(<results>/[^/]+)/(sweeps|merges)/")
    paths = [*sweep_files(), *merge_files()]
    return [scores.sub(r"\1/predictions/", path) for path in paths]


def scored_tasks():
    """The tasks of all experts among encoders."""
    return sorted(
        {
            family.task_of(expert)
            for family in STUDY.families.values()
            for expert in family.experts
        }
    )


def merge_files():
    return [
        f"<results>/{family}/merges/{'+'.join(experts)}/seed~{seed}.parquet"
        for family in STUDY.families
        for experts in STUDY.expert_sets(family)
        for seed in STUDY.seeds.training_of(family, STUDY.families)
    ]


def oracle_files():
    return [
        f"<results>/{family}/oracles/{'+'.join(experts)}/seed~{seed}.parquet"
        for family in STUDY.families
        for experts in STUDY.oracle_sets(family)
        for seed in STUDY.seeds.training_of(family, STUDY.families)
    ]


def compares_embeddings(study):
    return bool(study and study.similarity)


def similarity_files():
    pattern = "<results>/{family}/similarity/{expert}/seed~{seed}.parquet"
    return [
        path
        for study in (STUDY, DECODERS)
        if compares_embeddings(study)
        for path in per_expert(pattern, study)
    ]


def first_questions(wildcards):
    """The questions of the first benchmark of a decoder."""
    expert = DECODERS.families[wildcards.family].experts[wildcards.expert]
    return f"<results>/benchmarks/{expert.benchmarks[0]}.parquet"


def tables_of_study():
    """The tables that have something to show."""
    empty = [] if STUDY.families else ["experts"]
    empty += [] if DECODERS else ["benchmarks", "decoders"]
    empty += [] if similarity_files() else ["similarity"]
    empty += [] if published("published") else ["published"]
    pairs = [
        pair_sets(study, family)
        for study in (STUDY, DECODERS)
        for family in (study.families if study else [])
    ]
    empty += [] if any(pairs) else ["pairs", "sparsifier_effects"]
    return [table for table in TABLES if table not in empty]


def pair_sets(study, family):
    """The sets of two experts of a family that are merged."""
    return [experts for experts in study.expert_sets(family) if len(experts) == 2]


def figures_of(family):
    """The figures that have something to show of a family."""
    study = STUDY if family in STUDY.families else DECODERS
    empty = [] if compares_embeddings(study) else ["similarity"]
    empty += [] if pair_sets(study, family) else ["pairs"]
    return [figure for figure in FIGURES if figure not in empty]


def all_results():
    """Everything that the study asks for."""
    tables = expand(
        "<results>/tables/{table}.{kind}",
        table=tables_of_study(),
        kind=["csv", "md", "html", "tex"],
    )
    figures = [
        f"<results>/figures/{family}/{figure}.{kind}"
        for family in FAMILIES
        for figure in figures_of(family)
        for kind in ("svg", "png")
    ]
    return ["<results>/scores.parquet", *tables, *figures, "<results>/costs/costs.csv"]
