"""Grids: settings whose fields may be lists, and their expansion into points."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import product
from operator import or_
from typing import Annotated, Any, ClassVar

from pydantic import Field, create_model

from mergegrid.settings import Settings


class Grid(Settings):
    """Settings with lists for some of their values; every combination is one point."""

    point: ClassVar[type[Settings]]
    """The settings whose values may be lists."""

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Those of the settings, with what an unset field means."""
        texts = cls.point.descriptions()
        fields = cls.point.model_fields
        return {
            name: f"{texts.get(name)} Unset: {_unset(name, fields[name].default)}."
            for name in fields
            if name != "kind"
        }

    def points(self, **defaults: list[Any]) -> Iterator[dict[str, Any]]:
        """All combinations as plain values, in the order written; `defaults` fill unset fields."""
        axes: dict[str, list[Any]] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                value = defaults.get(name)
            if value is not None:
                axes[name] = value if isinstance(value, list) else [value]
        for values in product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


def grid_of(settings: Iterable[type[Settings]]) -> Any:
    """The type of a grid over any of the settings classes, told apart by their `kind`."""
    grids = tuple(map(_grid, settings))
    return Annotated[reduce(or_, grids), Field(discriminator="kind")]


def _grid(settings: type[Settings]) -> Any:
    fields: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        if name == "kind":
            fields[name] = (field.annotation, Field())
            continue
        one: Any = field.annotation
        if field.metadata:
            one = Annotated[(one, *field.metadata)]
        several = Annotated[list[one], Field(min_length=1)]
        fields[name] = (one | several | None, None)
    name = f"{settings.__name__}Grid"
    grid = create_model(name, __base__=Grid, __doc__=settings.__doc__, **fields)
    grid.point = settings
    return grid


def _unset(name: str, default: Any) -> str:
    return "the study's" if name in ("rate", "seed") else f"`{default}`"
