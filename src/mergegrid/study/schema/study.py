"""A study: everything one configuration file can ask for."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mergegrid.methods import AnyMethod
from mergegrid.methods.average import Average
from mergegrid.recipes.grid import Grid
from mergegrid.recipes.recipe import Recipe
from mergegrid.settings import Spec
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.rates import Rate
from mergegrid.study.schema.decoders import Decoders
from mergegrid.study.schema.families import Family
from mergegrid.study.schema.grids import (
    MergeGrid,
    Seeds,
    Sweep,
    check_fit,
    check_sets,
    distinct,
    expert_sets,
    method_points,
    sparsifier_points,
    sweep_points,
)
from mergegrid.study.schema.names import Name, check_columns, check_folders, no_twins
from mergegrid.study.schema.oracle import Oracle
from mergegrid.study.schema.similarity import Similarity
from mergegrid.study.schema.tasks import Task

Selection = Literal["validation", "test"]
Aim = Literal["mean", "each"]


class Paths(Spec):
    """Where a run writes, relative to where it starts."""

    results: str = "results"
    """Folder of everything a run makes."""
    logs: str = "logs"
    """Folder of logs and of time and memory records."""


class Merges(MergeGrid):
    """Experts merged with each other, with and without a sparsifier in front.

    Lists of values of a method are searched: the best on the selection split is kept, then the best
    rate of each sparsifier at that setting.
    """

    aim: Aim = "mean"
    """What the best of a set is best at: `mean` takes one setting by the mean over all tasks;
    `each` takes one for every task and scores it on that task alone, so that of a pair each expert
    is the target once (arXiv 2311.03099, section 4.3)."""

    gathers_statistics: ClassVar[bool] = True

    @field_validator("sparsifiers", "methods")
    @classmethod
    def _one_of_a_kind(cls, grids: list[Grid]) -> list[Grid]:
        distinct([grid.kind for grid in grids])  # type: ignore[attr-defined]
        return grids


class Study(Spec):
    """Root of the configuration."""

    title: str = "mergegrid study"
    """Title of the report."""
    paths: Paths = Paths()
    """Where results and logs go."""
    tasks: Annotated[dict[Name, Task], AfterValidator(no_twins)] = {}
    """Tasks for encoders, by name."""
    families: dict[Name, Family] = {}
    """Families of encoders by name."""
    decoders: Decoders | None = None
    """The study of decoders: their families, benchmarks and grids; unset leaves it out."""
    rates: Annotated[list[Rate], Field(min_length=1), AfterValidator(distinct)] = [
        0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99,
    ]  # fmt: skip
    """Drop rates of the sweep, and of every sparsifier that names none."""
    seeds: Seeds = Seeds()
    """Seeds of fine-tuning and of the masks."""
    sweep: Sweep | None = Sweep()
    """Study of single experts against the drop rate; `null` leaves it out."""
    merges: Merges | None = Merges()
    """Study of merges; `null` leaves it out."""
    oracle: Oracle | None = None
    """Models that learn several tasks at once, to measure merges against; unset leaves them out."""
    similarity: Similarity | None = None
    """Study of embeddings: how alike they stay when deltas are dropped; unset leaves it out."""
    jobs_per_gpu: Annotated[int, Field(ge=1)] = 1
    """Jobs of encoders that share one GPU of one machine: small models leave most of one idle. On a
    cluster every job has GPUs of its own."""
    selection: Selection = "validation"
    """Split on which hyper-parameters are chosen; `test` replays the paper and is labelled so."""

    @field_validator("tasks")
    @classmethod
    def _no_task_is_a_column(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        check_columns(tasks, "task")
        return tasks

    @model_validator(mode="after")
    def _names_exist(self) -> "Study":
        for name, family in self.families.items():
            for expert in family.experts:
                task = family.task_of(expert)
                if task not in self.tasks:
                    raise ValueError(
                        f"families.{name}.experts.{expert} wants task {task!r}, which is not among "
                        f"tasks ({', '.join(self.tasks)}); add the task or name one of these"
                    )
            self._check_borrowed(name, family)
        check_sets(
            self.merges.sets if self.merges and self.families else [],
            {name: list(family.experts) for name, family in self.families.items()},
        )
        return self

    @model_validator(mode="after")
    def _the_oracle_has_tasks(self) -> "Study":
        if self.oracle:
            self.oracle.check({name: list(each.experts) for name, each in self.families.items()})
        return self

    @model_validator(mode="after")
    def _something_is_scored(self) -> "Study":
        if not self.families and self.decoders is None:
            raise ValueError(
                "there is no model to study; give `families` (encoders), `decoders` or both"
            )
        alone = self.sweep is None and not any(self.expert_sets(name) for name in self.families)
        if self.families and alone:
            raise ValueError(
                "there is neither a sweep nor a set of experts to merge; leave `sweep` in, "
                "or give `merges.sets` experts"
            )
        return self

    @model_validator(mode="after")
    def _families_have_names_of_their_own(self) -> "Study":
        both = sorted(set(self.families) & set(self.decoders.families if self.decoders else []))
        if both:
            raise ValueError(
                f"{both[0]} names a family of encoders and one of decoders; rename one of them"
            )
        families = {**self.families, **(self.decoders.families if self.decoders else {})}
        no_twins(families)
        check_folders(families, self.paths.results, self.paths.logs)
        return self

    @model_validator(mode="after")
    def _grids_expand(self) -> "Study":
        if self.sweep:
            self.sweep_sparsifiers()
        if self.merges:
            for grid in self.merges.methods:
                self.method_candidates(grid)
            for grid in self.merges.sparsifiers:
                self.merge_sparsifiers(grid)
        return self

    @model_validator(mode="after")
    def _similarity_fits_its_experts(self) -> "Study":
        for family in self.families.values() if self.similarity else ():
            assert self.similarity is not None
            self.similarity.check(self.rates, self.seeds.mask, family.experts)
        return self

    @model_validator(mode="after")
    def _recipes_fit_their_experts(self) -> "Study":
        sweep = self.sweep_sparsifiers() if self.sweep else []
        merges = self.merges or Merges(methods=[], sparsifiers=[])
        methods = [each for grid in merges.methods for each in self.method_candidates(grid)]
        fronts = [each for grid in merges.sparsifiers for each in self.merge_sparsifiers(grid)]
        for name, family in self.families.items():
            for expert in family.experts:
                for sparsifier in sweep:
                    check_fit("sweep.sparsifiers", sparsifier, (expert,))
            for experts in self.expert_sets(name):
                for method in methods:
                    check_fit("merges.methods", method, experts)
                for sparsifier in fronts:
                    check_fit("merges.sparsifiers", sparsifier, experts)
        return self

    def _check_borrowed(self, name: str, family: Family) -> None:
        for expert, spec in family.experts.items():
            if spec.family is None:
                continue
            owner = self.families.get(spec.family)
            own = owner.experts.get(expert) if owner else None
            if owner is None or own is None or own.family:
                raise ValueError(
                    f"families.{name}.experts.{expert}.family = {spec.family!r} makes no expert "
                    f"{expert}; name a family that fine-tunes or fetches it"
                )
            if owner.task_of(expert) != family.task_of(expert):
                raise ValueError(
                    f"families.{name}.experts.{expert} has task {family.task_of(expert)!r} and "
                    f"{owner.task_of(expert)!r} in {spec.family}, which makes it; give both the "
                    "same task"
                )

    def sparsifier_candidates(self, grid: Grid) -> list[AnySparsifier]:
        """The points of a grid of sparsifiers, with the study's rates and mask seeds."""
        return sparsifier_points(grid, self.rates, self.seeds.mask)

    def merge_sparsifiers(self, grid: Grid) -> list[AnySparsifier]:
        """The points of a grid of sparsifiers in front of a method, where they do something."""
        kind = grid.kind  # type: ignore[attr-defined]
        points = [each for each in self.sparsifier_candidates(grid) if each.kind == kind]
        if not points:
            raise ValueError(
                f"merges.sparsifiers has {kind} at no rate between 0 and 1, "
                "where it does something; give it one"
            )
        return points

    def method_candidates(self, grid: Grid) -> list[AnyMethod]:
        """The points of a grid of methods."""
        return method_points(grid)

    def sweep_sparsifiers(self) -> list[AnySparsifier]:
        """Every sparsifier of the sweep once: the expert as it is and the base alone included."""
        grids = self.sweep.sparsifiers if self.sweep else []
        return sweep_points(grids, self.rates, self.seeds.mask)

    def sweep_recipes(self, family: str, expert: str, training_seed: int) -> list[Recipe]:
        """The recipes of the sweep of one expert."""
        return [
            Recipe(
                family=family,
                experts=(expert,),
                training_seed=training_seed,
                sparsifier=sparsifier,
                method=Average(),
            )
            for sparsifier in self.sweep_sparsifiers()
        ]

    def expert_sets(self, family: str) -> list[tuple[str, ...]]:
        """The sets of experts of a family that are merged, in the order written."""
        sets = self.merges.sets if self.merges else []
        return expert_sets(list(self.families[family].experts), sets)

    def oracle_sets(self, family: str) -> list[tuple[str, ...]]:
        """The sets of experts of a family whose tasks are learnt together, in the order written.

        A set that is merged too has its experts in the same order there and here.
        """
        sets = self.oracle.sets_of(list(self.families[family].experts)) if self.oracle else []
        merged = {frozenset(each): each for each in self.expert_sets(family)}
        return [merged.get(frozenset(each), each) for each in sets]
