"""A merge file: models and how to merge them; `mergegrid merge` reads it.

Example:
    base: models/llama
    experts: {math: models/llama-math, code: models/llama-code}
    sparsifier: {kind: dare, rate: 0.9, seed: 1}
    method: {kind: task_arithmetic, coefficient: 0.5}
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from mergegrid.checkpoints.sources.models import model_label
from mergegrid.errors import ConfigError
from mergegrid.methods import METHODS, AnyMethod
from mergegrid.recipes.grid import Grid, grid_of
from mergegrid.recipes.output import Output
from mergegrid.recipes.recipe import Recipe, settings_slug
from mergegrid.settings import Settings
from mergegrid.sparsifiers import SPARSIFIERS, AnySparsifier
from mergegrid.yaml_files import check_content, described, read_yaml

SparsifierGrid: Any = grid_of(SPARSIFIERS.values())
MethodGrid: Any = grid_of(METHODS.values())
_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class MergeFile(Settings):
    """Models, and how to merge them."""

    base: str
    """Folder of the base, or its id on the hub: `org/name[@revision][:subfolder]`. Relative paths
    start at the file; a folder wins over an id."""
    experts: Annotated[dict[str, str], Field(min_length=1)]
    """Folders or hub ids of the experts, whole models or LoRA adapters, by the names that masks and
    results know them by."""
    sparsifier: SparsifierGrid = {"kind": "none"}
    """What happens to the deltas before merging; lists of values make one model each."""
    method: MethodGrid = {"kind": "average"}
    """How the sparsified experts become one model; lists of values make one model each."""
    base_is: str | list[str] = []
    """What adapters call the base, as in `meta-llama/Llama-2-7b-hf`, if they name it otherwise than
    its folder or hub id does; a list if they differ."""
    statistics: dict[str, str] = {}
    """Safetensors files with what was gathered of each expert, for `fisher` and `regmean`."""
    output: Output = Output()
    """The folder that is written."""

    @field_validator("experts")
    @classmethod
    def _named(cls, experts: dict[str, str]) -> dict[str, str]:
        for name in experts:
            check_expert_name(name)
        return experts

    @model_validator(mode="after")
    def _refers_to_experts(self) -> "MergeFile":
        known = ", ".join(sorted(self.experts))
        strangers = sorted(set(self.statistics) - set(self.experts))
        if strangers:
            raise ValueError(
                f"statistics refers to {strangers[0]}, which is not an expert; choose among {known}"
            )
        self.output.check_experts(self.experts)
        return self


def check_expert_name(name: str) -> None:
    """Check the name of an expert: masks depend on it, and results show it.

    Raises:
        ValueError: it has other characters than letters, digits, `.`, `_` and `-`, or is `base`.
    """
    if name == "base" or not _NAME.fullmatch(name):
        raise ValueError(
            f"invalid expert name {name!r}; use letters, digits, `.`, `_` and `-`, but not `base`"
        )


def read_merge_file(path: Path) -> MergeFile:
    """Read and check a merge file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has invalid keys or values.
    """
    return check_content(MergeFile, read_yaml(path), path)


def recipes_of(merge_file: MergeFile, origin: Path | str) -> dict[str, Recipe]:
    """The recipes of a merge file by a readable name: several if values are lists.

    Args:
        merge_file: the content of the file.
        origin: the file, for error messages.

    Raises:
        ConfigError: a combination of values is invalid.
    """
    recipes: dict[str, Recipe] = {}
    for sparsifier in _points(merge_file.sparsifier, AnySparsifier, f"{origin}: sparsifier"):
        for method in _points(merge_file.method, AnyMethod, f"{origin}: method"):
            recipe = Recipe(
                family=model_label(merge_file.base) or "base",
                experts=tuple(sorted(merge_file.experts)),
                sparsifier=sparsifier,
                method=method,
            )
            recipes[_folder_name(recipe)] = recipe
    return recipes


def _folder_name(recipe: Recipe) -> str:
    """Name of a recipe among others of its file, as in `dare~rate=0.9~seed=1+average`."""
    name = f"{settings_slug(recipe.sparsifier)}+{settings_slug(recipe.method)}"
    plain = re.sub(r"[^\w.~=+-]+", "", name)[:_LONGEST_NAME]
    return name if plain == name else f"{plain}~{recipe.digest[:8]}"


def _points(grid: Grid | Mapping[str, Any], kind: Any, where: str) -> list[Any]:
    adapter = TypeAdapter(kind)
    values = [dict(grid)] if isinstance(grid, Mapping) else list(grid.points())
    points = []
    for value in values:
        try:
            points.append(adapter.validate_python(value))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join([where, *(str(part) for part in first["loc"][1:])])
            raise ConfigError(f"{key}: {described(first)}") from error
    return points
