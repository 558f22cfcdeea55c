"""
The checked configuration and the functions that rules share. No rule is here.
"""

from mergegrid.config import decoder_requests, requests
from mergegrid.config.source import PathOrigin
from mergegrid.config.loading import check_paths, check_study, read_yaml
from mergegrid.errors import MergegridError
from mergegrid.checkpoints.sources.cache import root as cache_root
from mergegrid.checkpoints.sources.path import find as find_path
from mergegrid.provenance import canonical_json, code_version, digest
from snakemake.exceptions import WorkflowError


def checked_study():
    try:
        for path in workflow.configfiles:
            read_yaml(Path(path))
        study = check_study(config, " + ".join(map(str, workflow.configfiles)))
        check_paths(study)
        return study
    except MergegridError as error:
        raise WorkflowError(str(error))


STUDY = checked_study()
SCRIPTS = (
    Path(workflow.current_basedir.get_path_or_uri(secret_free=False)).parent / "scripts"
)
DECODERS = STUDY.decoders
FAMILIES = {**STUDY.families, **(DECODERS.families if DECODERS else {})}
EXPERTS = sorted({name for family in FAMILIES.values() for name in family.experts})
# Every table and figure, and the results that it is made from.
TABLES = {
    "drop_rates": "scores",
    "drop_rates_wide": "scores",
    "merges": "scores",
    "merges_wide": "scores",
    "merge_candidates": "scores",
    "benchmarks": "scores",
    "delta_ranges": "deltas",
    "experts": "experts",
    "decoders": "decoders",
    "sources": "sources",
}
FIGURES = {"drop_rates": "scores", "merges": "scores", "deltas": "deltas"}


def code_of(script):
    """The version of the code of a job, which is its script and all that the script imports."""
    return code_version(SCRIPTS / f"{script}.py")


def one_of(names):
    return "|".join(map(re.escape, names)) or "(?!)"


def as_json(spec):
    return canonical_json(spec.model_dump(mode="json"))


def gpus():
    """One GPU per job when the run was given GPUs (--resources gpu=N), else none."""
    return 1 if "gpu" in workflow.global_resources else 0


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
    """What is in the file or folder of a `path:` source, so that a change in it is noticed."""
    spec = SOURCES[wildcards.name][1]
    if not isinstance(spec.origin, PathOrigin):
        return None
    return digest(find_path(spec.origin, spec.sha256, cache_root()).files)


def source_json(name):
    """What of a source decides what is fetched: neither the columns of a table nor its terms."""
    spec = SOURCES[name][1]
    return canonical_json({"source": spec.source, "sha256": spec.sha256})


def licences(wildcards):
    """Terms of use that the configuration states, for the table that shows them."""
    if TABLES[wildcards.table] != "sources":
        return None
    return canonical_json({name: spec.licence for name, (_, spec) in SOURCES.items()})


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
    """What an expert is made from: its base, and examples or its own source."""
    family, expert = wildcards.family, wildcards.expert
    base = {"base": f"<results>/{family}/base"}
    if STUDY.families[family].experts[expert].source:
        return base | {"source": f"<results>/sources/expert~{family}~{expert}.json"}
    return base | {"examples": f"<results>/tasks/{task_of(wildcards)}.parquet"}


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
        for seed in study.seeds.training
    ]


def set_experts(wildcards):
    return wildcards.set.split("+")


def results_for(kind):
    """The files behind one kind of results, under the name that the report's scripts expect."""
    deltas = "<results>/{family}/deltas/{expert}/seed~{seed}.parquet"
    experts = "<results>/{family}/experts/{expert}/seed~{seed}"
    files = {
        "scores": "<results>/scores.parquet",
        "deltas": [*per_expert(deltas, STUDY), *per_expert(deltas, DECODERS)],
        "experts": per_expert(experts, STUDY),
        "decoders": per_expert(experts, DECODERS),
        "sources": [f"<results>/sources/{name}.json" for name in SOURCES],
    }
    return {kind: files[kind]}


def sweep_files():
    if STUDY.sweep is None:
        return []
    return per_expert("<results>/{family}/sweeps/{expert}/seed~{seed}.parquet", STUDY)


def merge_files():
    return [
        f"<results>/{family}/merges/{'+'.join(experts)}/seed~{seed}.parquet"
        for family in STUDY.families
        for experts in STUDY.expert_sets(family)
        for seed in STUDY.seeds.training
    ]


def tables_of_study():
    """The tables that have something to show."""
    empty = [] if STUDY.families else ["experts"]
    empty += [] if DECODERS else ["benchmarks", "decoders"]
    return [table for table in TABLES if table not in empty]


def all_results():
    """Everything that the study asks for."""
    tables = expand(
        "<results>/tables/{table}.{kind}",
        table=tables_of_study(),
        kind=["csv", "md", "html"],
    )
    figures = expand(
        "<results>/figures/{family}/{figure}.{kind}",
        family=FAMILIES,
        figure=FIGURES,
        kind=["svg", "png"],
    )
    return ["<results>/scores.parquet", *tables, *figures]
