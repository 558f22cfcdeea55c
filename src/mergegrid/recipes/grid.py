"""Grids: settings whose fields may be lists, and their expansion into points."""

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import product
from operator import or_
from typing import Annotated, Any

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from mergegrid.settings import Settings


class Grid(Settings):
    """Settings with lists for some of their values; every combination is one point."""

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
        fields[name] = (
            one | several | None,
            Field(default=None, description=_meaning(name, field)),
        )
    return create_model(
        f"{settings.__name__}Grid",
        __base__=Grid,
        __doc__=settings.__doc__,
        # No field is documented by a docstring here, and looking for one is slow.
        __cls_kwargs__={"use_attribute_docstrings": False},
        **fields,
    )


def _meaning(name: str, field: FieldInfo) -> str:
    unset = "the study's" if name in ("rate", "seed") else f"`{field.default}`"
    return f"{field.description} Unset: {unset}."
