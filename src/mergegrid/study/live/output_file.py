"""What jobs print while a screen is drawn: kept in a file, away from the drawing."""

import os
import sys
from pathlib import Path
from typing import TextIO

#: File descriptors of standard output and standard error.
_STREAMS = (1, 2)


class OutputFile:
    """Leads standard output and error of this process, and so of its jobs, to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: dict[int, int] = {}

    @property
    def path(self) -> str:
        """The file."""
        return str(self._path)

    def redirect(self) -> TextIO:
        """Lead both streams to the file; a stream to what standard error led to before."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        encoding = sys.stderr.encoding
        terminal = os.fdopen(os.dup(2), "w", encoding=encoding, errors="replace")
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in _STREAMS:
            self._kept[stream] = os.dup(stream)
            os.dup2(file, stream)
        os.close(file)
        return terminal

    def restore(self) -> None:
        """Undo `redirect`; an empty file is removed."""
        if not self._kept:
            return
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, kept in self._kept.items():
            os.dup2(kept, stream)
            os.close(kept)
        self._kept = {}
        if self._path.is_file() and not self._path.stat().st_size:
            self._path.unlink()
