"""Which embedding rows of base and experts belong to the same token, by their tokenizers.

Rows are equal tokens only where the tokenizers say so: of two experts that added a token each, both
may have given it the first free id. Vocabularies, with their merges, must be equal; added tokens
may differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mergegrid.checkpoints.tokenizers import Tokenizer
from mergegrid.errors import CheckpointError

BASE = ""
"""The base among the tokenizers by model."""
Tokenizers = Mapping[str, Tokenizer]
_LISTED = 3
_FIXED_BY_MODEL = ("merges", "scores")
_FRAMES = "puts other tokens around a text, such as a second BOS or none,"
_NOTED = {
    "normalizer": "normalizes text in another way",
    "pre_tokenizer": "splits text in another way",
    "post_processor": _FRAMES,
    "add_bos_token, add_eos_token": _FRAMES,
}
"""Differences of tokenizers that change texts, but not what a row stands for."""
_UNION = "set output.vocabulary: union, which aligns rows by token"


@dataclass(frozen=True)
class Renamed:
    """A reserved slot that experts gave another name, such as `<|reserved_special_token_0|>`."""

    row: int
    old: str
    """The name in the base."""
    new: str
    experts: tuple[str, ...]
    """Experts with the new name."""


def label(model: str) -> str:
    """A model in messages."""
    return f"expert {model}" if model else "the base"


def listed(tokens: Iterable[str]) -> str:
    """The first few of some tokens, for a message."""
    names = list(tokens)
    more = f", ... ({len(names)} tokens)" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def check_vocabularies(tokenizers: Tokenizers, homologous: bool = True) -> list[str]:
    """Compare the tokenizers of experts with the base's, apart from added tokens.

    Args:
        tokenizers: tokenizers by model, the base under "".
        homologous: whether another vocabulary is an error, or only noted.

    Returns:
        A note for each expert that cuts text, or frames it, in another way.

    Raises:
        CheckpointError: an expert has another vocabulary, or other merges.
    """
    base = tokenizers.get(BASE)
    notes: list[str] = []
    for name, expert in tokenizers.items():
        if base is None or name == BASE:
            continue
        if difference := _vocabulary_difference(base, expert):
            message = f"{label(name)} has another vocabulary than the base: {difference}"
            if homologous:
                raise CheckpointError(
                    f"{message}; rows of different vocabularies cannot be merged: specify the base "
                    "that the expert was fine-tuned from, or move the expert to the base's "
                    "vocabulary first, with a tool such as mergekit-tokensurgeon"
                )
            notes.append(message)
        for rule, what in _NOTED.items():
            if (
                rule in base.rules
                and rule in expert.rules
                and base.rules[rule] != expert.rules[rule]
            ):
                notes.append(f"{label(name)}: its tokenizer {what} than the base's ({rule})")
    return notes


def _vocabulary_difference(base: Tokenizer, expert: Tokenizer) -> str:
    """The first difference between two vocabularies without their added tokens, or ""."""
    if base.vocabulary != expert.vocabulary:
        added = base.added.keys() | expert.added.keys()
        one, other = (
            {token: number for token, number in tokenizer.vocabulary.items() if token not in added}
            for tokenizer in (base, expert)
        )
        if one != other:
            differing = {token for token, _ in one.items() ^ other.items()}
            first = min(differing, key=lambda token: (one.get(token, other.get(token)), token))
            return (
                f"{len(differing)} tokens differ, first {first!r} (id {one.get(first, 'none')} in "
                f"the base, {other.get(first, 'none')} in the expert)"
            )
    for rule in _FIXED_BY_MODEL:
        if rule in base.rules and rule in expert.rules and base.rules[rule] != expert.rules[rule]:
            return f"its tokens are equal, but not its {rule}"
    return ""


def moved_tokens(tokenizers: Tokenizers) -> dict[str, dict[str, int]]:
    """Tokens with several ids: the id by model."""
    names = {token for tokenizer in tokenizers.values() for token in tokenizer.added}
    ids = {
        token: {
            model: tokenizer.ids[token]
            for model, tokenizer in tokenizers.items()
            if token in tokenizer.ids
        }
        for token in sorted(names)
    }
    return {token: by_model for token, by_model in ids.items() if len(set(by_model.values())) > 1}


def shared_rows(tokenizers: Tokenizers) -> dict[int, dict[str, str]]:
    """Rows with different tokens: the token by model, of models with a token there."""
    rows = set().union(*(tokenizer.added_ids for tokenizer in tokenizers.values()))
    tokens = {
        row: {
            model: tokenizer.tokens[row]
            for model, tokenizer in tokenizers.items()
            if row in tokenizer.tokens
        }
        for row in sorted(rows)
    }
    return {row: by_model for row, by_model in tokens.items() if len(set(by_model.values())) > 1}


def renamed_slots(tokenizers: Tokenizers) -> list[Renamed]:
    """Slots of the base that experts renamed: neither name has another row in any model.

    Raises:
        CheckpointError: two experts renamed a slot differently.
    """
    moved = moved_tokens(tokenizers)
    slots = []
    for row, tokens in shared_rows(tokenizers).items():
        old = tokens.get(BASE)
        new = sorted({token for token in tokens.values() if token != old})
        if old is None or old in moved or any(token in moved for token in new):
            continue
        experts = [tuple(m for m, token in tokens.items() if token == name) for name in new]
        if len(new) > 1:
            one, other = experts[0][0], experts[1][0]
            raise CheckpointError(
                f"token {old} (id {row}) of the base was renamed {new[0]} by {label(one)} and "
                f"{new[1]} by {label(other)}, so one row has two meanings; merge only one of these "
                "experts"
            )
        slots.append(Renamed(row, old, new[0], experts[0]))
    return slots


def check_rows(tokenizers: Tokenizers, rows: int, policy: str) -> None:
    """Check that rows that are merged by their index belong to one token.

    Args:
        tokenizers: tokenizers by model, the base under "".
        rows: rows that are merged.
        policy: `base_rows`, where rows without a token of the base are unused, or `pad`.

    Raises:
        CheckpointError: a row belongs to different tokens, or a token to different rows.
    """
    for token, ids in moved_tokens(tokenizers).items():
        if min(ids.values()) < rows:
            places = ", ".join(f"{number} in {label(model)}" for model, number in ids.items())
            raise CheckpointError(
                f"token {token} has different ids: {places}; rows are not merged by index then: "
                f"{_UNION}"
            )
    if policy == "pad":
        for row, tokens in shared_rows(tokenizers).items():
            if BASE not in tokens and row < rows:
                raise CheckpointError(f"{different_tokens(row, tokens)}: {_UNION}")


def different_tokens(row: int, tokens: Mapping[str, str]) -> str:
    """The part of a message about a row with different tokens."""
    places = ", ".join(f"{token} in {label(model)}" for model, token in tokens.items())
    return f"id {row} is {places}; unrelated rows would be merged"


def united_ids(
    tokenizers: Tokenizers, slots: Sequence[Renamed], further: Iterable[str] = ()
) -> dict[str, int]:
    """Ids of the union: the base's, renamed slots included, then those that experts added.

    Added tokens follow the base's last id, in the order of experts by name and of their ids, so
    that the first expert's keep theirs where it appended them as tokenizers do.

    Args:
        tokenizers: tokenizers by model, the base under "".
        slots: renamed slots.
        further: tokens to add in any case.
    """
    names = {slot.old: slot.new for slot in slots}
    ids = {names.get(token, token): number for token, number in tokenizers[BASE].ids.items()}
    free = len(tokenizers[BASE])
    experts = (tokenizers[name] for name in sorted(tokenizers.keys() - {BASE}))
    added = (
        token for expert in experts for token in sorted(expert.added, key=expert.ids.__getitem__)
    )
    for token in [*added, *further]:
        if token not in ids and token not in names:
            ids[token] = free
            free += 1
    return ids
