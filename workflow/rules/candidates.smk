"""
The recipes of decoders, by their place below results, and what jobs on them need. No rule is here.
"""

from mergegrid.recipes.recipe import settings_slug


def candidate_name(recipe):
    """Place of the answers of a recipe: experts/seed~0/sparsifier/method."""
    return "/".join(
        (
            "+".join(recipe.experts),
            f"seed~{recipe.training_seed}",
            settings_slug(recipe.sparsifier),
            settings_slug(recipe.method),
        )
    )


def expert_groups():
    """The recipes of every set of experts and training seed, single experts included."""
    groups = {}
    for family, config in DECODER_FAMILIES.items():
        for seed in DECODERS.training_seeds(family):
            for expert in config.experts:
                recipes = DECODERS.sweep_recipes(family, expert, seed)
                groups[family, expert, str(seed)] = recipes
            for experts in DECODERS.expert_sets(family):
                recipes = DECODERS.merge_recipes(family, experts, seed)
                # Recipes sort their experts.
                groups[family, "+".join(sorted(experts)), str(seed)] = recipes
    return {key: recipes for key, recipes in groups.items() if recipes}


GROUPS = expert_groups()
# The groups whose candidates all pass through one engine.
ONE_ENGINE = [key for key in GROUPS if DECODERS.generation_of(key[0]).one_engine]
CANDIDATES = {
    (recipe.family, candidate_name(recipe)): recipe
    for recipes in GROUPS.values()
    for recipe in recipes
}


def group_of(wildcards):
    """The recipes of one set of experts and training seed."""
    return GROUPS[wildcards.family, wildcards.set, wildcards.seed]


def candidate_of(wildcards):
    return CANDIDATES[wildcards.family, wildcards.variant]


def questions_for(recipe):
    """The questions for a recipe, in the order of its benchmarks."""
    names = DECODERS.owners(recipe)
    return [f"<results>/benchmarks/{name}.parquet" for name in names]


def expert_folders(recipe):
    return [
        f"<results>/{recipe.family}/experts/{expert}/seed~{recipe.training_seed}"
        for expert in recipe.experts
    ]


def statistics_folders(recipes):
    """The model statistics of the experts of some recipes, where a method needs them."""
    if not any(recipe.method.needs_statistics for recipe in recipes):
        return []
    recipe = recipes[0]
    return [
        f"<results>/{recipe.family}/statistics/{expert}/seed~{recipe.training_seed}"
        for expert in recipe.experts
    ]


def answer_files(recipes):
    return [
        f"<results>/{recipe.family}/answers/{candidate_name(recipe)}.parquet"
        for recipe in recipes
    ]


def generation_gpus(family):
    """GPUs that one engine is split over, when the run was given GPUs."""
    return DECODERS.generation_of(family).gpus if gpus() else 0


def generation_mb(family):
    """Memory of the host that one job of a family needs to generate answers."""
    one_engine = DECODERS.generation_of(family).one_engine
    return memory_estimates.generation_mb(
        decoder_size(family), generation_gpus(family), one_engine
    )
