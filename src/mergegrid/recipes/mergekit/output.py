"""The output of a mergekit file: dtype, tokenizer and chat template."""

from typing import Any

from mergegrid.checkpoints.dtypes import DTYPES
from mergegrid.recipes.mergekit.reading import MergekitFile
from mergegrid.recipes.mergekit.references import ModelReference


def output_of(
    file: MergekitFile, base: ModelReference, names: dict[ModelReference, str]
) -> dict[str, Any]:
    """`output` of the merge file, without what is the default.

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
    tokenizer = _tokenizer(file, base, names)
    if tokenizer != "base":
        output["tokenizer"] = tokenizer
    if template := file.text("chat_template"):
        raise file.document.error(
            ("chat_template",),
            f" = {template!r}: mergegrid takes the template with the tokenizer; remove the key, "
            "and put the template into the folder of the base",
        )
    return output


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


def _tokenizer(file: MergekitFile, base: ModelReference, names: dict[ModelReference, str]) -> str:
    """Whose tokenizer goes with the model: `base` or the name of an expert."""
    document, tokenizer = file.document, file.tokenizer
    if tokenizer is None:
        return "base"
    for key in ("tokens", "pad_to_multiple_of"):
        if getattr(tokenizer, key):
            raise document.error(("tokenizer", key), " is not supported; remove it")
    if tokenizer.source in ("base", base):
        return "base"
    if tokenizer.source == "union":
        raise document.error(
            tokenizer.keys,
            ": union is not supported; name the model whose tokenizer has all tokens",
        )
    assert isinstance(tokenizer.source, ModelReference), f"got {tokenizer.source!r}"
    if tokenizer.source not in names:
        raise document.error(
            tokenizer.keys,
            f" = {tokenizer.source} is not one of the merged models; choose one of them",
        )
    return names[tokenizer.source]
