"""The output of a mergekit file: dtype, tokenizer and chat template."""

from typing import Any

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.recipes.mergekit.document import Keys
from mergegrid.recipes.mergekit.reading import MergekitFile
from mergegrid.recipes.mergekit.references import ModelReference

#: mergekit takes a shorter text for the name of a template.
_SHORTEST_TEMPLATE = 20


def output_of(
    file: MergekitFile, base: ModelReference, names: dict[ModelReference, str]
) -> dict[str, Any]:
    """`output` of the merge file.

    Args:
        file: the mergekit file.
        base: the base.
        names: names of the experts.

    Raises:
        ConfigError: a setting is unknown, or mergegrid does not have it.
    """
    output: dict[str, Any] = {}
    for key in ("out_dtype", "dtype"):
        dtype = dtype_of(file, key)
        if dtype and "dtype" not in output:
            if dtype not in DTYPES:
                raise file.document.error(
                    (key,), f" = {dtype}: mergegrid writes {', '.join(DTYPES)}; set out_dtype"
                )
            output["dtype"] = dtype
    output |= _tokenizer(file, {**names, base: "base"})
    if template := _template(file):
        output["chat_template"] = template
    return output


def _template(file: MergekitFile) -> str | None:
    """The text of a chat template; mergekit has further ones by name, and a vote."""
    template = file.text("chat_template")
    if template and (len(template) < _SHORTEST_TEMPLATE or "{" not in template):
        raise file.document.error(
            ("chat_template",),
            f" = {template!r}: mergegrid has no templates of its own; remove the key, convert the "
            "file, and set output.chat_template to a model that has it",
        )
    return template


def dtype_of(file: MergekitFile, key: str) -> str | None:
    """`dtype` or `out_dtype`, without the prefix `torch.`.

    Raises:
        ConfigError: mergekit does not know it.
    """
    text = file.text(key)
    dtype = text.removeprefix("torch.") if text else None
    if dtype and dtype not in (*DTYPES, "float64"):
        raise file.document.error(
            (key,), f" = {text!r} is not a dtype of mergekit; choose one of {', '.join(DTYPES)}"
        )
    return dtype


def _tokenizer(file: MergekitFile, names: dict[ModelReference, str]) -> dict[str, Any]:
    """Whose tokenizer goes with the model, and the tokens and rows of embeddings."""
    document, tokenizer = file.document, file.tokenizer
    if tokenizer is None:
        return {"tokenizer": "base"}

    def name(model: ModelReference, keys: Keys) -> str:
        if model in names:
            return names[model]
        raise document.error(
            keys, f" = {model} is not one of the merged models; choose one of them"
        )

    settings: dict[str, Any] = {"tokenizer": "base"}
    if isinstance(tokenizer.source, ModelReference):
        settings["tokenizer"] = name(tokenizer.source, tokenizer.keys)
    if tokenizer.source == "union":
        settings["vocabulary"] = "union"
    elif tokenizer.tokens:
        raise document.error(
            ("tokenizer", "tokens"), ": mergegrid adds tokens to a union only; set source to union"
        )
    if tokenizer.tokens:
        settings["tokens"] = {
            token: {"source": name(row.model, row.keys) if row.model else "zero", **row.settings}
            for token, row in tokenizer.tokens.items()
        }
    if tokenizer.pad_to_multiple_of:
        settings["pad_to_multiple_of"] = tokenizer.pad_to_multiple_of
    return settings
