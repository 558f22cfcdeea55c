"""A study: everything one configuration file can ask for."""

from collections.abc import Iterable
from itertools import combinations
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from mergegrid.config.families import Family
from mergegrid.config.tasks import Task
from mergegrid.recipe.grid import Grid, grid_of
from mergegrid.recipe.methods import METHODS, Average, Method
from mergegrid.recipe.rates import Rate
from mergegrid.recipe.recipe import Recipe, base_only, canonical_sparsifier
from mergegrid.recipe.sparsifiers import SPARSIFIERS, MaskSeed, NoSparsifier, Sparsifier
from mergegrid.recipe.spec import Spec

T = TypeVar("T")
#: Methods that need to know more of the experts than their parameters.
NEED_STATISTICS = frozenset({"fisher", "regmean"})
Selection = Literal["validation", "test"]
Seed = Annotated[int, Field(ge=0)]
SparsifierGrid: Any = grid_of(SPARSIFIERS)
MethodGrid: Any = grid_of(METHODS)
_SPARSIFIER: TypeAdapter[Sparsifier] = TypeAdapter(Sparsifier)
_METHOD: TypeAdapter[Method] = TypeAdapter(Method)


def _distinct(values: list[Any]) -> list[Any]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{twice[0]} is listed more than once; list it once")
    return values


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Paths(Spec):
    """Where a run writes, relative to where it starts."""

    results: str = "results"
    """Folder of everything a run makes."""
    logs: str = "logs"
    """Folder of logs and of time and memory records."""


class Seeds(Spec):
    """Seeds: an axis of the grid, not a detail."""

    training: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)] = [0]
    """Seeds of fine-tuning: head, order of the examples and dropout."""
    mask: Annotated[list[MaskSeed], Field(min_length=1), AfterValidator(_distinct)] = [0, 1, 2]
    """Seeds of the random masks."""


class Sweep(Spec):
    """Every expert alone, at every drop rate: how much of a delta can go?"""

    sparsifiers: list[SparsifierGrid] = [
        {"kind": "dare"},
        {"kind": "drop_only"},
        {"kind": "magnitude"},
        {"kind": "masked_finetuned"},
    ]
    """Sparsifiers to compare; unset rates and seeds are the study's."""


class Merges(Spec):
    """Experts merged with each other, with and without a sparsifier in front."""

    sets: list[Literal["pairs", "all"] | Annotated[list[str], Field(min_length=2)]] = ["pairs"]
    """Which experts are merged: every pair, all of a family, or lists of names."""
    methods: list[MethodGrid] = [{"kind": "average"}]
    """Methods; lists of values are searched, the best on the selection split is kept. `fisher` and
    `regmean` need statistics, which a study does not gather."""
    sparsifiers: list[SparsifierGrid] = [{"kind": "none"}, {"kind": "dare"}]
    """Sparsifiers in front of each method, at its best setting; the best rate is kept."""

    @field_validator("sets")
    @classmethod
    def _sets_of_distinct_experts(cls, sets: list[Any]) -> list[Any]:
        named = [each for each in sets if isinstance(each, list)]
        for each in named:
            _distinct(each)
        _distinct([sorted(each) for each in named])
        return sets

    @field_validator("methods")
    @classmethod
    def _nothing_needs_statistics(cls, grids: list[Grid]) -> list[Grid]:
        for grid in grids:
            kind = grid.kind  # type: ignore[attr-defined]
            if kind in NEED_STATISTICS:
                raise ValueError(
                    f"{kind} needs statistics of every expert, which a study does not gather; "
                    "take another method, or merge folders with files of statistics "
                    "(`mergegrid merge`)"
                )
        return grids

    @field_validator("sparsifiers", "methods")
    @classmethod
    def _one_of_a_kind(cls, grids: list[Grid]) -> list[Grid]:
        _distinct([grid.kind for grid in grids])  # type: ignore[attr-defined]
        return grids


