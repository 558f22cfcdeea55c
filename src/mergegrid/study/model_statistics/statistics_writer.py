"""Files of model statistics, written tensor by tensor."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from mergegrid import fsync
from mergegrid.checkpoints import safetensors_files
from mergegrid.checkpoints.checkpoint import TensorInfo
from mergegrid.checkpoints.model_statistics import STATISTICS
from mergegrid.checkpoints.writer import write_all
from mergegrid.errors import ConfigError
from mergegrid.hashing import canonical_json
from mergegrid.study.model_statistics.accumulator import stored_mean

#: Elements that are divided and rounded at a time.
_CHUNK = 1 << 22


class StatisticsWriter:
    """One file of float32 tensors; those that are not written are zero.

    Args:
        path: the file; a file that exists is replaced.
        infos: shapes of the tensors.
        contents: what the file holds; see `checkpoints.model_statistics`.

    Raises:
        ConfigError: the disk has too little free space.
    """

    def __init__(
        self, path: Path, infos: Mapping[str, TensorInfo], contents: Mapping[str, Any]
    ) -> None:
        self._infos = dict(infos)
        header = safetensors_files.header(
            self._infos, metadata={STATISTICS: canonical_json(dict(contents))}
        )
        self._offsets, end = {}, len(header)
        for name, info in self._infos.items():
            self._offsets[name] = end
            end += info.bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            fsync.allocate(self._descriptor, end)
        except OSError as error:
            os.close(self._descriptor)
            path.unlink()
            raise ConfigError(
                f"{path} needs {end / 1e6:,.0f} MB of disk space ({error.strerror}); free some "
                "space or write elsewhere"
            ) from error
        write_all(self._descriptor, header, 0)

    def __contains__(self, name: object) -> bool:
        return name in self._infos

    def write(self, name: str, sums: Tensor, count: int) -> None:
        """Write a float64 sum, divided by a count.

        Rows that the sum has beyond those of the tensor are left out.
        """
        flat = sums.reshape(-1)[: self._infos[name].count]
        for start in range(0, len(flat), _CHUNK):
            values = stored_mean(flat[start : start + _CHUNK], count).numpy()
            write_all(self._descriptor, values.view(np.uint8).data, self._offsets[name] + 4 * start)

    def __enter__(self) -> "StatisticsWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
