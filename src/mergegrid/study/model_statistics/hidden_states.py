"""Hidden states of all sequences, in a file without a name that ends with the process.

Blocks run one after the other over all sequences, so what a block returned is read again by the
next. On disk, the states take no memory, however many blocks, sequences and tokens there are.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mergegrid import fsync
from mergegrid.checkpoints.writer import write_all
from mergegrid.errors import ConfigError


class HiddenStates:
    """Float32 states [1, tokens, width] by slot and sequence.

    Args:
        folder: where the file is.
        slots: number of states of each sequence, such as one per block.
        lengths: number of tokens of each sequence.
        width: width of the states.

    Raises:
        ConfigError: the disk has too little free space.
    """

    def __init__(self, folder: Path, slots: int, lengths: Sequence[int], width: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._width = width
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        size = states_bytes(slots, lengths, width)
        try:
            fsync.allocate(self._file.fileno(), size)
        except OSError as error:
            self._file.close()
            raise ConfigError(
                f"hidden states need {size / 1e6:,.0f} MB of disk space in {folder} "
                f"({error.strerror}); free some space, or gather from fewer or shorter examples"
            ) from error

    def read(self, slot: int, sequence: int) -> Tensor:
        """The states of a sequence in a slot."""
        tokens = int(self._starts[sequence + 1] - self._starts[sequence])
        values = np.empty((1, tokens, self._width), np.float32)
        view, offset = values.view(np.uint8).reshape(-1).data, self._offset(slot, sequence)
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            view, offset = view[count:], offset + count
        return torch.from_numpy(values)

    def write(self, slot: int, sequence: int, states: Tensor) -> None:
        """Keep the states of a sequence in a slot."""
        values = states.detach().to("cpu", torch.float32).contiguous().numpy()
        write_all(
            self._file.fileno(),
            values.view(np.uint8).reshape(-1).data,
            self._offset(slot, sequence),
        )

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _offset(self, slot: int, sequence: int) -> int:
        before = slot * int(self._starts[-1]) + int(self._starts[sequence])
        return before * self._width * 4


def states_bytes(slots: int, lengths: Sequence[int], width: int) -> int:
    """Size of the file of hidden states."""
    return slots * sum(lengths) * width * 4
