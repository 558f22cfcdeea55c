"""Tokenizers of model folders, read from whichever files hold them, for comparison by content.

The same tokenizer may be saved as `tokenizer.json`, as `vocab.json` with `merges.txt`, as
`vocab.txt`, or as a sentencepiece model; added tokens stand in `tokenizer.json`, in
`tokenizer_config.json` (`added_tokens_decoder`) or in `added_tokens.json`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.sentencepiece_files import read_pieces
from mergegrid.errors import CheckpointError
from mergegrid.hashing import digest, file_digest

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
ADDED_TOKENS = "added_tokens.json"
SPECIAL_TOKENS = "special_tokens_map.json"
_VOCABULARIES = (TOKENIZER, "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""Files with a vocabulary, the first of which counts.

In the sentencepiece models `sentencepiece.bpe.model` (XLM-R) and `spm.model` (DeBERTa), positions
are not ids, so that these are not read.
"""
_FILES = (*_VOCABULARIES, "merges.txt", TOKENIZER_CONFIG, ADDED_TOKENS, SPECIAL_TOKENS)
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_PARTS = ("normalizer", "pre_tokenizer", "post_processor")
_AROUND = ("add_bos_token", "add_eos_token")


@dataclass(frozen=True)
class Tokenizer:
    """The content of a tokenizer."""

    folder: Path
    file: str
    """The file that holds the vocabulary."""
    vocabulary: Mapping[str, int]
    """Ids of the tokens of the model (BPE, unigram, ...); may include added tokens."""
    added: Mapping[str, Mapping[str, Any]]
    """Added tokens, by id, as in `{"<|im_end|>": {"id": 151645, "special": true, ...}}`."""
    rules: Mapping[str, str]
    """Digests of merges, scores, normalizer and other parts, as far as the files hold them."""
    named: Mapping[str, str]
    """Special tokens by role, such as `eos_token`."""
    ids: Mapping[str, int] = field(init=False)
    """Ids of all tokens."""
    tokens: Mapping[int, str] = field(init=False)
    """Tokens by id."""

    def __post_init__(self) -> None:
        added = {token: int(entry["id"]) for token, entry in self.added.items()}
        ids = {**self.vocabulary, **added}
        tokens = {number: token for token, number in ids.items()}
        # An added token hides one of the vocabulary that has its id.
        tokens |= {number: token for token, number in added.items()}
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "tokens", tokens)

    @property
    def added_ids(self) -> set[int]:
        """Ids of the added tokens."""
        return {self.ids[token] for token in self.added}

    def in_folder(self, folder: Path) -> "Tokenizer":
        """The same tokenizer, from equal files in another folder."""
        twin = copy(self)
        object.__setattr__(twin, "folder", folder)
        return twin

    def __len__(self) -> int:
        """The number of ids up to the last token."""
        return max(self.tokens, default=-1) + 1


def read_tokenizers(folders: Mapping[str, Path]) -> dict[str, Tokenizer]:
    """The tokenizers of models by name; models without one that can be read are left out.

    Raises:
        CheckpointError: a file is damaged.
    """
    tokenizers: dict[str, Tokenizer] = {}
    read: dict[tuple[tuple[str, str], ...], Tokenizer | None] = {}
    for name, folder in folders.items():
        paths = [folder / file for file in _FILES if (folder / file).is_file()]
        files = tuple((path.name, file_digest(path)) for path in paths)
        if files not in read:
            read[files] = read_tokenizer(folder)
        # Most experts have the tokenizer of their base; parsing a large one takes a second.
        if tokenizer := read[files]:
            tokenizers[name] = tokenizer.in_folder(folder)
    return tokenizers


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder, or None if it has none in a format that is read.

    Raises:
        CheckpointError: a file is damaged.
    """
    config = _object(folder / TOKENIZER_CONFIG)
    file = next((name for name in _VOCABULARIES if (folder / name).is_file()), None)
    if file is None:
        return None
    rules: dict[str, str] = {}
    added: dict[str, Mapping[str, Any]] = {}
    with _explained(folder / file):
        if file == TOKENIZER:
            content = read_json(folder / file)
            vocabulary, rules = _vocabulary(content["model"]["vocab"]), _rules(content)
            added = {
                str(entry["content"]): dict(entry) for entry in content.get("added_tokens") or ()
            }
            _check_ids(entry["id"] for entry in added.values())
        elif file == "vocab.json":
            vocabulary = _vocabulary(read_json(folder / file))
            if (folder / "merges.txt").is_file():
                rules["merges"] = _merges(_lines(folder / "merges.txt"))
        elif file == "vocab.txt":
            lines = _lines(folder / file)
            vocabulary = {line: number for number, line in enumerate(lines) if line}
        else:
            vocabulary = read_pieces(folder / file)
    with _explained(folder / TOKENIZER_CONFIG):
        for number, entry in (config.get("added_tokens_decoder") or {}).items():
            added.setdefault(str(entry["content"]), {**entry, "id": int(number)})
    with _explained(folder / ADDED_TOKENS):
        for token, number in _object(folder / ADDED_TOKENS).items():
            added.setdefault(token, {"content": token, "id": int(number)})
    around = {key: config[key] for key in _AROUND if isinstance(config.get(key), bool)}
    if around:
        rules["add_bos_token, add_eos_token"] = digest(around)
    named = _named(config) or _named(_object(folder / SPECIAL_TOKENS))
    return Tokenizer(folder, file, vocabulary, added, rules, named)


def added_token(token: str, number: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of `added_tokens` in `tokenizer.json`, with all of its keys."""
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {
        "id": number,
        "content": token,
        **{flag: bool(entry.get(flag, False)) for flag in flags},
    }


def _vocabulary(vocabulary: Any) -> dict[str, int]:
    """Ids by token, of a mapping or, in a unigram model, of a list of pieces and scores."""
    if isinstance(vocabulary, list):
        return {str(piece): number for number, (piece, _) in enumerate(vocabulary)}
    _check_ids(vocabulary.values())
    return dict(vocabulary)


def _check_ids(ids: Iterable[Any]) -> None:
    for number in ids:
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"{number!r} is not a token id")


def _rules(content: Mapping[str, Any]) -> dict[str, str]:
    """Digests of the parts of a `tokenizer.json` that are not tokens."""
    model = content["model"]
    rules = {part: digest(content.get(part)) for part in _PARTS}
    if isinstance(model.get("merges"), list):
        rules["merges"] = _merges(model["merges"])
    if isinstance(model["vocab"], list):
        rules["scores"] = digest([score for _, score in model["vocab"]])
    return rules


def _merges(merges: Iterable[Any]) -> str:
    """A digest of merges, which are pairs or, in older files, two tokens and a space between."""
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return digest([pair for pair in pairs if len(pair) == 2 and pair[0] != "#version:"])


def _named(config: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by role; older files hold each as a mapping with its `content`."""
    named = {}
    for role in _NAMED:
        token = config.get(role)
        text = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(text, str):
            named[role] = text
    return named


def _lines(path: Path) -> list[str]:
    return [line.rstrip("\r") for line in path.read_text(encoding="utf-8").split("\n")]


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a surprise in the content of a file into an error that names the file."""
    try:
        yield
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a tokenizer file as transformers writes it "
            f"({type(error).__name__}: {error}); download the model again"
        ) from error
