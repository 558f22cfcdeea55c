"""A merge file: models on disk, and what to make of them; `mergegrid merge` reads it.

Example:
    base: models/llama
    experts: {math: models/llama-math, code: models/llama-code}
    sparsifier: {kind: dare, rate: 0.9, seed: 1}
    method: {kind: task_arithmetic, coefficient: 0.5}
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from mergegrid.errors import ConfigError
from mergegrid.recipes.grid import Grid, grid_of
from mergegrid.recipes.methods import METHODS, Method
from mergegrid.recipes.recipe import Recipe, spec_slug
from mergegrid.recipes.sparsifiers import SPARSIFIERS, Sparsifier
from mergegrid.recipes.vocabulary import VocabularyPolicy
from mergegrid.settings import Spec
from mergegrid.yaml_files import check_content, read_yaml

SparsifierGrid: Any = grid_of(SPARSIFIERS)
MethodGrid: Any = grid_of(METHODS)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_LONGEST_NAME = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `512MiB` or `1000`.

    Raises:
        ValueError: it is no size.
    """
    pattern = r"(\d{1,15}(?:\.\d+)?)\s*(?:([KMGT]?)(I?)B)?"
    match = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"{text!r} is no size; write, for instance, 5GB or 512MiB")
    thousand = 1024 if match[3] else 1000
    return int(float(match[1]) * thousand ** _UNITS[(match[2] or "").upper()])


class Output(Spec):
    """The folder that is written."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    """What parameters are rounded to: the base's own dtype, tensor by tensor, or another."""
    shard_size: str = "5GB"
    """The largest size of a file, as in `5GB` or `512MiB`; a larger tensor has one to itself."""
    tokenizer: str = "base"
    """Whose tokenizer goes with the model: `base`, or the name of an expert."""
    vocabulary: VocabularyPolicy = "base_rows"
    """What happens to embedding rows beyond the base's: `base_rows` leaves them out; `pad` gives
    every model as many rows as the largest has, as the paper does, with the mean of its others."""

    @field_validator("shard_size")
    @classmethod
    def _readable(cls, text: str) -> str:
        if parse_size(text) < 1:
            raise ValueError(f"{text!r} holds nothing; write a size such as 5GB")
        return text


class MergeFile(Spec):
    """Models on disk, and what to make of them."""

    base: str
    """Folder of the base; relative paths start at the file."""
    experts: Annotated[dict[str, str], Field(min_length=1)]
    """Folders of the experts, by the names that masks and results know them by."""
    sparsifier: SparsifierGrid = {"kind": "none"}
    """What happens to the deltas before merging; lists of values make one model each."""
    method: MethodGrid = {"kind": "average"}
    """How the sparsified experts become one model; lists of values make one model each."""
    statistics: dict[str, str] = {}
    """Safetensors files with what was gathered of each expert, for `fisher` and `regmean`."""
    output: Output = Output()
    """The folder that is written."""

    @field_validator("experts")
    @classmethod
    def _named(cls, experts: dict[str, str]) -> dict[str, str]:
        for name in experts:
            if name == "base" or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name an expert; take letters, digits, `.`, `_` and `-`, "
                    "and not `base`"
                )
        return experts


def read_merge_file(path: Path) -> MergeFile:
    """Read and check a merge file.

    Raises:
        ConfigError: the file is missing, is not YAML, or asks for something that cannot be done.
    """
    return check_content(MergeFile, read_yaml(path), path)


def recipes_of(asked: MergeFile, origin: Path | str) -> dict[str, Recipe]:
    """The recipes of a merge file, by a readable name: several where values are lists.

    Raises:
        ConfigError: a combination of values does not fit.
    """
    recipes: dict[str, Recipe] = {}
    for sparsifier in _points(asked.sparsifier, Sparsifier, f"{origin}: sparsifier"):
        for method in _points(asked.method, Method, f"{origin}: method"):
            recipe = Recipe(
                family=Path(asked.base).name or "base",
                experts=tuple(sorted(asked.experts)),
                sparsifier=sparsifier,
                method=method,
            )
            recipes[_folder_name(recipe)] = recipe
    return recipes


def _folder_name(recipe: Recipe) -> str:
    """What a recipe is called among others of its file, as in `dare~rate=0.9~seed=1+average`."""
    name = f"{spec_slug(recipe.sparsifier)}+{spec_slug(recipe.method)}"
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
            what = "missing; add it" if first["type"] == "missing" else first["msg"]
            raise ConfigError(f"{key}: {what.removeprefix('Value error, ')}") from error
    return points
