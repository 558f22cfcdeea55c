"""Slices: layers of the merged model, from ranges of the layers of its models."""

from collections.abc import Callable
from typing import Any

from mergegrid.recipes.mergekit.document import Keys
from mergegrid.recipes.mergekit.parameters import Scope
from mergegrid.recipes.mergekit.reading import MergekitFile, Slice, Source
from mergegrid.recipes.mergekit.references import ModelReference

LayerCount = Callable[[ModelReference], int | None]
"""Number of layers of a model; None if it cannot be known."""


def common_slice(file: MergekitFile) -> Slice:
    """The slice whose models and parameters are those of all slices that merge models.

    Raises:
        ConfigError: slices merge different models or have different parameters, or values change
            by layer within several slices.
    """
    if file.method == "passthrough":
        return _passed(file)
    common = max(file.slices, key=lambda part: len(part.sources))
    for part in file.slices:
        _check_lengths(file, part)
        if len(part.sources) > 1 and _models(part) != _models(common):
            raise file.document.error(
                (*part.keys, "sources"),
                f": other models than in {common.keys[-2]}[{common.keys[-1]}]; mergegrid merges "
                "the same models in all slices",
            )
        if _parameters(part) != _parameters(common) and len(part.sources) > 1:
            raise file.document.error(
                part.keys, ": slices have different parameters; mergegrid has one set for all"
            )
    if len(file.slices) > 1:
        scopes = (
            common.parameters,
            *file.scopes,
            *(source.parameters for source in common.sources),
        )
        for keys in (keys for scope in scopes for keys in _gradients(scope)):
            raise file.document.error(
                keys,
                ": a gradient within each of several slices; mergegrid has gradients over all "
                "layers: give a single number",
            )
    return common


def layers_of(
    file: MergekitFile, names: dict[ModelReference, str], layer_count: LayerCount
) -> list[dict[str, list[int]]]:
    """`output.layers` of the merge file; empty if the models are merged as they are.

    Args:
        file: the mergekit file.
        names: `base` and the names of the experts.
        layer_count: finds the number of layers of a model, to tell whether a slice has all.
    """
    slices = [
        {names[source.model]: list(source.layers) for source in part.sources if source.layers}
        for part in file.slices
    ]
    complete = len(slices) == 1 and all(
        source.layers is None or source.layers == (0, layer_count(source.model))
        for source in file.slices[0].sources
    )
    if complete:
        return []
    for ranges in slices:
        if len(ranges) > 1:
            # A base that is merged as an expert, or only gives the config, has layers, too.
            ranges.setdefault("base", next(iter(ranges.values())))
    return slices


def _passed(file: MergekitFile) -> Slice:
    """All models of a file that passes the layers of one model in each slice."""
    sources: dict[ModelReference, Source] = {}
    for part in file.slices:
        if len(part.sources) != 1:
            raise file.document.error(
                part.keys, f": passthrough takes one model for a slice, not {len(part.sources)}"
            )
        sources.setdefault(part.sources[0].model, part.sources[0])
        for scope in (part.parameters, part.sources[0].parameters, *file.scopes):
            for condition in scope.get("scale", ()):
                raise file.document.error(
                    condition.keys, ": mergegrid passes layers as they are; remove it"
                )
    first = file.slices[0].keys
    keys: Keys = first if first[-1] == "models" else first[:-1]
    return Slice(tuple(sources.values()), {}, None, keys)


def _check_lengths(file: MergekitFile, part: Slice) -> None:
    lengths = {source.layers[1] - source.layers[0] for source in part.sources if source.layers}
    if len(lengths) > 1:
        raise file.document.error(
            (*part.keys, "sources"),
            f": ranges of {' and '.join(map(str, sorted(lengths)))} layers; layers are merged one "
            "by one, so give ranges of equal length",
        )


def _models(part: Slice) -> set[ModelReference]:
    return {source.model for source in part.sources}


def _parameters(part: Slice) -> dict[tuple[str, str], Any]:
    """Parameters of a slice and its models, without their places in the file."""
    scopes = {"": part.parameters, **{str(item.model): item.parameters for item in part.sources}}
    return {
        (model, name): [(condition.filter, condition.values) for condition in setting]
        for model, scope in scopes.items()
        for name, setting in scope.items()
    }


def _gradients(scope: Scope) -> list[Keys]:
    return [
        condition.keys
        for setting in scope.values()
        for condition in setting
        if len(set(condition.values)) > 1
    ]
