"""The union of vocabularies: every token of any model, each row aligned by its token.

| token is in | row of the base | row of an expert without it |
| --- | --- | --- |
| the base | the base's | the base's, so that its delta is 0 |
| one expert | that expert's | the same; the merged row is exactly that of the expert |
| several experts | the mean of theirs | the mean, so that its delta is 0 |

Settings may give other sources for single tokens.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mergegrid.checkpoints.checkpoint import Checkpoint, InMemory, TensorInfo
from mergegrid.checkpoints.dtypes import DTYPES, Floats
from mergegrid.checkpoints.row_mapping import RowMapped, filled, runs
from mergegrid.checkpoints.token_alignment import BASE, Renamed, Tokenizers, label
from mergegrid.errors import CheckpointError, ConfigError, HeadersOnlyError
from mergegrid.settings import Settings

Row = tuple[Checkpoint, int]
"""A row of every tensor with a row per token: the model that holds it, and its index there."""


class TokenRow(Settings):
    """Where the embedding row of a token comes from."""

    source: str
    """A model, `base` or the name of an expert, or `zero`."""
    token: str | None = None
    """Another token of that model, whose row is taken; by default the token itself."""
    token_id: int | None = None
    """The row that is taken, by its index instead of its token."""
    force: bool = False
    """Whether all models get this row, so that the merged model has exactly it; otherwise only
    models without the token do."""


class UnionRows:
    """The models of a merge with the rows of the union of their vocabularies.

    Args:
        models: the models, the base under "".
        tokenizers: their tokenizers; an expert without one has the base's.
        names: tensors with a row per token.
        ids: ids of the union.
        slots: slots of the base that experts renamed.
        sources: sources of single tokens.

    Raises:
        CheckpointError: a token has no row in any model.
        ConfigError: a source has no such token or row.
    """

    def __init__(
        self,
        models: Mapping[str, Checkpoint],
        tokenizers: Tokenizers,
        names: Sequence[str],
        ids: Mapping[str, int],
        slots: Sequence[Renamed],
        sources: Mapping[str, TokenRow],
    ) -> None:
        self._models, self._names, self._ids = models, names, ids
        self._tokenizers = {name: tokenizers.get(name, tokenizers[BASE]) for name in models}
        self._old_names = {slot.new: slot.old for slot in slots}
        self._counts = {name: model.infos[names[0]].shape[0] for name, model in models.items()}
        self.rows = max(self._counts[BASE], max(ids.values(), default=-1) + 1)
        """Rows of the merged model."""
        self._tokens = {number: token for token, number in ids.items()}
        added = {token for tokenizer in self._tokenizers.values() for token in tokenizer.added}
        special = [token for token in ids if token in added or token in sources]
        self._forced = {token for token, row in sources.items() if row.force}
        self._sources = {token: self._source(token, row) for token, row in sources.items()}
        shared = [token for token in special if self._needs_mean(token)]
        means = InMemory(
            {name: np.stack([self._mean(name, token) for token in shared]) for name in names}
            if shared
            else {}
        )
        self._defaults = {token: self._default(token) for token in special} | {
            token: (means, number) for number, token in enumerate(shared)
        }
        self.base = self._mapped(BASE, models[BASE])
        """The base with the rows of the union."""
        self.experts = {name: self._mapped(name, self.base) for name in models if name != BASE}
        """The experts with the rows of the union."""
        self.kept = runs(
            {ids[token]: self._defaults[token] for token in special if self._is_kept(token)}
        )
        """Rows that the merged model has exactly as their source does."""

    def _row(self, model: str, token: str) -> Row | None:
        """The row of a token in a model that has it."""
        ids = self._tokenizers[model].ids
        number = ids.get(token, ids.get(self._old_names.get(token, token)))
        if number is None or number >= self._counts[model]:
            return None
        return self._models[model], number

    def _holders(self, token: str) -> list[Row]:
        """The rows of a token in the experts that have it, in the order of their names."""
        rows = (self._row(name, token) for name in sorted(self._models.keys() - {BASE}))
        return [row for row in rows if row is not None]

    def _needs_mean(self, token: str) -> bool:
        known = token in self._sources or self._row(BASE, token) is not None
        return not known and len(self._holders(token)) > 1

    def _mean(self, name: str, token: str) -> Floats:
        """The mean row of a token in the experts that have it: sums in float64, then rounded."""
        rows = [_read_row(model, name, number) for model, number in self._holders(token)]
        return np.asarray(np.mean(rows, axis=0, dtype=np.float64), np.float32)

    def _default(self, token: str) -> Row:
        """The row of a token for models that lack it, unless that is a mean.

        Raises:
            CheckpointError: no model has a row for it.
        """
        rows = [self._sources.get(token), self._row(BASE, token), *self._holders(token)]
        row = next((row for row in rows if row is not None), None)
        if row is None:
            raise CheckpointError(
                f"token {token} has no row in any model: its id is beyond their embeddings; remove "
                "it from the tokenizer, or give it a row by output.tokens, as {source: zero}"
            )
        return row

    def _source(self, token: str, row: TokenRow) -> Row:
        """The row that the settings name.

        Raises:
            ConfigError: there is no such model, token or row.
        """
        where = f"output.tokens: {token}"
        if row.source == "zero":
            return InMemory(
                {name: np.zeros((1, *self._shape(name)), np.float32) for name in self._names}
            ), 0
        model = BASE if row.source == "base" else row.source
        if model not in self._models:
            raise ConfigError(
                f"{where}: source {row.source!r} is not a model; choose base, zero or one of "
                f"{', '.join(sorted(self._models.keys() - {BASE}))}"
            )
        name = row.token or token
        number = self._tokenizers[model].ids.get(name) if row.token_id is None else row.token_id
        if number is None:
            raise ConfigError(f"{where}: {label(model)} has no token {name}; choose another source")
        if not 0 <= number < self._counts[model]:
            raise ConfigError(
                f"{where}: {label(model)} has {self._counts[model]} rows, so none for id {number}; "
                "choose another source"
            )
        return self._models[model], number

    def _is_kept(self, token: str) -> bool:
        """Whether all models that have a token have the row that the others get."""
        rows = [self._row(BASE, token), *self._holders(token)]
        default = self._defaults[token]
        return token in self._forced or all(_same(row, default) for row in rows if row)

    def _mapped(self, model: str, base: Checkpoint) -> Checkpoint:
        """A model with the rows of the union; `base` has those that it lacks."""
        checkpoint, count = self._models[model], self._counts[model]
        special = {self._ids[token] for token in self._defaults}
        special |= self._tokenizers[model].added_ids
        special |= set(range(min(count, self._counts[BASE]), self.rows))
        places = {row: self._place(model, row, base) for row in sorted(special) if row < self.rows}
        if count == self.rows and all(
            _same(place, (checkpoint, row)) for row, place in places.items()
        ):
            return checkpoint
        infos = {name: self._info(checkpoint, name) for name in self._names}
        return RowMapped(checkpoint, infos, filled(runs(places), checkpoint, self.rows))

    def _place(self, model: str, row: int, base: Checkpoint) -> Row:
        """Where a row of the union is read from in a model."""
        token = self._tokens.get(row)
        if token is None:
            # Rows without a token, which only fill up the matrix.
            unused = row < self._counts[model] and row not in self._tokenizers[model].tokens
            return (self._models[model], row) if unused else (base, row)
        if token in self._forced:
            return self._defaults[token]
        if row_there := self._row(model, token):
            return row_there
        if model == BASE or token in self._sources:
            return self._defaults[token]
        return base, row

    def _info(self, checkpoint: Checkpoint, name: str) -> TensorInfo:
        """Shape and dtype of a mapped tensor: float32 where its dtype might round the base's."""
        dtype = checkpoint.infos[name].dtype
        if dtype != self._models[BASE].infos[name].dtype:
            dtype = DTYPES["float32"]
        return TensorInfo((self.rows, *self._shape(name)), dtype)

    def _shape(self, name: str) -> tuple[int, ...]:
        """Shape of one row."""
        return self._models[BASE].infos[name].shape[1:]


def _same(one: Row, other: Row) -> bool:
    # Comparing checkpoints with == would read them.
    return one[0] is other[0] and one[1] == other[1]


def _read_row(checkpoint: Checkpoint, name: str, number: int) -> Floats:
    """One row of a tensor as float32, in its shape."""
    info = checkpoint.infos[name]
    one = TensorInfo((1, *info.shape[1:]), DTYPES["float32"])
    view = RowMapped(checkpoint, {name: one}, runs({0: (checkpoint, number)}))
    try:
        row: Floats = view[name][0]
    except HeadersOnlyError:
        # Nothing is read before the data are there, and then this is computed again.
        return np.zeros(info.shape[1:], np.float32)
    return row
