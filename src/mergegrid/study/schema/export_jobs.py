"""Jobs that export merged models: the parts of a study that each depends on."""

from typing import Any, ClassVar, Literal

from mergegrid.methods import AnyMethod
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.study.schema.decoders import DecoderStudy
from mergegrid.study.schema.encoders import EncoderStudy
from mergegrid.study.schema.grid_study import merges_of
from mergegrid.study.schema.grids import unique


class ScoredOn(Settings):
    """What a task or benchmark is, for a model card."""

    record: str | None
    """Name of the record of the data set that scores are measured on; None for generated data."""
    kind: Literal["text-classification", "text-generation"]
    """What a model does there."""
    config: str | None = None
    """Configuration of the data set."""
    split: str | None = None
    """Split of the data set."""
    benchmark: str | None = None
    """Kind of the benchmark."""


class ExportRequest(Settings):
    """The merged models of one set of experts that are kept."""

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"base_is"})

    family: str
    """Base and experts."""
    experts: list[str]
    """Experts to merge."""
    training_seed: int
    """Seed with which they were fine-tuned."""
    export: list[str]
    """`selected`, names of recipes, or both."""
    methods: list[AnyMethod]
    """Methods of the study."""
    sparsifiers: list[AnySparsifier]
    """Sparsifiers of the study."""
    output: Output
    """Dtype and vocabulary of the models."""
    homologous: bool
    """Whether experts must have the configuration of the base, not only its shapes."""
    base_is: tuple[str, ...] = ()
    """What adapters call the base."""
    scored_on: dict[str, ScoredOn]
    """Tasks or benchmarks by name."""
    licences: dict[str, str]
    """Licenses that the configuration states, by name of the record of a model."""

    @property
    def candidates(self) -> list[Recipe]:
        """All merges of the set."""
        experts = tuple(self.experts)
        return merges_of(self.family, experts, self.training_seed, self.methods, self.sparsifiers)


def export_request(
    study: EncoderStudy | DecoderStudy, family: str, experts: tuple[str, ...], seed: int
) -> ExportRequest:
    """The merged models of one set of experts that a study keeps."""
    models = [f"base~{family}", *(f"expert~{family}~{expert}" for expert in experts)]
    stated = {source.name: source.config.licence for source in study.sources()}
    return ExportRequest(
        family=family,
        experts=list(experts),
        training_seed=seed,
        export=study.export,
        methods=unique(method for grid in study.merge_methods() for method in grid),
        sparsifiers=unique(one for grid in study.merge_sparsifiers() for one in grid),
        scored_on={
            name: _scored_on(study, name)
            for expert in experts
            for name in study.evaluations_of(family, expert)
        },
        licences={name: text for name in models if (text := stated.get(name))},
        **_merge_settings(study, family, experts),
    )


def exported_sets(study: EncoderStudy | DecoderStudy | None) -> list[tuple[str, str, int]]:
    """Family, experts joined by `+`, and training seed of each set with models to keep."""
    if study is None or not study.export:
        return []
    return [
        # Recipes of decoders sort their experts.
        (family, "+".join(sorted(experts) if isinstance(study, DecoderStudy) else experts), seed)
        for family in study.families
        for experts in study.expert_sets(family)
        for seed in study.training_seeds(family)
        if "selected" in study.export
        or any(r.slug in study.export for r in study.merge_candidates(family, experts, seed))
    ]


def _merge_settings(
    study: EncoderStudy | DecoderStudy, family: str, experts: tuple[str, ...]
) -> dict[str, Any]:
    if isinstance(study, DecoderStudy):
        settings = study.families[family]
        return {
            "output": settings.output_of(experts),
            "homologous": not settings.other_base,
            "base_is": settings.names_of_base,
        }
    borrowed = any(study.families[family].experts[name].family for name in experts)
    return {"output": Output(), "homologous": not borrowed}


def _scored_on(study: EncoderStudy | DecoderStudy, name: str) -> ScoredOn:
    if isinstance(study, DecoderStudy):
        benchmark = study.benchmarks[name]
        records = benchmark.records
        return ScoredOn(
            record=f"benchmark~{name}" if records else None,
            kind="text-generation",
            config=records.config if records else None,
            split=records.split if records else None,
            benchmark=benchmark.kind,
        )
    split = "test" if study.tasks[name].test else "train"
    table = study.tasks[name].tables[split]
    return ScoredOn(
        record=f"task~{name}~{split}",
        kind="text-classification",
        config=table.config,
        split=table.split,
    )
