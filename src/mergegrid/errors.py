"""The errors a user can meet: each says what was found, where, and what to do."""

from pathlib import Path


class MergegridError(Exception):
    """Base of every error that mergegrid raises on purpose."""


class ConfigError(MergegridError):
    """The configuration asks for something that cannot be done."""


class SourceError(MergegridError):
    """A model or a data set could not be fetched, or is not what was pinned."""


class CheckpointError(MergegridError):
    """A checkpoint is damaged, incomplete, or not homologous with its base."""


class DamagedError(CheckpointError):
    """A published folder does not hold what its manifest says."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder
        """The whole of it, which must be made again."""


class DataError(MergegridError):
    """A table of examples does not fit its task."""
