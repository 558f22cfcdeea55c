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

    @property
    def whole(self) -> "ModelReference":
        """The model without its adapter."""
        return ModelReference(self.path, self.revision)

    def __str__(self) -> str:
        text = self.path + (f"@{self.revision}" if self.revision else "")
        return f"{text}+{self.adapter}" if self.adapter else text


@dataclass(frozen=True)
class TokenSource:
    """Where the row of embeddings of a token comes from."""

    model: ModelReference | None
    """None: the row is zero."""
    settings: dict[str, Any]
    """`token`, `token_id` and `force`, as far as they are set."""
    keys: Keys


@dataclass(frozen=True)
class Tokenizer:
    """Whose tokenizer the merged model has, and where its rows of embeddings come from."""

    source: ModelReference | Literal["base", "union"]
    tokens: dict[str, TokenSource]
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
    keys: Keys = ("tokenizer_source",) if settings is None else ("tokenizer",)
    if simple is not None and settings is not None:
        raise document.error(keys, ": tokenizer_source is set, too; remove one of them")
    if simple is not None:
        return Tokenizer(_source(document, keys, simple), {}, None, keys)
    if settings is None:
        return None
    settings = mapping(document, keys, settings)
    check_keys(document, keys, settings, ("source", "tokens", "pad_to_multiple_of"))
    multiple = settings.get("pad_to_multiple_of")
    if multiple is not None and (type(multiple) is not int or multiple < 1):
        raise document.error(
            (*keys, "pad_to_multiple_of"), f" = {multiple!r}: expected a number, as in 64"
        )
    # The union is mergekit's default here.
    source = _source(document, (*keys, "source"), settings.get("source", "union"))
    tokens = {}
    if settings.get("tokens") is not None:
        place: Keys = (*keys, "tokens")
        for token, value in mapping(document, place, settings["tokens"]).items():
            tokens[str(token)] = _token(document, (*place, token), value)
    return Tokenizer(source, tokens, multiple, (*keys, "source"))


def _token(document: Document, keys: Keys, value: Any) -> TokenSource:
    """`{source: MODEL, force: true}`, or with a mapping that has a `kind` as the source."""
    item = mapping(document, keys, value)
    check_keys(document, keys, item, ("source", "force"))
    source, force = item.get("source"), item.get("force", False)
    if not isinstance(force, bool):
        raise document.error((*keys, "force"), f" = {force!r}: expected true or false")
    settings: dict[str, Any] = {"force": True} if force else {}
    place = (*keys, "source")
    kind = source.get("kind") if isinstance(source, dict) else None
    if isinstance(source, dict) and kind == "zero":
        check_keys(document, place, source, ("kind",))
        return TokenSource(None, settings, place)
    if isinstance(source, dict) and kind == "model_token":
        check_keys(document, place, source, ("kind", "model", "token", "token_id"))
        chosen = {key: source[key] for key in ("token", "token_id") if source.get(key) is not None}
        if len(chosen) != 1:
            raise document.error(place, ": give exactly one of token and token_id")
        settings |= chosen
        source = source.get("model")
    elif kind is not None:
        raise document.error((*place, "kind"), f" = {kind!r}: choose model_token or zero")
    model = read_model(document, place, source)
    if model is None:
        raise document.error(keys, ": the token has no source; name a model")
    return TokenSource(model, settings, place)


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
