"""End tokens: the ids at which a text begins and ends, in `config.json` and generation config.

Who gives the tokenizer gives them. The complete list of ids that stop a generation is
`eos_token_id` of `generation_config.json`, such as [128001, 128009] of Llama 3; the tokenizer
itself names only one.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.tokenizers import Tokenizer

GENERATION_CONFIG = "generation_config.json"
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_FURTHER = ("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")
Ids = Callable[[int], int]
"""The id of a token in the merged model, from its id in the model that gives the tokenizer."""


def end_ids(folder: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Ids of a model's beginning, end and padding, from its config or else from its tokenizer.

    Raises:
        CheckpointError: `config.json` is damaged.
    """
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        text = config.get("text_config")
        both = {**(text if isinstance(text, Mapping) else {}), **config}
        return {key: both[key] for key in ENDS if both.get(key) is not None}
    if tokenizer is None:
        return {}
    named = {f"{role}_id": token for role, token in tokenizer.named.items()}
    return {key: tokenizer.ids[named[key]] for key in ENDS if named.get(key) in tokenizer.ids}


def stop_ids(folder: Path, tokenizer: Tokenizer | None) -> list[int]:
    """All ids that stop a generation of a model, by its generation config or else its config."""
    ends = end_ids(folder, tokenizer)
    if (folder / GENERATION_CONFIG).is_file():
        ends |= read_json(folder / GENERATION_CONFIG)
    stops = ends.get("eos_token_id")
    return [stops] if isinstance(stops, int) else list(stops or [])


def write_ends(folder: Path, source: Path, tokenizer: Tokenizer | None, moved: Ids) -> None:
    """Give the configs in a folder the ends of the model in another folder.

    Args:
        folder: has the configs of the base.
        source: folder of the model that gives the tokenizer.
        tokenizer: its tokenizer.
        moved: id in the merged model of each id of that model.
    """
    ends = {key: _moved(value, moved) for key, value in end_ids(source, tokenizer).items()}
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    for part in [config, text] if isinstance(text, dict) else [config]:
        for key in ENDS:
            if part is config or key in part:
                part.pop(key, None)
                part |= {key: ends[key]} if key in ends else {}
    _write(folder / "config.json", config)
    if (source / GENERATION_CONFIG).is_file():
        generation = read_json(source / GENERATION_CONFIG)
        for key in (*ENDS, *_FURTHER, *_LISTS):
            if key in generation:
                generation[key] = _moved(generation[key], moved)
        if isinstance(generation.get("sequence_bias"), list):
            generation["sequence_bias"] = [
                [_moved(ids, moved), bias] for ids, bias in generation["sequence_bias"]
            ]
    elif (folder / GENERATION_CONFIG).is_file():
        generation = read_json(folder / GENERATION_CONFIG)
        generation = {key: value for key, value in generation.items() if key not in ENDS} | ends
    else:
        return
    _write(folder / GENERATION_CONFIG, generation)


def _moved(ids: Any, moved: Ids) -> Any:
    """Ids in the merged model, of one id or of nested lists of them."""
    if isinstance(ids, list):
        return [_moved(number, moved) for number in ids]
    return moved(ids) if isinstance(ids, int) and not isinstance(ids, bool) else ids


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
