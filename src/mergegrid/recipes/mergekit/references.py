"""References to models, and to the tokenizer of the merged model."""

from dataclasses import dataclass
from typing import Any, Literal

from mergegrid.recipes.mergekit.document import Document, Keys
from mergegrid.recipes.mergekit.strict import check_keys, mapping


@dataclass(frozen=True)
class ModelReference:
    """A model as mergekit names it: `path[@revision][+adapter[@revision]]`."""

    path: str
    revision: str | None = None
    adapter: "ModelReference | None" = None

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        return f"{text}+{self.adapter}" if self.adapter else text


@dataclass(frozen=True)
class Tokenizer:
    """Whose tokenizer the merged model has, and where its rows of embeddings come from."""

    source: ModelReference | Literal["base", "union"]
    tokens: dict[str, Any]
    """Sources of single tokens."""
    pad_to_multiple_of: int | None
    keys: Keys


def read_model(document: Document, keys: Keys, value: Any) -> ModelReference | None:
    """Read a reference to a model: a text, or a mapping with an adapter; None stays None.

    Raises:
        ConfigError: it is malformed.
    """
    if value is None:
        return None
    if isinstance(value, str):
        path, *adapters = value.split("+")
        if len(adapters) > 1:
            raise document.error(keys, f" = {value!r}: expected a model, or model+adapter")
        model = _path(document, keys, path)
        adapter = _path(document, keys, adapters[0]) if adapters else None
        return ModelReference(model.path, model.revision, adapter)
    parts = mapping(document, keys, value)
    check_keys(document, keys, parts, ("model", "lora", "override_architecture"))
    if parts.get("override_architecture") is not None:
        raise document.error(
            (*keys, "override_architecture"),
            ": mergegrid takes the architecture from config.json; change it there",
        )
    model = _path(document, (*keys, "model"), parts.get("model"))
    lora = parts.get("lora")
    adapter = _path(document, (*keys, "lora"), lora) if lora is not None else None
    return ModelReference(model.path, model.revision, adapter)


def _path(document: Document, keys: Keys, value: Any) -> ModelReference:
    path, revision = value, None
    if isinstance(value, dict):
        check_keys(document, keys, value, ("path", "revision"))
        path, revision = value.get("path"), value.get("revision")
    elif isinstance(value, str) and "@" in value:
        path, _, revision = value.partition("@")
    texts = isinstance(path, str) and isinstance(revision, str | None)
    if not texts or not path or revision == "" or "@" in (revision or ""):
        raise document.error(
            keys, f" = {value!r}: expected a folder, or the id of a model, as in org/name@main"
        )
    return ModelReference(path, revision)


def read_tokenizer(document: Document) -> Tokenizer | None:
    """Read `tokenizer` or `tokenizer_source` of a file, of which one may be set.

    Raises:
        ConfigError: it is malformed, or both are set.
    """
    simple, settings = (document.content.get(key) for key in ("tokenizer_source", "tokenizer"))
    if simple is not None and settings is not None:
        raise document.error(("tokenizer",), ": tokenizer_source is set, too; remove one of them")
    if simple is not None:
        return Tokenizer(
            _source(document, ("tokenizer_source",), simple), {}, None, ("tokenizer_source",)
        )
    if settings is None:
        return None
    keys: Keys = ("tokenizer",)
    settings = mapping(document, keys, settings)
    check_keys(document, keys, settings, ("source", "tokens", "pad_to_multiple_of"))
    tokens, multiple = settings.get("tokens"), settings.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        raise document.error(
            ("tokenizer", "pad_to_multiple_of"), f" = {multiple!r}: expected a number, as in 64"
        )
    return Tokenizer(
        # mergekit's own default.
        _source(document, ("tokenizer", "source"), settings.get("source", "union")),
        {} if tokens is None else mapping(document, ("tokenizer", "tokens"), tokens),
        multiple,
        ("tokenizer", "source"),
    )


def _source(
    document: Document, keys: Keys, value: Any
) -> ModelReference | Literal["base", "union"]:
    if value == "base":
        return "base"
    if value == "union":
        return "union"
    model = read_model(document, keys, value)
    if model is None:
        raise document.error(keys, " is empty; choose base, union or a model")
    return model
