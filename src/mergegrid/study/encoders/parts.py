"""Parts of a split in a random order, and what models predict for splits and parts of them."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mergegrid.hashing import digest
from mergegrid.stages import Libraries, union_of_versions
from mergegrid.study.runtime.journal import Journal


@dataclass(frozen=True)
class Part:
    """The first examples of a split in a random order, evaluated piece by piece.

    Example:
        >>> list(Part(seed=0, ends=(32, 64, 128)).pieces())
        [(0, 32), (32, 64), (64, 128)]
    """

    seed: int
    """Seed of the order."""
    ends: tuple[int, ...]
    """Number of examples after each piece."""

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.ends[-1]

    @property
    def added(self) -> int:
        """Number of examples of the last piece."""
        return self.size - (self.ends[-2] if len(self.ends) > 1 else 0)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Places in the order at which each piece starts and ends."""
        yield from (piece for piece in pairwise((0, *self.ends)) if piece[0] < piece[1])


def order_of(examples: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Positions of examples in the order of digests of the seed and their texts.

    So two examples come in the same order whatever else is in the table; of equal examples, the
    first comes with the digest of a first one.
    """
    repeats: dict[tuple[str, str | None], int] = {}
    keys = []
    for texts in zip(examples["text_a"], examples["text_b"], strict=True):
        repeats[texts] = repeats.get(texts, 0) + 1
        keys.append(digest([seed, *texts, repeats[texts]]))
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


@dataclass(frozen=True)
class Outcomes:
    """What a model predicts for some examples, in their order."""

    predictions: NDArray[Any]
    """Classes (int64) or numbers (float32)."""
    libraries: Libraries
    """Versions of the libraries behind them and the model."""


def joined(pieces: Sequence[Outcomes]) -> Outcomes:
    """Outcomes on several pieces, one after another."""
    return Outcomes(
        np.concatenate([piece.predictions for piece in pieces]),
        union_of_versions(piece.libraries for piece in pieces),
    )


class OutcomeStore:
    """Outcomes in a journal, keyed by everything that they depend on.

    A study may have thousands of models on thousands of examples, so predictions are packed: a
    class takes one byte, a number four.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path)

    def get(self, inputs: dict[str, Any]) -> Outcomes | None:
        """Return the outcomes stored for these inputs, if any."""
        packed = self._journal.get(inputs)
        if packed is None:
            return None
        values = np.frombuffer(base64.b64decode(packed["predictions"]), dtype=packed["dtype"])
        libraries = {name: tuple(versions) for name, versions in packed["libraries"].items()}
        kind = np.float32 if values.dtype.kind == "f" else np.int64
        return Outcomes(values.astype(kind), libraries)

    def add(self, inputs: dict[str, Any], outcomes: Outcomes) -> None:
        """Store outcomes permanently."""
        values = outcomes.predictions
        if values.dtype.kind == "f":
            values = values.astype("<f4")
        else:
            values = values.astype("<u1" if values.max(initial=0) < 256 else "<i4")
        packed = base64.b64encode(values.tobytes()).decode()
        libraries = {name: list(versions) for name, versions in outcomes.libraries.items()}
        self._journal.add(
            inputs, {"dtype": values.dtype.str, "predictions": packed, "libraries": libraries}
        )
