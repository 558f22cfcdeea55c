"""What is merged: the base, the experts by name, and their parameters in all scopes."""

import re
from dataclasses import dataclass
from typing import NoReturn

from mergegrid.recipes.mergekit.document import Keys
from mergegrid.recipes.mergekit.parameters import (
    Condition,
    Number,
    Scope,
    Setting,
    constant,
    covers_all,
    look_up,
)
from mergegrid.recipes.mergekit.reading import MergekitFile, Source
from mergegrid.recipes.mergekit.references import ModelReference


@dataclass(frozen=True)
class Inputs:
    """Base and experts of a mergekit file, with the scopes of their parameters."""

    file: MergekitFile
    base: ModelReference
    has_base: bool
    """Whether the file names the base, or it is just the first model."""
    experts: dict[str, Source]
    scopes: tuple[Scope, ...]
    """Parameters outside models, the innermost first."""
    keys: Keys
    """The place of the list of models."""

    def shared(self, name: str) -> Setting:
        """The setting of a parameter of all models.

        Raises:
            ConfigError: it is missing, for some tensors at least.
        """
        default = self.file.definition.shared[name]
        return self._complete(look_up(name, self.scopes), name, default, self.keys)

    def per_model(self, name: str) -> dict[str, Setting]:
        """The setting of a parameter for each expert, by name.

        Raises:
            ConfigError: it is missing for one, for some tensors at least.
        """
        default = self.file.definition.per_model[name]
        return {
            expert: self._complete(
                look_up(name, (source.parameters, *self.scopes)), name, default, source.keys
            )
            for expert, source in self.experts.items()
        }

    def number(self, name: str) -> Number:
        """The value of a parameter of all models, which must not differ by tensor.

        Raises:
            ConfigError: it is missing, or differs by layer or by tensor.
        """
        return self.one(name, self.shared(name))

    def one(self, name: str, setting: Setting) -> Number:
        """The value of a setting.

        Raises:
            ConfigError: it differs by layer or by tensor.
        """
        value = constant(setting)
        if value is None:
            self.refuse(
                name,
                ": differs by layer or by tensor; mergegrid has one value for the whole model: "
                "give a single number, or run mergekit",
            )
        return value

    def given(self, name: str) -> bool:
        """Whether a parameter is set anywhere in the file."""
        return any(name in scope for scope in self._all_scopes())

    def refuse(self, name: str, message: str) -> NoReturn:
        """Raise the error for a parameter that cannot be translated, with its line.

        Raises:
            ConfigError: always.
        """
        keys = next(
            (scope[name][0].keys for scope in self._all_scopes() if name in scope), self.keys
        )
        raise self.file.document.error(keys, message)

    def _all_scopes(self) -> tuple[Scope, ...]:
        return (*(source.parameters for source in self.experts.values()), *self.scopes)

    def _complete(self, setting: Setting, name: str, default: Number | None, keys: Keys) -> Setting:
        """The setting with the default for tensors that it does not cover."""
        if covers_all(setting):
            return setting
        if default is not None:
            return (*setting, Condition(None, (default,)))
        if not setting:
            raise self.file.document.error(
                keys, f": {self.file.method} needs {name}, which is missing; add it"
            )
        raise self.file.document.error(
            setting[-1].keys,
            f": {name} has no value for tensors that no filter covers; add one without a filter",
        )


def expert_names(models: list[ModelReference]) -> list[str]:
    """Names for experts, from the last part of their paths; numbered where they would be equal."""
    names: list[str] = []
    for model in models:
        path = (model.adapter or model).path
        name = re.sub(r"[^\w.-]+", "-", path.rstrip("/").rpartition("/")[2], flags=re.ASCII)
        name = name.lstrip("._-") or "model"
        taken = {*names, "base"}
        numbered = (f"{name}-{number}" for number in range(2, len(models) + 3))
        names.append(name if name not in taken else next(n for n in numbered if n not in taken))
    return names
