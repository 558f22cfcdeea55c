"""Grids of a study: sparsifiers, methods and sets of experts, and their points."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, field_validator

from mergegrid.methods import METHODS, AnyMethod
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.recipes.grid import Grid, grid_of
from mergegrid.recipes.recipe import base_only, canonical_sparsifier
from mergegrid.settings import Spec
from mergegrid.sparsifiers import SPARSIFIERS, AnySparsifier
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import MaskSeed

#: Examples that statistics are gathered from where a study names no number.
_EXAMPLES = 1024
T = TypeVar("T")
Seed = Annotated[int, Field(ge=0)]
SparsifierGrid: Any = grid_of(SPARSIFIERS.values())
MethodGrid: Any = grid_of(METHODS.values())
_SPARSIFIER: TypeAdapter[AnySparsifier] = TypeAdapter(AnySparsifier)
_METHOD: TypeAdapter[AnyMethod] = TypeAdapter(AnyMethod)


def distinct(values: list[Any]) -> list[Any]:
    """The values, each of which is listed once.

    Raises:
        ValueError: one is listed more often.
    """
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{twice[0]} is listed more than once; list it once")
    return values


class Seeds(Spec):
    """Seeds: an axis of the grid, not a detail."""

    training: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)] = [0]
    """Seeds of fine-tuning: head, order of the examples and dropout."""
    mask: Annotated[list[MaskSeed], Field(min_length=1), AfterValidator(distinct)] = [0, 1, 2]
    """Seeds of the random masks."""

    def training_of(self, name: str, families: Mapping[str, Any]) -> list[int]:
        """Seeds of fine-tuning that make different experts of a family.

        Ready experts are the same whatever the seed, so a family of them has one.
        """

        def ready(expert: str, spec: Any) -> bool:
            owner = getattr(spec, "family", None)
            return bool((families[owner].experts[expert] if owner else spec).source)

        all_ready = all(ready(*each) for each in families[name].experts.items())
        return self.training[:1] if all_ready else self.training


class Sweep(Spec):
    """Every expert alone, at every drop rate: how much of a delta can go?"""

    sparsifiers: list[SparsifierGrid] = [
        {"kind": "dare"},
        {"kind": "drop_only"},
        {"kind": "magnitude"},
        {"kind": "masked_finetuned"},
    ]
    """Sparsifiers to compare; unset rates and seeds are the study's."""


class MergeGrid(Spec):
    """Sets of experts, and the methods and sparsifiers that merge them."""

    #: Whether the study gathers what methods need to know of the experts besides parameters.
    gathers_statistics: ClassVar[bool] = False

    sets: list[Literal["pairs", "all"] | Annotated[list[str], Field(min_length=2)]] = ["pairs"]
    """Which experts are merged: every pair, all of a family, or lists of names."""
    methods: list[MethodGrid] = [{"kind": "average"}]
    """Methods; every combination of listed values is a candidate. `fisher` and `regmean` need
    statistics, which a study gathers of encoders, and not of decoders."""
    sparsifiers: list[SparsifierGrid] = [{"kind": "none"}, {"kind": "dare"}]
    """Sparsifiers in front of each method; every combination of listed values is a candidate."""

    @field_validator("sets")
    @classmethod
    def _sets_of_distinct_experts(cls, sets: list[Any]) -> list[Any]:
        named = [each for each in sets if isinstance(each, list)]
        for each in named:
            distinct(each)
        distinct([sorted(each) for each in named])
        return sets

    @field_validator("methods")
    @classmethod
    def _statistics_are_gathered(cls, grids: list[Grid]) -> list[Grid]:
        for grid in grids:
            kind = grid.kind  # type: ignore[attr-defined]
            if METHODS[kind].needs_statistics and not cls.gathers_statistics:
                raise ValueError(
                    f"{kind} needs statistics of every expert, which a study gathers of encoders "
                    "alone; take another method, or merge folders with files of statistics "
                    "(`mergegrid merge`)"
                )
        return grids


def sparsifier_points(
    grid: Grid, rates: Sequence[float], seeds: Sequence[int]
) -> list[AnySparsifier]:
    """The points of a grid of sparsifiers; unset rates and mask seeds are those given."""
    points = grid.points(rate=list(rates), seed=list(seeds))
    return unique(canonical_sparsifier(_point(_SPARSIFIER, point)) for point in points)


def method_points(grid: Grid) -> list[AnyMethod]:
    """The points of a grid of methods; statistics are of 1024 examples where it says nothing."""
    return unique(_with_examples(_point(_METHOD, point)) for point in grid.points())


def sweep_points(
    grids: Iterable[Grid], rates: Sequence[float], seeds: Sequence[int]
) -> list[AnySparsifier]:
    """Every sparsifier of a sweep once: the expert as it is and the base alone included."""
    points = [point for grid in grids for point in sparsifier_points(grid, rates, seeds)]
    return unique([NoSparsifier(), base_only(), *points])


def expert_sets(names: Sequence[str], sets: Iterable[str | list[str]]) -> list[tuple[str, ...]]:
    """The sets among the experts of a family, each once, in the order written."""
    found: list[tuple[str, ...]] = []
    for each in sets:
        if each == "pairs":
            found.extend(combinations(names, 2))
        elif each == "all":
            found.append(tuple(names))
        elif set(each) <= set(names):
            found.append(tuple(each))
    by_members = {frozenset(each): each for each in reversed(found) if len(each) > 1}
    return [each for each in unique(found) if by_members.get(frozenset(each)) == each]


def check_sets(sets: Iterable[str | list[str]], families: Mapping[str, Sequence[str]]) -> None:
    """Check that every set that is listed by name is found in a family.

    Args:
        sets: what `merges.sets` holds.
        families: names of the experts of each family.

    Raises:
        ValueError: one is in none.
    """
    for names in sets:
        if isinstance(names, str):
            continue
        if not any(set(names) <= set(experts) for experts in families.values()):
            raise ValueError(
                f"merges.sets names {', '.join(names)}, which no family has together; "
                "merge experts of one family"
            )


def check_fit(key: str, settings: AnySparsifier | AnyMethod, experts: tuple[str, ...]) -> None:
    """Check that a sparsifier or method fits a set of experts.

    Raises:
        ValueError: it refers to other experts, or merges another number of experts.
    """
    try:
        settings.check(experts)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error


def _with_examples(method: AnyMethod) -> AnyMethod:
    if isinstance(method, DataDependentMethod) and method.examples is None:
        return method.model_copy(update={"examples": _EXAMPLES})
    return method


def unique(values: Iterable[T]) -> list[T]:
    """The values in order, each once."""
    return list(dict.fromkeys(values))


def _point(kind: TypeAdapter[T], point: dict[str, Any]) -> T:
    """One point of a grid; values that do not go together are one line."""
    try:
        return kind.validate_python(point)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{point['kind']}: {what}") from error
