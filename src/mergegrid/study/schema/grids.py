"""Grids of a study: sparsifiers, methods and sets of experts, and their points."""

from collections.abc import Iterable, Sequence
from itertools import combinations, count
from math import comb
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, field_validator

from mergegrid.engine.method import Method
from mergegrid.hashing import digest
from mergegrid.methods import METHODS, AnyMethod
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.recipes.grid import Grid
from mergegrid.recipes.merge_file import MethodGrid, SparsifierGrid
from mergegrid.recipes.recipe import base_only, canonical_sparsifier
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier
from mergegrid.sparsifiers.none import NoSparsifier
from mergegrid.sparsifiers.rates import MaskSeed
from mergegrid.study.schema.splits import Split

#: Number of examples behind model statistics where a study does not specify it.
_EXAMPLES = 1024
T = TypeVar("T")
Seed = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
_SPARSIFIER: TypeAdapter[AnySparsifier] = TypeAdapter(AnySparsifier)
_METHOD: TypeAdapter[AnyMethod] = TypeAdapter(AnyMethod)


def distinct(values: list[Any]) -> list[Any]:
    """Return the values unchanged.

    Raises:
        ValueError: a value is listed more than once.
    """
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{twice[0]} is listed more than once; list it once")
    return values


class RandomSets(Settings):
    """Sets of experts drawn at random, such as eight sets of four: all sets of a size are equally
    likely, and none is drawn twice."""

    random: Count
    """Number of sets."""
    size: Annotated[int, Field(ge=2)]
    """Number of experts in each; a family with fewer experts has no such set."""
    seed: Seed = 0
    """Seed of the draw. It depends on the names of the experts of the family, not on their order,
    and more sets are the same sets and others."""

    def draw(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The sets among the experts of a family, each in the order of the names.

        Raises:
            ValueError: the family has fewer sets of this size than are asked for.
        """
        possible = comb(len(names), self.size)
        if 0 < possible < self.random:
            raise ValueError(
                f"sets asks for {self.random} sets of {self.size} experts, and a family of "
                f"{len(names)} has {possible}; set random to {possible} or less"
            )
        drawn: dict[tuple[str, ...], None] = {}
        for turn in count() if possible else ():
            if len(drawn) == self.random:
                break
            # The first in an order that a hash gives: the same on any machine and Python.
            shuffled = sorted(names, key=lambda name: digest(f"{self.seed} {turn} {name}"))
            chosen = set(shuffled[: self.size])
            drawn[tuple(name for name in names if name in chosen)] = None
        return list(drawn)


ExpertSet = Literal["pairs", "all"] | RandomSets | Annotated[list[str], Field(min_length=2)]
ExpertSets = list[ExpertSet]


def distinct_sets(sets: ExpertSets) -> ExpertSets:
    """Return the sets unchanged.

    Raises:
        ValueError: a set, or an expert of a set, is listed more than once.
    """
    for experts in sets:
        if isinstance(experts, list):
            distinct(experts)
    distinct([sorted(experts) if isinstance(experts, list) else experts for experts in sets])
    return sets


class Seeds(Settings):
    """Seeds, an axis of the grid."""

    training: Annotated[list[Seed], Field(min_length=1), AfterValidator(distinct)] = [0]
    """Seeds of fine-tuning: initial head, order of the examples and dropout."""
    mask: Annotated[list[MaskSeed], Field(min_length=1), AfterValidator(distinct)] = [0, 1, 2]
    """Seeds of the random masks."""


class Sweep(Settings):
    """Every expert alone, at every drop rate: how much of a delta can be dropped?"""

    sparsifiers: list[SparsifierGrid] = [
        {"kind": "dare"},
        {"kind": "drop_only"},
        {"kind": "magnitude"},
        {"kind": "masked_finetuned"},
    ]
    """Sparsifiers to compare; unset rates and seeds are the study's."""


class Similarity(Settings):
    """Embeddings of each sparsified expert, compared layer by layer with those of the unchanged
    expert.

    Their cosine explains why rescaling matters (arXiv 2311.03099, section 4.4). Of several values
    of `rescale` of DARE, the table `output_change` marks the one that changes the last layer least,
    a choice without labels (DAREx-q, arXiv 2410.09344, section 4.1).
    """

    omitted_when_default: ClassVar[frozenset[str]] = frozenset({"split"})

    sparsifiers: Annotated[list[SparsifierGrid], Field(min_length=1)] = [
        {"kind": "dare"},
        {"kind": "drop_only"},
    ]
    """Sparsifiers to compare; unset rates and seeds are the study's."""
    examples: Count = 32
    """Maximum number of texts: the first test examples of an encoder's task, or the first questions
    of a decoder's first benchmark."""
    split: Split | None = None
    """Split that texts are taken from instead: `validation`, for a choice that must not see test
    examples. A decoder is then scored on the other questions."""


class MergeGrid(Settings):
    """Sets of experts, and the methods and sparsifiers that merge them."""

    #: Whether each score belongs to the task of one expert.
    scored_by_expert: ClassVar[bool] = False

    sets: Annotated[ExpertSets, AfterValidator(distinct_sets)] = ["pairs"]
    """Experts to merge: every pair, all experts of a family, lists of names, or sets drawn at
    random."""
    methods: list[MethodGrid] = [{"kind": "average"}]
    """Methods; every combination of listed values is a candidate. `fisher` and `regmean` need model
    statistics, which a study gathers from the training examples of each expert; a ready decoder
    needs `statistics` for them."""
    sparsifiers: list[SparsifierGrid] = [{"kind": "none"}, {"kind": "dare"}]
    """Sparsifiers applied before each method; every combination of listed values is a candidate."""

    @property
    def is_empty(self) -> bool:
        """Whether there is no candidate."""
        return not (self.methods and self.sparsifiers)

    @field_validator("methods")
    @classmethod
    def _the_model_of_a_score_is_known(cls, grids: list[Grid]) -> list[Grid]:
        for grid in grids:
            kind = grid.kind  # type: ignore[attr-defined]
            named = getattr(grid, "expert", None) or cls.scored_by_expert
            if METHODS[kind].for_expert is not Method.for_expert and not named:
                raise ValueError(
                    f"{kind} makes one model per expert; set `expert` to the one you want, or to a "
                    "list of several"
                )
        return grids


def sparsifier_points(
    grid: Grid, rates: Sequence[float], seeds: Sequence[int]
) -> list[AnySparsifier]:
    """The points of a grid of sparsifiers; unset rates and mask seeds are the given ones.

    Raises:
        ValueError: a rate is not one number, which tables and figures of studies are sorted by.
    """
    points = list(grid.points(rate=list(rates), seed=list(seeds)))
    for point in points:
        if isinstance(point.get("rate"), Settings):
            raise ValueError(
                f"{point['kind']}: a study compares models by their rate, which must be one "
                "number; write values by layer or module as `rules`"
            )
    return unique(canonical_sparsifier(_point(_SPARSIFIER, point)) for point in points)


def method_points(grid: Grid) -> list[AnyMethod]:
    """The points of a grid of methods; statistics use 1024 examples unless the grid says
    otherwise."""
    return unique(_with_examples(_point(_METHOD, point)) for point in grid.points())


def sweep_points(
    grids: Iterable[Grid], rates: Sequence[float], seeds: Sequence[int]
) -> list[AnySparsifier]:
    """Every sparsifier of a sweep once, the unchanged expert and the base included."""
    points = [point for grid in grids for point in sparsifier_points(grid, rates, seeds)]
    return unique([NoSparsifier(), base_only(), *points])


def expert_sets(names: Sequence[str], sets: Iterable[ExpertSet]) -> list[tuple[str, ...]]:
    """The sets among the experts of a family, each once, in the order written.

    The same experts in another order are the same set.

    Raises:
        ValueError: there are fewer sets of a size than are to be drawn at random.
    """
    matches: list[tuple[str, ...]] = []
    for experts in sets:
        if experts == "pairs":
            matches.extend(combinations(names, 2))
        elif experts == "all":
            matches.append(tuple(names))
        elif isinstance(experts, RandomSets):
            matches.extend(experts.draw(names))
        elif set(experts) <= set(names):
            matches.append(tuple(experts))
    first = {frozenset(experts): experts for experts in reversed(matches) if len(experts) > 1}
    return [first[key] for key in unique(map(frozenset, matches)) if key in first]


def check_fit(
    key: str, points: Iterable[AnySparsifier | AnyMethod], experts: tuple[str, ...]
) -> None:
    """Check that sparsifiers or methods fit a set of experts.

    Raises:
        ValueError: one refers to other experts, or needs another number of experts.
    """
    for point in points:
        try:
            point.check(experts)
        except ValueError as error:
            where = f" (in the set {', '.join(experts)})" if len(experts) > 1 else ""
            raise ValueError(f"{key}: {error}{where}") from error


def _with_examples(method: AnyMethod) -> AnyMethod:
    if isinstance(method, DataDependentMethod) and method.examples is None:
        return method.model_copy(update={"examples": _EXAMPLES})
    return method


def unique(values: Iterable[T]) -> list[T]:
    """Return the distinct values in order of first occurrence."""
    return list(dict.fromkeys(values))


def _point(kind: TypeAdapter[T], point: dict[str, Any]) -> T:
    """One point of a grid; an error is one line."""
    try:
        return kind.validate_python(point)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{point['kind']}: {what}") from error
