"""Reading a mergekit file strictly: keys that mergekit would ignore are errors.

mergekit drops unknown keys silently, so `density` outside `parameters` or a misspelled `dtype`
changes nothing there; both occur in published files.
"""

from dataclasses import dataclass
from typing import Any

from mergegrid.recipes.mergekit.document import Document, Keys, dotted
from mergegrid.recipes.mergekit.methods import (
    BOOLEAN,
    METHODS,
    OTHER_METHODS,
    PARAMETERS,
    MergekitMethod,
)
from mergegrid.recipes.mergekit.parameters import Scope, read_setting
from mergegrid.recipes.mergekit.references import (
    ModelReference,
    Tokenizer,
    read_model,
    read_tokenizer,
)
from mergegrid.recipes.mergekit.strict import check_keys, did_you_mean, items, mapping

TOP_KEYS = (
    *("merge_method", "base_model", "models", "slices", "modules", "parameters"),
    *("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template"),
)


@dataclass(frozen=True)
class Source:
    """A model that is merged, with its parameters."""

    model: ModelReference
    parameters: Scope
    layers: tuple[int, int] | None
    """Its layers, from the first to before the last; None: all."""
    keys: Keys


@dataclass(frozen=True)
class Slice:
    """Layers of the merged model, and the models that they are merged from."""

    sources: tuple[Source, ...]
    parameters: Scope
    base: ModelReference | None
    keys: Keys


@dataclass(frozen=True)
class MergekitFile:
    """The content of a mergekit file; that of a single module counts as that of the file."""

    document: Document
    method: str
    slices: tuple[Slice, ...]
    """A single one, without layers, for `models`."""
    base: ModelReference | None
    scopes: tuple[Scope, ...]
    """Parameters of the module, if any, and of the file."""
    tokenizer: Tokenizer | None
    """None: the files of the base are copied."""
    unused: tuple[str, ...]
    """Lines about parameters that the method does not use, in mergekit neither."""

    @property
    def definition(self) -> MergekitMethod:
        """Parameters and defaults of the method."""
        return METHODS[self.method]

    def text(self, key: str) -> str | None:
        """The text of a key at the top, None if it is not set.

        Raises:
            ConfigError: it is not a text.
        """
        value = self.document.content.get(key)
        if value is None or isinstance(value, str):
            return value
        raise self.document.error((key,), f" = {value!r}: expected a text; quote it")


def read(document: Document, ignore_unused: bool) -> MergekitFile:
    """Read a mergekit file.

    Args:
        document: the file.
        ignore_unused: note parameters that the method does not use, instead of refusing them.

    Raises:
        ConfigError: a key is unknown, misplaced or malformed, or the method is not supported.
    """
    content = document.content
    for key in ("gate_mode", "experts"):
        if key in content:
            raise document.error(
                (key,),
                ": this is a mixture of experts; mergegrid merges into one model, so run "
                "mergekit-moe",
            )
    check_keys(document, (), content, TOP_KEYS)
    method = _method(document)
    base = read_model(document, ("base_model",), content.get("base_model"))
    reader = _Reader(document, method, base, ignore_unused)
    parts = [key for key in ("models", "slices", "modules") if content.get(key)]
    if len(parts) != 1:
        raise document.error(
            (parts[-1] if parts else "merge_method",),
            f": give exactly one of models, slices and modules, not {len(parts)} of them",
        )
    scopes = [reader.parameters(("parameters",), content.get("parameters"))]
    keys: Keys = ()
    if parts == ["modules"]:
        keys, content = _module(document)
        scopes.insert(0, reader.parameters((*keys, "parameters"), content.get("parameters")))
    return MergekitFile(
        document,
        method,
        reader.slices(keys, content),
        base,
        tuple(scopes),
        read_tokenizer(document),
        tuple(reader.unused),
    )


def _method(document: Document) -> str:
    method = document.content.get("merge_method")
    if method is None:
        raise document.error((), "merge_method is missing; add it")
    known = f"choose one of {', '.join(METHODS)}"
    if method in OTHER_METHODS:
        raise document.error(
            ("merge_method",), f": mergegrid has no {method}; run mergekit, or {known}"
        )
    if method not in METHODS:
        hint = did_you_mean(str(method), METHODS)
        raise document.error(
            ("merge_method",), f" = {method!r} is not a method of mergekit; {hint}{known}"
        )
    assert isinstance(method, str), f"methods are texts, got {method!r}"
    return method


