"""From a mergekit file to a merge file, with a line for everything that is not the same."""

from dataclasses import dataclass
from typing import Any

from mergegrid.recipes.mergekit.arithmetic import arithmetic
from mergegrid.recipes.mergekit.differences import differences_of
from mergegrid.recipes.mergekit.document import Document
from mergegrid.recipes.mergekit.inputs import Inputs, expert_names
from mergegrid.recipes.mergekit.output import output_of
from mergegrid.recipes.mergekit.reading import MergekitFile, Slice, Source, read
from mergegrid.recipes.mergekit.references import ModelReference
from mergegrid.recipes.mergekit.slices import LayerCount, common_slice, layers_of

#: Methods that need no base.
_WITHOUT_BASE = ("linear", "nuslerp", "multislerp", "karcher", "passthrough")

#: Methods for which a base need not be among the sources of a slice.
_BASE_APART = ("linear", "karcher", "passthrough")


@dataclass(frozen=True)
class Translation:
    """A merge file that computes what a mergekit file says."""

    merge_file: dict[str, Any]
    """Keys of `MergeFile`, with models as the mergekit file names them."""
    notes: tuple[str, ...]
    """What was chosen, and what has no effect: a line each."""
    differences: tuple[str, ...]
    """What mergekit does otherwise: a line each."""


def translate(
    document: Document, layer_count: LayerCount = lambda _: None, ignore_unused: bool = False
) -> Translation:
    """Translate a mergekit file.

    Args:
        document: the file.
        layer_count: finds the number of layers of a model, to tell whether a slice has all.
        ignore_unused: note parameters that the method does not use, instead of refusing them.

    Raises:
        ConfigError: a key is unknown, misplaced or malformed, or mergegrid cannot compute the same;
            the message names line and key.
    """
    file = read(document, ignore_unused)
    notes = [*file.unused]
    inputs = _inputs(file, notes)
    sparsifier, method = arithmetic(inputs)
    names = {source.model: name for name, source in inputs.experts.items()}
    merge_file: dict[str, Any] = {
        "base": str(inputs.base),
        "experts": {name: _expert(inputs, source) for name, source in inputs.experts.items()},
        "sparsifier": sparsifier,
        "method": method,
        "output": output_of(file, inputs.base, names),
    }
    if layers := layers_of(file, {inputs.base: "base", **names}, layer_count):
        merge_file["output"]["layers"] = layers
    return Translation(merge_file, tuple(notes), tuple(differences_of(inputs, sparsifier)))


def _inputs(file: MergekitFile, notes: list[str]) -> Inputs:
    part = common_slice(file)
    _reject_repeated(file, part.sources)
    named = part.base or file.base
    if named is None:
        if file.method not in _WITHOUT_BASE:
            raise file.document.error(
                (), f"base_model is missing, which {file.method} needs; add it"
            )
        sources, base = part.sources, part.sources[0].model.whole
        notes.append(
            f"base_model is not set: config and tokenizer are those of the first model, {base}; "
            "mergekit takes those of any of the models"
        )
    else:
        sources, base = _with_base(file, part, named), named
        if base.adapter:
            raise file.document.error(
                (*(part.keys if part.base else ()), "base_model"),
                f": {base} has an adapter; merge it into the base first, and name the folder",
            )
    if not sources:
        raise file.document.error(part.keys, ": there is no model besides the base; add one")
    experts = dict(zip(expert_names([item.model for item in sources]), sources, strict=True))
    scopes = (part.parameters, *file.scopes)
    return Inputs(file, base, named is not None, experts, scopes, part.keys)


def _with_base(file: MergekitFile, part: Slice, base: ModelReference) -> tuple[Source, ...]:
    """The experts of a merge with a base, which may be one of them."""
    document, is_input = file.document, file.definition.base_is_input
    listed = any(source.model == base for source in part.sources)
    of_models = part.keys[-1] == "models"
    if not listed and not of_models and file.method not in _BASE_APART:
        raise document.error(
            (*part.keys, "sources"), f": {file.method} needs the base among them; add {base}"
        )
    if is_input and not listed and of_models:
        if file.method == "passthrough":
            raise document.error(
                ("base_model",), " is another model, and passthrough takes one; remove it"
            )
        # mergekit adds it.
        return (*part.sources, Source(base, {}, None, ("base_model",)))
    if is_input:
        return part.sources
    return tuple(source for source in part.sources if source.model != base)


def _reject_repeated(file: MergekitFile, sources: tuple[Source, ...]) -> None:
    models = [source.model for source in sources]
    for index, source in enumerate(sources):
        if source.model in models[:index]:
            raise file.document.error(
                (*source.keys, "model"),
                f": {source.model} is listed twice, and mergekit would use it once; list it once",
            )


def _expert(inputs: Inputs, source: Source) -> str:
    """A model, or the adapter of the base, as a merge file names it."""
    model = source.model
    if model.adapter is None:
        return str(model)
    if model.whole != inputs.base:
        raise inputs.file.document.error(
            (*source.keys, "model"),
            f": {model} has an adapter, and not of the base {inputs.base}; merge it into its model "
            "first, and name the folder",
        )
    return str(model.adapter)
