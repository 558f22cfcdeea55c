"""The tokenizer files of united vocabularies: the tokens of all models, with the ids of the union.

The files are those of one model. In its `tokenizer.json`, vocabulary and merges become the base's,
and added tokens those of the union.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.token_alignment import BASE, Renamed, Tokenizers
from mergegrid.checkpoints.tokenizers import (
    ADDED_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    added_token,
)


def write_united(
    folder: Path,
    source: str,
    tokenizers: Tokenizers,
    ids: Mapping[str, int],
    slots: Sequence[Renamed],
) -> None:
    """Bring the tokenizer files in a folder to the union of vocabularies.

    Args:
        folder: has the tokenizer files of `source`.
        source: the model that gives the tokenizer.
        tokenizers: tokenizers by model, the base under "".
        ids: ids of the union.
        slots: slots of the base that experts renamed.
    """
    names = {slot.old: slot.new for slot in slots}
    content = read_json(folder / TOKENIZER)
    content["model"] = _renamed(read_json(tokenizers[BASE].folder / TOKENIZER)["model"], names)
    added = _added(source, tokenizers, ids)
    content["added_tokens"] = added
    processor = _renamed_values(content.get("post_processor"), names)
    content["post_processor"] = _with_ids(processor, ids)
    if content.get("padding"):
        pad = content["padding"]["pad_token"]
        content["padding"]["pad_id"] = ids.get(pad, content["padding"]["pad_id"])
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    (folder / TOKENIZER).write_text(text, encoding="utf-8")
    if (folder / TOKENIZER_CONFIG).is_file():
        config = _renamed_values(read_json(folder / TOKENIZER_CONFIG), names)
        if "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
                for entry in added
            }
        _write(folder / TOKENIZER_CONFIG, config)
    if (folder / ADDED_TOKENS).is_file():
        vocabulary = tokenizers[BASE].vocabulary
        numbers = {entry["content"]: entry["id"] for entry in added}
        _write(
            folder / ADDED_TOKENS,
            {token: number for token, number in numbers.items() if token not in vocabulary},
        )


def _added(source: str, tokenizers: Tokenizers, ids: Mapping[str, int]) -> list[dict[str, Any]]:
    """Added tokens of the union by id, with the flags that `source`, or else the base, gives."""
    order = [source, BASE, *sorted(tokenizers.keys() - {source, BASE})]
    vocabulary = tokenizers[BASE].vocabulary
    entries = []
    for token, number in sorted(ids.items(), key=lambda item: item[1]):
        flags = [tokenizers[name].added[token] for name in order if token in tokenizers[name].added]
        if flags or token not in vocabulary:
            entries.append(added_token(token, number, flags[0] if flags else {}))
    return entries


def _renamed(model: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The model of a `tokenizer.json` whose vocabulary has renamed slots under their new names."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):
        renamed: Any = [[names.get(token, token), score] for token, score in vocabulary]
    else:
        renamed = {names.get(token, token): number for token, number in vocabulary.items()}
    return {**model, "vocab": renamed}


def _renamed_values(value: Any, names: Mapping[str, str]) -> Any:
    """A config in which texts that are a renamed token have its new name."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed_values(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed_values(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def _with_ids(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor with the ids of the union.

    Its tokens stand as `{"id": "<s>", "ids": [1], "tokens": ["<s>"]}` in `TemplateProcessing`, and
    as `["</s>", 2]` in `BertProcessing` and `RobertaProcessing`.
    """
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], ids.get(processor[0], processor[1])]
        return [_with_ids(part, ids) for part in processor]
    if not isinstance(processor, dict):
        return processor
    if isinstance(processor.get("tokens"), list) and isinstance(processor.get("ids"), list):
        pairs = zip(processor["tokens"], processor["ids"], strict=True)
        return {**processor, "ids": [ids.get(token, number) for token, number in pairs]}
    return {key: _with_ids(part, ids) for key, part in processor.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