def _module(document: Document) -> tuple[Keys, dict[str, Any]]:
    """The one module of a file, and its place."""
    modules = mapping(document, ("modules",), document.content["modules"])
    name, *others = modules
    if others:
        raise document.error(
            ("modules", others[0]), ": mergegrid merges one module; merge the others apart"
        )
    keys: Keys = ("modules", name)
    module = mapping(document, keys, modules[name])
    check_keys(document, keys, module, ("models", "slices", "parameters"))
    if bool(module.get("models")) == bool(module.get("slices")):
        raise document.error(keys, ": give either models or slices")
    return keys, module


class _Reader:
    """Reads models with their parameters; collects those that the method does not use."""

    def __init__(
        self, document: Document, method: str, base: ModelReference | None, ignore_unused: bool
    ) -> None:
        self.document = document
        self.method = method
        self.base = base
        self.unused: list[str] = []
        self._ignore_unused = ignore_unused

    def slices(self, keys: Keys, content: dict[str, Any]) -> tuple[Slice, ...]:
        """Read `models` or `slices`."""
        if content.get("models"):
            keys = (*keys, "models")
            models = items(self.document, keys, content["models"])
            sources = tuple(self._source(*model, (), self.base) for model in models)
            return (Slice(sources, {}, None, keys),)
        slices = items(self.document, (*keys, "slices"), content["slices"])
        return tuple(self._slice(*item) for item in slices)

    def _slice(self, keys: Keys, value: Any) -> Slice:
        item = mapping(self.document, keys, value)
        check_keys(self.document, keys, item, ("sources", "parameters", "base_model"))
        base = read_model(self.document, (*keys, "base_model"), item.get("base_model"))
        sources = items(self.document, (*keys, "sources"), item.get("sources"))
        return Slice(
            tuple(self._source(*source, ("layer_range",), base or self.base) for source in sources),
            self.parameters((*keys, "parameters"), item.get("parameters")),
            base,
            keys,
        )

    def _source(
        self, keys: Keys, value: Any, more_keys: tuple[str, ...], base: ModelReference | None
    ) -> Source:
        item = mapping(self.document, keys, value)
        check_keys(self.document, keys, item, ("model", *more_keys, "parameters"))
        model = read_model(self.document, (*keys, "model"), item.get("model"))
        if model is None:
            raise self.document.error(keys, ".model is missing; add it")
        parameters = self.parameters((*keys, "parameters"), item.get("parameters"), of_model=True)
        if model == base and not METHODS[self.method].base_is_input:
            for name in parameters:
                self._note_unused((*keys, "parameters", name), " of the base")
            parameters = {}
        layers = (
            self._layers((*keys, "layer_range"), item.get("layer_range")) if more_keys else None
        )
        return Source(model, parameters, layers, keys)

    def _layers(self, keys: Keys, value: Any) -> tuple[int, int]:
        types = [type(number) for number in value] if isinstance(value, list) else []
        if types != [int, int] or not 0 <= value[0] < value[1]:
            raise self.document.error(
                keys,
                f" = {value!r}: expected the first layer and the one after the last, e.g. [0, 32]",
            )
        return value[0], value[1]

    def parameters(self, keys: Keys, value: Any, of_model: bool = False) -> Scope:
        """Read `parameters` of a model, or of all."""
        if value is None:
            return {}
        definition = METHODS[self.method]
        scope = {}
        for name, setting in mapping(self.document, keys, value).items():
            place = (*keys, name)
            if name not in PARAMETERS:
                used = ", ".join((*definition.per_model, *definition.shared))
                raise self.document.error(
                    place,
                    " is not a parameter of mergekit, which would ignore it; "
                    f"{did_you_mean(str(name), PARAMETERS)}parameters of {self.method}: {used}",
                )
            if of_model and name in definition.shared:
                raise self.document.error(
                    place,
                    " stands at a model, where mergekit ignores it; move it to the `parameters` of "
                    "the whole file",
                )
            if name in definition.shared or name in definition.per_model:
                kind = bool if name in BOOLEAN else float
                scope[name] = read_setting(self.document, place, setting, kind)
            else:
                self._note_unused(place)
        return scope

    def _note_unused(self, keys: Keys, of_model: str = "") -> None:
        problem = f"{of_model} is not used by {self.method}, in mergekit neither"
        if not self._ignore_unused:
            raise self.document.error(keys, f"{problem}; remove it, or pass --ignore-unused")
        self.unused.append(f"{dotted(keys)}{problem}: ignored")
