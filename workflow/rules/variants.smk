"""
The variants of decoders: every recipe of the study, by its place below results. No rule is here.
"""

from mergegrid.study.schema.lm_eval import HarnessRequest, OnGpus, own_tasks
from mergegrid.recipes.recipe import spec_slug


def variant_name(recipe):
    """Where the answers of a recipe are: experts/seed~0/sparsifier/method."""
    return "/".join(
        (
            "+".join(recipe.experts),
            f"seed~{recipe.training_seed}",
            spec_slug(recipe.sparsifier),
            spec_slug(recipe.method),
        )
    )


def expert_groups():
    """The recipes of every set of experts and training seed, single experts included."""
    found = {}
    for family in DECODERS.families if DECODERS else {}:
        for seed in DECODERS.seeds.training_of(family, DECODERS.families):
            for expert in DECODERS.families[family].experts:
                recipes = DECODERS.sweep_recipes(family, expert, seed)
                found[family, expert, str(seed)] = recipes
            for experts in DECODERS.expert_sets(family):
                recipes = DECODERS.merge_recipes(family, experts, seed)
                # Named as its recipes are: they sort their experts.
                found[family, "+".join(sorted(experts)), str(seed)] = recipes
    return {key: recipes for key, recipes in found.items() if recipes}


GROUPS = expert_groups()
# The groups whose variants all pass through one engine.
ONE_ENGINE = [
    (family, experts, seed)
    for family, experts, seed in GROUPS
    if DECODERS.generation_of(family).one_engine
]
VARIANTS = {
    (recipe.family, variant_name(recipe)): recipe
    for recipes in GROUPS.values()
    for recipe in recipes
}


def group_of(wildcards):
    """The recipes of one set of experts and training seed."""
    return GROUPS[wildcards.family, wildcards.set, wildcards.seed]


def variant_of(wildcards):
    return VARIANTS[wildcards.family, wildcards.variant]


def benchmarks_of(recipe):
    """The benchmarks of all experts of a recipe."""
    return DECODERS.owners(recipe)


def questions_of(recipe):
    """The questions that a recipe is asked, in the order of its benchmarks."""
    return [
        f"<results>/benchmarks/{benchmark}.parquet"
        for benchmark in benchmarks_of(recipe)
    ]


def expert_folders(recipe):
    return [
        f"<results>/{recipe.family}/experts/{expert}/seed~{recipe.training_seed}"
        for expert in recipe.experts
    ]


def answer_files(recipes):
    return [
        f"<results>/{recipe.family}/answers/{variant_name(recipe)}.parquet"
        for recipe in recipes
    ]


def decoder_score_files():
    return [
        f"<results>/{family}/benchmarks/{experts}/seed~{seed}.parquet"
        for family, experts, seed in GROUPS
    ]


def record_files():
    """The record of every answer of decoders."""
    return [
        f"<results>/{family}/records/{experts}/seed~{seed}/{benchmark}.parquet"
        for (family, experts, seed), recipes in GROUPS.items()
        for benchmark in benchmarks_of(recipes[0])
    ]


def decoder_origin(wildcards):
    """What a decoder is made from: its base, and instructions or its own source."""
    family, expert = wildcards.family, wildcards.expert
    base = {"base": f"<results>/{family}/base"}
    if DECODERS.families[family].experts[expert].source:
        return base | {"source": f"<results>/sources/expert~{family}~{expert}.json"}
    return base | {"data": f"<results>/{family}/instructions/{expert}.parquet"}


def record_of(name):
    """The record of a data set, for one that is fetched rather than generated."""
    return {"record": f"<results>/sources/{name}.json"} if name in SOURCES else {}


def finetuning_mb(wildcards):
    """The memory of the host that fine-tuning an expert takes; None stands for any."""
    family = DECODERS.families[wildcards.family]
    names = [wildcards.expert] if wildcards.expert else family.experts
    adapters = all(family.finetune_of(name).lora for name in names)
    size = decoder_size(wildcards.family)
    return hardware.finetuning_mb(size, bool(gpus()), adapters)


def decoder_request(wildcards):
    """How a decoder is fine-tuned; none for a ready one."""
    family, expert = wildcards.family, wildcards.expert
    if DECODERS.families[family].experts[expert].source:
        return None
    return as_json(
        decoder_requests.finetune_request(DECODERS, family, expert, int(wildcards.seed))
    )


def generation_gpus(family):
    """The GPUs that one engine is split over, when the run was given GPUs."""
    return DECODERS.generation_of(family).gpus if gpus() else 0


def generation_mb(family):
    """The memory of the host that one job of a family takes to answer."""
    one_engine = DECODERS.generation_of(family).one_engine
    return hardware.generation_mb(
        decoder_size(family), generation_gpus(family), one_engine
    )


def sandbox_of(wildcards):
    """The sandbox, for benchmarks whose answers are programs."""
    programs = DECODERS.benchmarks[wildcards.benchmark].kind in ("humaneval", "mbpp")
    return ["<results>/sandbox.txt"] if programs else []


def harness_files():
    """The scores of every variant on tasks of lm-evaluation-harness."""
    asked = VARIANTS if DECODERS and DECODERS.harness else []
    return [
        f"<results>/{family}/harness/{variant}.parquet" for family, variant in asked
    ]


def harness_request(wildcards):
    """What one merged model is asked by lm-eval."""
    generation = DECODERS.generation_of(wildcards.family)
    request = HarnessRequest(
        settings=DECODERS.harness,
        on_gpus=OnGpus.of(generation, DECODERS.harness.model) if gpus() else OnGpus(),
        recipe=variant_of(wildcards),
    )
    return as_json(request)