class Study(Spec):
    """Root of the configuration."""

    title: str = "mergegrid study"
    """Title of the report."""
    paths: Paths = Paths()
    """Where results and logs go."""
    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """Tasks by name."""
    families: Annotated[dict[Name, Family], Field(min_length=1)]
    """Families of models by name."""
    rates: Annotated[list[Rate], Field(min_length=1), AfterValidator(_distinct)] = [
        0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99,
    ]  # fmt: skip
    """Drop rates of the sweep, and of every sparsifier that names none."""
    seeds: Seeds = Seeds()
    """Seeds of fine-tuning and of the masks."""
    sweep: Sweep | None = Sweep()
    """Study of single experts against the drop rate; `null` leaves it out."""
    merges: Merges | None = Merges()
    """Study of merges; `null` leaves it out."""
    selection: Selection = "validation"
    """Split on which hyper-parameters are chosen; `test` replays the paper and is labelled so."""

    @field_validator("families")
    @classmethod
    def _expert_names(cls, families: dict[str, Family]) -> dict[str, Family]:
        for name, family in families.items():
            for expert in family.experts:
                try:
                    TypeAdapter(Name).validate_python(expert)
                except ValueError as error:
                    raise ValueError(
                        f"expert {expert!r} of family {name}: take letters, digits, dot, dash "
                        "and underscore, since the name becomes part of paths"
                    ) from error
        return families

    @field_validator("tasks")
    @classmethod
    def _no_task_is_the_mean(cls, tasks: dict[str, Task]) -> dict[str, Task]:
        if "mean" in tasks:
            raise ValueError(
                "a task cannot be called mean: tables have a mean over tasks; rename it"
            )
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
        listed = [
            each for each in (self.merges.sets if self.merges else []) if each not in _ALIASES
        ]
        for names in listed:
            homes = [
                name for name, family in self.families.items() if set(names) <= set(family.experts)
            ]
            if not homes:
                raise ValueError(
                    f"merges.sets names {', '.join(names)}, which no family has together; "
                    "merge experts of one family"
                )
        return self

    @model_validator(mode="after")
    def _something_is_scored(self) -> "Study":
        if self.sweep is None and not any(self.expert_sets(name) for name in self.families):
            raise ValueError(
                "there is neither a sweep nor a set of experts to merge; leave `sweep` in, "
                "or give `merges.sets` experts"
            )
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
    def _recipes_fit_their_experts(self) -> "Study":
        sweep = self.sweep_sparsifiers() if self.sweep else []
        merges = self.merges or Merges(methods=[], sparsifiers=[])
        methods = [each for grid in merges.methods for each in self.method_candidates(grid)]
        fronts = [each for grid in merges.sparsifiers for each in self.merge_sparsifiers(grid)]
        for name, family in self.families.items():
            for expert in family.experts:
                for sparsifier in sweep:
                    _check_fit("sweep.sparsifiers", sparsifier, (expert,))
            for experts in self.expert_sets(name):
                for method in methods:
                    _check_fit("merges.methods", method, experts)
                for sparsifier in fronts:
                    _check_fit("merges.sparsifiers", sparsifier, experts)
        return self

    def sparsifier_candidates(self, grid: Grid) -> list[Sparsifier]:
        """The points of a grid of sparsifiers, with the study's rates and mask seeds."""
        points = grid.points(rate=list(self.rates), seed=list(self.seeds.mask))
        return _unique(canonical_sparsifier(_point(_SPARSIFIER, point)) for point in points)

    def merge_sparsifiers(self, grid: Grid) -> list[Sparsifier]:
        """The points of a grid of sparsifiers in front of a method, where they do something."""
        kind = grid.kind  # type: ignore[attr-defined]
        points = [each for each in self.sparsifier_candidates(grid) if each.kind == kind]
        if not points:
            raise ValueError(
                f"merges.sparsifiers has {kind} at no rate between 0 and 1, "
                "where it does something; give it one"
            )
        return points

    def method_candidates(self, grid: Grid) -> list[Method]:
        """The points of a grid of methods."""
        return _unique(_point(_METHOD, point) for point in grid.points())

    def sweep_sparsifiers(self) -> list[Sparsifier]:
        """Every sparsifier of the sweep once: the expert as it is and the base alone included."""
        grids = self.sweep.sparsifiers if self.sweep else []
        points = [point for grid in grids for point in self.sparsifier_candidates(grid)]
        return _unique([NoSparsifier(), base_only(), *points])

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
        names = list(self.families[family].experts)
        sets: list[tuple[str, ...]] = []
        for each in self.merges.sets if self.merges else []:
            if each == "pairs":
                sets.extend(combinations(names, 2))
            elif each == "all":
                sets.append(tuple(names))
            elif set(each) <= set(names):
                sets.append(tuple(each))
        by_members = {frozenset(each): each for each in reversed(sets) if len(each) > 1}
        return [each for each in _unique(sets) if by_members.get(frozenset(each)) == each]


_ALIASES = ("pairs", "all")


def _point(kind: TypeAdapter[T], point: dict[str, Any]) -> T:
    """One point of a grid; values that do not go together are one line."""
    try:
        return kind.validate_python(point)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{point['kind']}: {what}") from error


def _check_fit(key: str, spec: Sparsifier | Method, experts: tuple[str, ...]) -> None:
    """Check that a sparsifier or method can be asked of some experts."""
    together = " + ".join(experts)
    for field in ("rates", "weights", "coefficients"):
        strangers = sorted(set(getattr(spec, field, {})) - set(experts))
        if strangers:
            raise ValueError(
                f"{key}: {spec.kind}.{field} names {strangers[0]}, which is not among {together}; "
                "name experts that are in every set, or leave it out"
            )
    weights = getattr(spec, "weights", {})
    if weights and sum(weights.get(name, 1.0) for name in experts) == 0:
        raise ValueError(
            f"{key}: {spec.kind}.weights of {together} sum to 0; give one of them some weight"
        )
    if spec.kind == "slerp" and len(experts) != 2:
        raise ValueError(
            f"{key}: slerp merges two experts and merges.sets has {together}; "
            "take it out, or merge pairs only"
        )


def _unique(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))
