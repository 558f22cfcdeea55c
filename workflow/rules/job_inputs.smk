"""
Inputs and parameters of the jobs of single rules. No rule is here.
"""

from mergegrid.study.schema.lm_eval import OnGpus, custom_tasks


def local_content(wildcards):
    """Digest of the file or folder of a `path:` source, so that a change in it is noticed."""
    source = SOURCES[wildcards.name]
    if not isinstance(source.config.origin, PathOrigin):
        return None
    files = find_path(source.config.origin, source.config.sha256, cache_root()).files
    return digest(identity_files(files, source.kind))


def task_sources(wildcards):
    """The records of the tables of a task, by split."""
    return {
        split: f"<results>/sources/task~{wildcards.task}~{split}.json"
        for split in TASKS[wildcards.task].tables
    }


def expert_origin(wildcards):
    """Inputs of an expert: its base, and examples, its source or another family's expert."""
    family, expert = wildcards.family, wildcards.expert
    inputs = {"base": f"<results>/{family}/base"}
    if owner := ENCODER_FAMILIES[family].experts[expert].family:
        ready = f"<results>/{owner}/experts/{expert}/seed~{wildcards.seed}"
        return inputs | {"expert": ready}
    if ENCODER_FAMILIES[family].experts[expert].source:
        return inputs | {"source": f"<results>/sources/expert~{family}~{expert}.json"}
    return inputs | {"examples": task_examples(wildcards)}


def search_stages():
    """The stages of searches that a full grid does not have."""
    merges = ENCODERS.merges if ENCODERS else None
    racing = ["race"] if merges and merges.racing else []
    return [*racing, "sample"] if merges and merges.sampled else racing


def set_statistics(wildcards):
    """The model statistics of the experts of a set, where a method of the study needs them."""
    if not encoder_jobs.needed_statistics(STUDY.grid_of(wildcards.family)):
        return []
    return [
        f"<results>/{wildcards.family}/statistics/{expert}/seed~{wildcards.seed}"
        for expert in experts_of(wildcards)
    ]


def export_scores(wildcards):
    """The scores among which the candidates of a set are selected."""
    kind = "merges" if wildcards.family in ENCODER_FAMILIES else "benchmarks"
    return f"<results>/{wildcards.family}/{kind}/{wildcards.set}/seed~{wildcards.seed}.parquet"


def export_request(wildcards):
    """The merged models of a set that are kept."""
    return export_jobs.export_request(
        STUDY.grid_of(wildcards.family),
        wildcards.family,
        tuple(experts_of(wildcards)),
        int(wildcards.seed),
    )


def export_records(wildcards):
    """The records of the base, of ready experts, and of the data that they are scored on."""
    names = [f"base~{wildcards.family}"]
    names += [f"expert~{wildcards.family}~{expert}" for expert in experts_of(wildcards)]
    names += [data.record for data in export_request(wildcards).scored_on.values()]
    return [f"<results>/sources/{name}.json" for name in names if name in SOURCES]


def oracle_parameters(wildcards):
    return as_json(
        encoder_jobs.oracle_request(
            ENCODERS, wildcards.family, experts_of(wildcards), int(wildcards.seed)
        )
    )


def decoder_origin(wildcards):
    """Inputs of a decoder: its base, and instructions or its source."""
    family, expert = wildcards.family, wildcards.expert
    inputs = {"base": f"<results>/{family}/base"}
    if is_ready(wildcards):
        return inputs | {"source": f"<results>/sources/expert~{family}~{expert}.json"}
    return inputs | {"data": f"<results>/{family}/instructions/{expert}.parquet"}


def statistics_texts(wildcards):
    """The texts that statistics of a decoder are gathered from: its own, or those it learned."""
    expert = DECODER_FAMILIES[wildcards.family].experts[wildcards.expert]
    folder = "calibration" if expert.statistics else "instructions"
    return f"<results>/{wildcards.family}/{folder}/{wildcards.expert}.parquet"


def finetuning_mb(wildcards):
    """Memory of the host to fine-tune an expert, or any expert of the family where it is None."""
    family = DECODER_FAMILIES[wildcards.family]
    names = [wildcards.expert] if wildcards.expert else family.experts
    adapters = all(family.finetune_of(name).lora for name in names)
    size = decoder_size(wildcards.family)
    return memory_estimates.finetuning_mb(size, bool(gpus()), adapters)


def finetune_parameters(wildcards):
    """Fine-tuning of a decoder; none for a ready one."""
    if is_ready(wildcards):
        return None
    return as_json(
        decoder_jobs.finetune_request(
            DECODERS, wildcards.family, wildcards.expert, int(wildcards.seed)
        )
    )


def sandbox_of(wildcards):
    """The sandbox, for benchmarks whose answers are programs."""
    programs = BENCHMARKS[wildcards.benchmark].kind in ("humaneval", "mbpp")
    return ["<results>/sandbox.txt"] if programs else []


def first_questions(wildcards):
    """The questions of the first benchmark of a decoder."""
    expert = DECODER_FAMILIES[wildcards.family].experts[wildcards.expert]
    return f"<results>/benchmarks/{expert.benchmarks[0]}.parquet"


def harness_parameters(wildcards):
    """The tasks for one merged model, and how it is placed on GPUs."""
    settings, generation = DECODERS.harness, DECODERS.generation_of(wildcards.family)
    return as_parameters(
        settings=settings,
        on_gpus=OnGpus.of(generation, settings.model) if gpus() else OnGpus(),
        recipe=candidate_of(wildcards),
        owner="",
    )
