"""
The files that a study asks for, by kind. No rule is here.
"""


def sweep_files():
    pattern = "<results>/{family}/sweeps/{expert}/seed~{seed}.parquet"
    return per_expert(pattern, ENCODERS) if ENCODERS and ENCODERS.sweep else []


def merge_files():
    pattern = "<results>/{family}/merges/{set}/seed~{seed}.parquet"
    return per_set(pattern, lambda family: ENCODERS.expert_sets(family))


def oracle_files():
    pattern = "<results>/{family}/oracles/{set}/seed~{seed}.parquet"
    return per_set(pattern, lambda family: ENCODERS.oracle_sets(family))


def prediction_files():
    """What encoders answered, one file for every file of their scores."""
    scores = re.compile(r"^(<results>/[^/]+)/(sweeps|merges)/")
    paths = [*sweep_files(), *merge_files()]
    return [scores.sub(r"\1/predictions/", path) for path in paths]


def example_files():
    """The examples of the tasks of all encoders."""
    tasks = {
        family.task_of(expert)
        for family in ENCODER_FAMILIES.values()
        for expert in family.experts
    }
    return [f"<results>/tasks/{task}.parquet" for task in sorted(tasks)]


def decoder_score_files():
    return [
        f"<results>/{family}/benchmarks/{experts}/seed~{seed}.parquet"
        for family, experts, seed in GROUPS
    ]


def record_files():
    """The records of all answers of decoders."""
    return [
        f"<results>/{family}/records/{experts}/seed~{seed}/{benchmark}.parquet"
        for (family, experts, seed), recipes in GROUPS.items()
        for benchmark in DECODERS.owners(recipes[0])
    ]


def harness_files():
    """The scores of every candidate on tasks of lm-evaluation-harness."""
    candidates = CANDIDATES if DECODERS and DECODERS.harness else []
    return [f"<results>/{family}/harness/{name}.parquet" for family, name in candidates]


def similarity_files():
    pattern = "<results>/{family}/similarity/{expert}/seed~{seed}.parquet"
    return [
        path
        for grid in STUDY.grids
        if grid.similarity
        for path in per_expert(pattern, grid)
    ]


def sweep_files_of(family):
    """The scores of single experts of a family."""
    if family in ENCODER_FAMILIES:
        pattern = f"<results>/{family}/sweeps/"
        return [path for path in sweep_files() if path.startswith(pattern)]
    return [
        f"<results>/{family}/benchmarks/{experts}/seed~{seed}.parquet"
        for name, experts, seed in GROUPS
        if name == family and "+" not in experts
    ]


def figure_inputs(wildcards):
    """The files behind a figure; single experts are drawn before the rest of a study is scored."""
    kind = FIGURES[wildcards.figure].needs
    if kind == "sweeps":
        return {kind: sweep_files_of(wildcards.family) or "<results>/scores.parquet"}
    return results_for(kind)


def results_for(kind):
    """The files behind one kind of results, under the name that the scripts of the report expect."""
    deltas = "<results>/{family}/deltas/{expert}/seed~{seed}.parquet"
    experts = "<results>/{family}/experts/{expert}/seed~{seed}"
    files = {
        "scores": "<results>/scores.parquet",
        "deltas": [*per_expert(deltas, ENCODERS), *per_expert(deltas, DECODERS)],
        "similarity": similarity_files(),
        "comparisons": "<results>/comparisons.parquet",
        "ranking": "<results>/ranking.parquet",
        "answers": "<results>/answers.parquet",
        "findings": "<results>/findings.parquet",
        "experts": per_expert(experts, ENCODERS),
        "decoders": per_expert(experts, DECODERS),
        "sources": [f"<results>/sources/{name}.json" for name in SOURCES],
    }
    # A table notes where the scores behind it were computed with several versions of a library.
    with_scores = ("comparisons", "ranking", "answers", "findings")
    kinds = (kind, "scores") if kind in with_scores else (kind,)
    return {kind: files[kind] for kind in kinds}


def published(table):
    """Published numbers that a table shows; none but for the two tables that compare."""
    cells = {"published": published_cells, "sparsifier_effects": published_gains}
    try:
        return (
            cells[table](STUDY, RESOURCES / "published.csv") if table in cells else []
        )
    except MergegridError as error:
        raise WorkflowError(str(error))


def table_parameters(wildcards):
    """The part of the configuration that a table shows besides results."""
    shown = {}
    if TABLES[wildcards.table].needs == "sources":
        shown["licences"] = {
            name: source.config.licence for name, source in SOURCES.items()
        }
    if cells := published(wildcards.table):
        shown["published"] = cells
    return canonical_json(shown)


def has_pairs(family):
    """Whether sets of two experts of a family are merged."""
    return any(
        len(experts) == 2 for experts in STUDY.grid_of(family).expert_sets(family)
    )


def has_merges(family):
    """Whether experts of a family are merged."""
    return bool(STUDY.grid_of(family).expert_sets(family))


def selects(grid):
    """Whether a study selects among several candidates on the validation split."""
    if grid.selection == "test" or not any(map(grid.expert_sets, grid.families)):
        return False
    kinds = [*grid.merge_methods(), *grid.merge_sparsifiers()]
    seedless = [
        {
            canonical_json(point.model_dump(mode="json", exclude={"seed"}))
            for point in points
        }
        for points in kinds
    ]
    drawn = getattr(grid.merges, "sampled", [])
    return bool(drawn) or any(len(settings) > 1 for settings in seedless)


def tables_of_study():
    """The tables that have something to show."""
    empty = [] if ENCODERS else ["experts"]
    empty += [] if DECODERS else ["benchmarks", "answers", "decoders"]
    empty += [] if similarity_files() else ["similarity", "output_change"]
    empty += [] if published("published") else ["published"]
    empty += [] if any(map(selects, STUDY.grids)) else ["selection"]
    empty += [] if any(map(has_pairs, FAMILIES)) else ["pairs", "sparsifier_effects"]
    of_merges = ["ranking", "against_experts", "success_rates"]
    empty += [] if any(map(has_merges, FAMILIES)) else of_merges
    empty += [] if DECODERS and DECODERS.harness else ["forgetting"]
    return [table for table in TABLES if table not in empty]


def figures_of(family):
    """The figures that have something to show of a family."""
    empty = [] if STUDY.grid_of(family).similarity else ["similarity"]
    empty += [] if has_pairs(family) else ["pairs"]
    empty += [] if has_merges(family) else ["ranking"]
    empty += [] if family in DECODER_FAMILIES else ["pareto"]
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
    kept = [
        f"<results>/{family}/exports/{experts}/seed~{seed}"
        for grid in STUDY.grids
        for family, experts, seed in export_jobs.exported_sets(grid)
    ]
    return [
        "<results>/scores.parquet",
        "<results>/findings.md",
        *kept,
        *tables,
        *figures,
        "<results>/costs/costs.csv",
    ]
