"""Settings classes that other installed packages provide, found through entry points.

A package adds a method in its `pyproject.toml`:

    [project.entry-points."mergegrid.methods"]
    my_method = "my_package.my_method:MyMethod"
"""

import logging
from collections.abc import Iterable, Mapping
from functools import reduce
from importlib.metadata import entry_points
from inspect import isabstract
from operator import or_
from typing import Annotated, Any, TypeVar

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from mergegrid.settings import Settings

logger = logging.getLogger(__name__)
S = TypeVar("S", bound=Settings)


def kind_of(settings: type[Settings]) -> str:
    """The `kind` by which configurations name a settings class."""
    return str(settings.model_fields["kind"].default)


def with_plugins(base: type[S], builtin: Iterable[type[S]], group: str) -> dict[str, type[S]]:
    """Classes by kind: those of mergegrid, then those of other packages, by name.

    A class of another package is left out with a warning if it cannot be imported, is incomplete or
    of the wrong type, or uses a kind that is taken: one broken package stops no other work.

    Args:
        base: class that every entry must extend.
        builtin: classes of mergegrid, in the order in which lists and tables show them.
        group: name of the entry points.
    """
    classes = {kind_of(settings): settings for settings in builtin}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        try:
            settings = entry.load()
            if not (isinstance(settings, type) and issubclass(settings, base)):
                raise TypeError(f"{entry.value} is not a subclass of {base.__name__}")
            if isabstract(settings):
                lacking = ", ".join(sorted(settings.__abstractmethods__))
                raise TypeError(f"{entry.value} does not define {lacking}")
            if kind_of(settings) in classes:
                raise ValueError(f"the kind {kind_of(settings)!r} is already taken")
        except Exception as error:  # noqa: BLE001 - the code of another package
            logger.warning("ignored %s from %s: %s", entry.name, group, error)
            continue
        classes[kind_of(settings)] = settings
    return classes


def any_of(base: type[S], classes: Mapping[str, type[S]]) -> Any:
    """Type of a field that holds settings of any of the classes, told apart by their `kind`.

    Instances of further subclasses of `base` are accepted too, so that a class can be tried from
    Python before a package provides it.
    """

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return value if isinstance(value, base) else handler(value)

    union: Any = Annotated[reduce(or_, classes.values()), Field(discriminator="kind")]
    by_runtime_type: Any = Annotated[union, SerializeAsAny()]  # type: ignore[type-arg]
    return Annotated[by_runtime_type, WrapValidator(validate)]
