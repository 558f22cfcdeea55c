"""The grid that studies of encoders and of decoders have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, model_validator

from mergegrid.checkpoints.sources.source import SourceConfig
from mergegrid.methods import AnyMethod
from mergegrid.methods.average import Average
from mergegrid.recipes.grid import Grid
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import Rate
from mergegrid.study.schema.families import ModelFamily
from mergegrid.study.schema.grids import (
    MergeGrid,
    RandomSets,
    Seeds,
    Similarity,
    Sweep,
    check_fit,
    distinct,
    expert_sets,
    method_points,
    sparsifier_points,
    sweep_points,
)
from mergegrid.study.schema.names import Name
from mergegrid.study.schema.splits import Split

AVERAGE = Average()
F = TypeVar("F", bound=ModelFamily[Any, Any])


@dataclass(frozen=True)
class FetchedSource:
    """One model or data set to fetch."""

    name: str
    """Name of the record of what was fetched, such as `expert~llama~math`."""
    kind: Literal["model", "dataset"]
    key: str
    """Place in the configuration, such as `families.llama.experts.math`."""
    config: SourceConfig


class GridStudy(Settings, ABC, Generic[F]):
    """Families of models, and the sparsifiers, rates, methods and seeds to evaluate on them.

    Subclasses add what their experts are evaluated on.
    """

    #: Field that holds what experts are evaluated on, and the word for one of its entries.
    evaluated_on: ClassVar[tuple[str, str]]

    families: Annotated[dict[Name, F], Field(min_length=1)]
    """Families of models by name."""
    rates: Annotated[list[Rate], Field(min_length=1), AfterValidator(distinct)] = [
        0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99,
    ]  # fmt: skip
    """Drop rates of the sweep, and of every sparsifier without a `rate`."""
    seeds: Seeds = Seeds()
    """Seeds of fine-tuning and of the masks."""
    sweep: Sweep | None = Sweep()
    """Study of single experts against the drop rate; `null` omits it."""
    merges: MergeGrid | None = None
    """Study of merges; `null` omits it."""
    similarity: Similarity | None = None
    """Study of embeddings: how similar they stay when deltas are dropped; unset omits it."""
    export: Annotated[list[str], AfterValidator(distinct)] = []
    """Merged models to keep in `<results>/{family}/exports`, with their scores on their cards:
    `selected` for those selected in each of `merges.sets` (of several mask seeds the first), or
    names as in the column `recipe` of the scores. Each takes the disk space of its base."""
    selection: Split = "validation"
    """Split on which hyper-parameters are selected; `test` follows the paper, is optimistically
    biased and is labelled so."""

    @model_validator(mode="after")
    def _names_exist(self) -> "GridStudy[F]":
        field, noun = self.evaluated_on
        known = getattr(self, field)
        for name, family in self.families.items():
            for expert in family.experts:
                for evaluation in self.evaluations_of(name, expert):
                    if evaluation not in known:
                        raise ValueError(
                            f"families.{name}.experts.{expert} refers to {noun} {evaluation!r}, "
                            f"which is not in `{field}` ({', '.join(known)}); add it there or "
                            "choose one of these"
                        )
        groups = [set(family.experts) for family in self.families.values()]
        for experts in self.merges.sets if self.merges else ():
            if isinstance(experts, list) and not any(set(experts) <= group for group in groups):
                raise ValueError(
                    f"merges.sets lists {', '.join(experts)}, which no family has together; "
                    "merge experts of one family"
                )
            largest = max(map(len, groups), default=0)
            if isinstance(experts, RandomSets) and experts.size > largest:
                raise ValueError(
                    f"merges.sets asks for sets of {experts.size} experts, and the largest family "
                    f"has {largest}; lower size"
                )
        return self

    @model_validator(mode="after")
    def _recipes_fit_their_experts(self) -> "GridStudy[F]":
        alone = {"sweep": self.sweep_sparsifiers(), "similarity": self.similarity_sparsifiers()}
        methods = [method for candidates in self.merge_methods() for method in candidates]
        sparsifiers = [one for candidates in self.merge_sparsifiers() for one in candidates]
        for name, family in self.families.items():
            for expert in family.experts:
                for study, points in alone.items():
                    check_fit(f"{study}.sparsifiers", points, (expert,))
            for experts in self.expert_sets(name):
                check_fit("merges.methods", methods, experts)
                check_fit("merges.sparsifiers", sparsifiers, experts)
        return self

    @model_validator(mode="after")
    def _something_is_scored(self) -> "GridStudy[F]":
        merged = self.merges and not self.merges.is_empty
        if self.sweep is None and not (merged and any(map(self.expert_sets, self.families))):
            raise ValueError(
                "there is neither a sweep nor a merge; keep `sweep`, or give `merges` sets of "
                "experts, methods and sparsifiers"
            )
        return self

    @model_validator(mode="after")
    def _exports_exist(self) -> "GridStudy[F]":
        names = [name for name in self.export if name != "selected"]
        if self.export and not any(map(self.expert_sets, self.families)):
            raise ValueError("export keeps merges, but no sets are merged; add `merges`")
        known = [
            recipe.slug
            for family in self.families
            if names
            for experts in self.expert_sets(family)
            for recipe in self.merge_candidates(family, experts, self.seeds.training[0])
        ]
        for name in names:
            if name not in known:
                close = get_close_matches(name, known, 1) or known[:1]
                raise ValueError(
                    f"export lists {name!r}, which is not a merge of this study; write `selected`, "
                    f"or the name of a merge, such as {close[0]}"
                )
        return self

    @abstractmethod
    def evaluations_of(self, family: str, expert: str) -> list[str]:
        """Names of the tasks or benchmarks that an expert is evaluated on."""

    def sparsifier_candidates(self, grid: Grid) -> list[AnySparsifier]:
        """The points of a grid of sparsifiers, with the study's rates and mask seeds."""
        return sparsifier_points(grid, self.rates, self.seeds.mask)

    def merge_methods(self) -> list[list[AnyMethod]]:
        """The candidates of each grid of methods in `merges`."""
        return [method_points(grid) for grid in (self.merges.methods if self.merges else ())]

    def merge_sparsifiers(self) -> list[list[AnySparsifier]]:
        """The candidates of each grid of sparsifiers in `merges`."""
        grids = self.merges.sparsifiers if self.merges else ()
        return [self.sparsifier_candidates(grid) for grid in grids]

    def sweep_sparsifiers(self) -> list[AnySparsifier]:
        """Every sparsifier of the sweep once, the unchanged expert and the base included."""
        return self._alone(self.sweep.sparsifiers) if self.sweep else []

    def similarity_sparsifiers(self) -> list[AnySparsifier]:
        """Every sparsifier to compare embeddings under; the unchanged expert comes first."""
        return self._alone(self.similarity.sparsifiers) if self.similarity else []

    def _alone(self, grids: Iterable[Grid]) -> list[AnySparsifier]:
        return sweep_points(grids, self.rates, self.seeds.mask)

    def sweep_recipes(self, family: str, expert: str, training_seed: int) -> list[Recipe]:
        """The recipes of the sweep of one expert."""
        return recipes_for(family, (expert,), training_seed, self.sweep_sparsifiers())

    def similarity_recipes(self, family: str, expert: str, training_seed: int) -> list[Recipe]:
        """The recipes under which the embeddings of one expert are compared."""
        return recipes_for(family, (expert,), training_seed, self.similarity_sparsifiers())

    def expert_sets(self, family: str) -> list[tuple[str, ...]]:
        """The sets of experts of a family that are merged, in the order written."""
        sets = self.merges.sets if self.merges else []
        return expert_sets(list(self.families[family].experts), sets)

    def merge_candidates(
        self, family: str, experts: tuple[str, ...], training_seed: int
    ) -> list[Recipe]:
        """All merges of one set of experts."""
        methods = [method for candidates in self.merge_methods() for method in candidates]
        sparsifiers = [one for candidates in self.merge_sparsifiers() for one in candidates]
        return merges_of(family, experts, training_seed, methods, sparsifiers)

    def training_seeds(self, family: str) -> list[int]:
        """Training seeds that give different experts: one where all experts of a family are
        ready."""
        experts = self.families[family].experts
        ready = all(self.source_of(family, expert) for expert in experts)
        return self.seeds.training[:1] if ready else self.seeds.training

    def source_of(self, family: str, expert: str) -> SourceConfig | None:
        """Source of a ready expert; None for an expert that is fine-tuned."""
        source: SourceConfig | None = self.families[family].experts[expert].source
        return source

    def sources(self) -> Iterator[FetchedSource]:
        """All models and data sets to fetch."""
        for name, family in self.families.items():
            yield FetchedSource(f"base~{name}", "model", f"families.{name}.base", family.base)
            for expert in family.experts:
                if source := self.expert_source(name, expert):
                    yield source

    def expert_source(self, family: str, expert: str) -> FetchedSource | None:
        """What is fetched for an expert, if anything."""
        source = self.families[family].experts[expert].source
        key = f"families.{family}.experts.{expert}"
        return FetchedSource(f"expert~{family}~{expert}", "model", key, source) if source else None


def recipes_for(
    family: str,
    experts: tuple[str, ...],
    training_seed: int,
    sparsifiers: Iterable[AnySparsifier],
    method: AnyMethod = AVERAGE,
) -> list[Recipe]:
    """One recipe for each distinct sparsifier."""
    return [
        Recipe(
            family=family,
            experts=experts,
            training_seed=training_seed,
            sparsifier=sparsifier,
            method=method,
        )
        for sparsifier in dict.fromkeys(sparsifiers)
    ]


def merges_of(
    family: str,
    experts: tuple[str, ...],
    training_seed: int,
    methods: Iterable[AnyMethod],
    sparsifiers: Sequence[AnySparsifier],
) -> list[Recipe]:
    """Every method alone and behind every sparsifier."""
    points = [NoSparsifier(), *sparsifiers]
    return [
        recipe
        for method in dict.fromkeys(methods)
        for recipe in recipes_for(family, experts, training_seed, points, method)
    ]
