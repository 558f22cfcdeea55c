"""The tokenizer of merged models: whose it is, and what comes with it.

Who gives the tokenizer gives the ends of texts and, unless told otherwise, the chat template with
all of its named variants. Before any work, every token of it is checked to have a row, and every
token that a chat template writes to be a token.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mergegrid.checkpoints import model_files
from mergegrid.checkpoints.adapters.adapter import is_adapter
from mergegrid.checkpoints.chat_templates import (
    DEFAULT,
    read_templates,
    replace_templates,
    without_template,
)
from mergegrid.checkpoints.end_tokens import stop_ids, write_ends
from mergegrid.checkpoints.location import read_json
from mergegrid.checkpoints.token_alignment import (
    BASE,
    Tokenizers,
    different_tokens,
    label,
    listed,
    shared_rows,
)
from mergegrid.checkpoints.tokenizers import TOKENIZER_CONFIG
from mergegrid.checkpoints.united_tokenizer import write_united
from mergegrid.checkpoints.vocabulary import Aligned, vocabulary_tensors
from mergegrid.errors import CheckpointError

AUTO, AS_TOKENIZER = "auto", "tokenizer"


@dataclass(frozen=True)
class TokenizerChoice:
    """Settings of the tokenizer of merged models."""

    tokenizer: str = AUTO
    """`base`, the name of an expert, or `auto`: the base's, unless it has no chat template and all
    experts share one."""
    chat_template: str = AS_TOKENIZER
    """`tokenizer`: that of the same model; `base`, the name of an expert, or a Jinja text."""


class OutputTokenizer:
    """The tokenizer of merged models.

    Args:
        folders: folders of the models, the base under "".
        tokenizers: their tokenizers.
        aligned: the models with their rows aligned.
        choice: whose tokenizer and chat template.

    Raises:
        CheckpointError: a token has no row, or a row has another token.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        tokenizers: Tokenizers,
        aligned: Aligned,
        choice: TokenizerChoice,
    ) -> None:
        self._folders, self._tokenizers, self._choice = folders, tokenizers, choice
        self._ids, self._slots = aligned.ids, aligned.slots
        names = vocabulary_tensors(aligned.base)
        self._rows = min((aligned.base.infos[name].shape[0] for name in names), default=None)
        self._padded_rows = aligned.rows is not None and aligned.ids is None
        self.notes: list[str] = []
        """Lines about the choice, and about tokens that the merged model does not have."""
        self._templates = {name: read_templates(folder) for name, folder in folders.items()}
        self.giver = self._chosen()
        """The model that gives the tokenizer; the base is ""."""
        if problem := self._problem(self.giver):
            raise CheckpointError(problem)
        self.notes += self._token_notes()

    def write(self, folder: Path, config_giver: str = BASE) -> None:
        """Write the tokenizer into a folder that has the configs of a model."""
        giver, source = self.giver, self._folders[self.giver]
        model_files.copy_files(source, model_files.tokenizer_files(source), folder)
        tokenizer = self._tokenizers.get(giver)
        if tokenizer is not None and self._ids is not None and self._ids != tokenizer.ids:
            write_united(folder, giver, self._tokenizers, self._ids, self._slots)
        if giver != config_giver:
            write_ends(folder, source, tokenizer, self._moved)
        if self._choice.chat_template != AS_TOKENIZER:
            path = folder / TOKENIZER_CONFIG
            if path.is_file():
                config = without_template(read_json(path))
                text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
                path.write_text(text, encoding="utf-8")
            replace_templates(folder, self._chosen_templates(giver))

    def _chosen(self) -> str:
        """The model that gives the tokenizer."""
        if self._choice.tokenizer != AUTO:
            giver = _model(self._choice.tokenizer)
            folder = self._folders[giver]
            # An adapter that changed no token has no tokenizer beside it.
            plain = is_adapter(folder) and not model_files.tokenizer_files(folder)
            return BASE if plain else giver
        base = self._templates[BASE]
        experts = [name for name in self._folders if name != BASE]
        templates = [self._templates[name] for name in experts]
        with_template = [name for name in experts if self._templates[name]]
        if not with_template or all(named in ({}, base) for named in templates):
            return BASE
        decide = "the merge has the base's tokenizer; output.tokenizer: NAME decides otherwise"
        if base or any(named != templates[0] for named in templates):
            which = "differ from the base's" if base else "differ"
            self.notes.append(f"the chat templates of the experts {which}: {decide}")
            return BASE
        problems = {name: self._problem(name) for name in experts}
        for name in experts:
            if not problems[name]:
                self.notes.append(
                    f"tokenizer, chat template and end tokens are those of {label(name)}, because "
                    "the base has no chat template and the experts share one; output.tokenizer: "
                    "base decides otherwise"
                )
                return name
        self.notes.append(
            f"the chat template that the experts share is left out, because {problems[experts[0]]}"
        )
        return BASE

    def _problem(self, giver: str) -> str:
        """Why the tokenizer of a model does not fit the merged rows, or ""."""
        if not model_files.tokenizer_files(self._folders[giver]) and giver != BASE:
            return (
                f"{label(giver)} has no tokenizer files in {self._folders[giver]}; put its "
                "tokenizer there, or choose another output.tokenizer"
            )
        return self._row_problem(giver) or self._template_problem(giver)

    def _row_problem(self, giver: str) -> str:
        tokenizer = self._tokenizers.get(giver)
        if self._ids is not None or tokenizer is None or self._rows is None:
            return ""
        keep = "set output.vocabulary: union to keep them"
        without = sorted(self._without_row(giver), key=tokenizer.ids.__getitem__)
        if without and giver != BASE:
            named = listed(f"{token} (id {tokenizer.ids[token]})" for token in without)
            return (
                f"the tokenizer of {label(giver)} has tokens beyond the {self._rows} rows of the "
                f"merged model: {named}; {keep}"
            )
        for slot in self._slots:
            if tokenizer.tokens.get(slot.row) != slot.new:
                return (
                    f"{', '.join(map(label, slot.experts))} renamed token {slot.old} (id "
                    f"{slot.row}) {slot.new}, which the tokenizer of {label(giver)} lacks; set "
                    f"output.tokenizer: {slot.experts[0]}, or output.vocabulary: union"
                )
        slots = {slot.row for slot in self._slots}
        for row, tokens in shared_rows(self._tokenizers).items():
            if row < self._rows and row not in slots and giver in tokens:
                return f"{different_tokens(row, tokens)}; {keep}"
        stops = stop_ids(self._folders[giver], tokenizer) if giver != BASE else []
        if beyond := [number for number in stops if not 0 <= number < self._rows]:
            return (
                f"{label(giver)} stops at id {beyond[0]} (eos_token_id), but the merged model has "
                f"{self._rows} rows; {keep}"
            )
        return ""

    def _template_problem(self, giver: str) -> str:
        """A token that the chosen chat template writes and the merged tokenizer lacks."""
        if giver not in self._tokenizers:
            return ""
        text = "\n".join(self._chosen_templates(giver).values())
        known = {token for tokenizer in self._tokenizers.values() for token in tokenizer.added}
        ids = self._tokenizers[giver].ids if self._ids is None else self._ids
        missing = sorted(
            token
            for token in known
            if token in text and not token.isalnum() and not self._has(ids.get(token))
        )
        if not missing:
            return ""
        return (
            f"the chat template writes {listed(missing)}, which the merged model has no row and "
            "token for; set output.vocabulary: union, or choose another output.tokenizer or "
            "output.chat_template"
        )

    def _has(self, number: int | None) -> bool:
        return number is not None and (self._rows is None or number < self._rows)

    def _without_row(self, model: str) -> list[str]:
        return [
            token for token, number in self._tokenizers[model].ids.items() if not self._has(number)
        ]

    def _chosen_templates(self, giver: str) -> dict[str, str]:
        choice = self._choice.chat_template
        if is_template(choice):
            return {DEFAULT: choice}
        return self._templates[giver if choice == AS_TOKENIZER else _model(choice)]

    def _token_notes(self) -> list[str]:
        """Notes about tokens that the merged model has not, or has with a row that is mixed."""
        giver = self._tokenizers.get(self.giver)
        if giver is None or self._rows is None:
            return []
        notes = []
        if self._ids is None:
            if without := self._without_row(self.giver):
                notes.append(
                    f"the base's tokenizer has tokens without a row, as in the base itself: "
                    f"{listed(without)}"
                )
            old_names = {slot.old for slot in self._slots}
            for name, tokenizer in self._tokenizers.items():
                lost = sorted(
                    tokenizer.ids.keys() - giver.ids.keys() - old_names,
                    key=tokenizer.ids.__getitem__,
                )
                if lost:
                    tokens = listed(f"{token} (id {tokenizer.ids[token]})" for token in lost)
                    notes.append(
                        f"{label(name)}: not in the merged tokenizer: {tokens}; output.vocabulary: "
                        "union keeps them"
                    )
            mixed = [
                token
                for token in giver.added
                if self.giver != BASE
                and not any(
                    token in tokenizer.ids or giver.ids[token] in tokenizer.tokens
                    for name, tokenizer in self._tokenizers.items()
                    if name != self.giver
                )
            ]
            if mixed:
                notes.append(
                    f"only {label(self.giver)} has {listed(mixed)}: the rows are merged with "
                    "unused rows of the others; output.vocabulary: union keeps them as they are"
                )
        eos = giver.ids.get(giver.named.get("eos_token", ""))
        stops = stop_ids(self._folders[self.giver], giver)
        if self.giver != BASE and eos is not None and stops and eos not in stops:
            notes.append(
                f"the tokenizer of {label(self.giver)} ends texts with "
                f"{giver.named['eos_token']} (id {eos}), which is not among the ids that stop its "
                f"generation, {', '.join(map(str, stops))}"
            )
        return notes

    def _moved(self, number: int) -> int:
        """The id in the merged model of an id of the model that gives the tokenizer."""
        tokenizer = self._tokenizers.get(self.giver)
        if self._ids is None or tokenizer is None:
            return number
        names = {slot.old: slot.new for slot in self._slots}
        token = tokenizer.tokens.get(number, "")
        return self._ids.get(names.get(token, token), number)


def is_template(text: str) -> bool:
    """Whether a setting is the text of a template and not a name."""
    return "{" in text


def _model(name: str) -> str:
    return BASE if name == "base" else name
