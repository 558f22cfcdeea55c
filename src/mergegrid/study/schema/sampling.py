"""Recipes with ranges in place of numbers, from which a sampler draws candidates.

Example:
    sampler: tpe
    budget: 48
    method: {kind: ties, coefficient: {low: 0.3, high: 1.5}, trim: {low: 0.5, high: 0.95}}
    sparsifier: {kind: dare, rate: {low: 0.1, high: 0.95}}
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from mergegrid.extras import require
from mergegrid.methods import AnyMethod
from mergegrid.methods.data_dependent import DataDependentMethod
from mergegrid.settings import Settings
from mergegrid.sparsifiers import AnySparsifier

_SPARSIFIER: TypeAdapter[AnySparsifier] = TypeAdapter(AnySparsifier)
_METHOD: TypeAdapter[AnyMethod] = TypeAdapter(AnyMethod)
_DIGITS = 4
"""Significant digits of a drawn number, which names of recipes show."""


class Range(Settings):
    """Numbers between two ends."""

    low: float
    """Smallest number."""
    high: float
    """Largest number."""
    log: bool = False
    """Whether the logarithm is drawn uniformly instead of the number; `low` must be above 0."""

    @model_validator(mode="after")
    def _ends_are_in_order(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}; exchange them")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} has no logarithm; give one above 0, or omit log")
        return self

    def at(self, place: float) -> float:
        """The number at a place between 0 (`low`) and 1 (`high`), with four significant digits."""
        if self.log:
            number = self.low * (self.high / self.low) ** place
        else:
            number = self.low + (self.high - self.low) * place
        return self.rounded(number)

    def rounded(self, number: float) -> float:
        """A number with four significant digits, within the range."""
        return min(max(float(f"{number:.{_DIGITS}g}"), self.low), self.high)


def _with_ranges(template: dict[str, Any]) -> dict[str, Any]:
    """Check the ranges of a template; they may stand anywhere in it."""
    for place, part in _leaves(template):
        if _is_range(part):
            try:
                Range.model_validate(part)
            except ValidationError as error:
                what = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"{'.'.join(place)}: {what}") from error
    return template


Template = Annotated[dict[str, Any], AfterValidator(_with_ranges)]


class Sampled(Settings):
    """Candidates that a sampler draws from ranges, instead of a grid."""

    sampler: Literal["random", "sobol", "tpe"] = "sobol"
    """`random`: independent; `sobol`: spread evenly; `tpe`: near those that did best so far
    (Tree-structured Parzen Estimator), with the package of `mergegrid[search]`."""
    budget: Annotated[int, Field(ge=2)] = 32
    """Number of candidates; one that is drawn again counts again."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Candidates that are drawn at a time, before their scores are known: `tpe` depends on it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler."""
    method: Template
    """A method with `{low: ..., high: ...}` in place of numbers, also within values by layer or
    module; `log: true` draws the logarithm."""
    sparsifier: Template = {"kind": "none"}
    """A sparsifier, likewise; without `seed`, each candidate has all mask seeds of the study."""

    @model_validator(mode="after")
    def _all_points_are_recipes(self) -> "Sampled":
        if not self.space():
            raise ValueError(
                "method and sparsifier have no ranges; write {low: 0.1, high: 1.0} in place of a "
                "number, or list fixed candidates in merges.methods"
            )
        if self.sampler == "tpe":
            require("optuna", alternative="or set sampler to sobol")
        for numbers in self.ends():
            method, _ = self.point(numbers, [0])
            if isinstance(method, DataDependentMethod):
                raise ValueError(f"{method.kind} needs model statistics; list it in merges.methods")
        return self

    @property
    def kinds(self) -> tuple[str, str]:
        """Kind of the method and of the sparsifier."""
        return str(self.method.get("kind")), str(self.sparsifier.get("kind"))

    def space(self) -> dict[str, Range]:
        """The ranges by their place, such as `method.coefficient` or `sparsifier.rate`."""
        template = {"method": self.method, "sparsifier": self.sparsifier}
        return {
            ".".join(place): Range.model_validate(part)
            for place, part in _leaves(template)
            if _is_range(part)
        }

    def ends(self) -> list[dict[str, float]]:
        """The points with the smallest and with the largest numbers."""
        space = self.space()
        return [{name: part.at(end) for name, part in space.items()} for end in (0.0, 1.0)]

    def point(
        self, numbers: Mapping[str, float], mask_seeds: Sequence[int]
    ) -> tuple[AnyMethod, list[AnySparsifier]]:
        """The method and, for each mask seed, the sparsifier with these numbers in their places.

        Raises:
            ValueError: the numbers do not make a method or sparsifier.
        """
        method = _checked(_METHOD, _filled(self.method, numbers, ("method",)))
        content = _filled(self.sparsifier, numbers, ("sparsifier",))
        first = _checked(_SPARSIFIER, content)
        if "seed" not in type(first).model_fields or "seed" in content:
            return method, [first]
        seeded = [_checked(_SPARSIFIER, {**content, "seed": seed}) for seed in mask_seeds]
        return method, seeded


def _is_range(part: Any) -> bool:
    return isinstance(part, Mapping) and {"low", "high"} & part.keys() != set()


def _leaves(part: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Ranges and plain values with their places, in the order written."""
    if isinstance(part, Mapping) and not _is_range(part):
        for key, inner in part.items():
            yield from _leaves(inner, (*place, str(key)))
    elif isinstance(part, list | tuple):
        for index, inner in enumerate(part):
            yield from _leaves(inner, (*place, str(index)))
    else:
        yield place, part


def _filled(part: Any, numbers: Mapping[str, float], place: tuple[str, ...]) -> Any:
    if _is_range(part):
        return numbers[".".join(place)]
    if isinstance(part, Mapping):
        return {key: _filled(inner, numbers, (*place, str(key))) for key, inner in part.items()}
    if isinstance(part, list | tuple):
        return [_filled(inner, numbers, (*place, str(i))) for i, inner in enumerate(part)]
    return part


def _checked(kind: TypeAdapter[Any], content: Mapping[str, Any]) -> Any:
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        what = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{content.get('kind')}{'.' + where if where else ''}: {what}") from error
