"""Errors the user can fix. Each message says what is wrong, where, and what to do."""

from pathlib import Path


class MergegridError(Exception):
    """Base class of every error that mergegrid raises deliberately."""


class ConfigError(MergegridError):
    """The configuration is invalid or asks for something impossible."""


class MissingLibraryError(ConfigError):
    """A library that the work needs is not installed."""

    def __init__(self, library: str, extra: str, alternative: str = "") -> None:
        super().__init__(
            f'{library} is not installed; install it with: pip install "mergegrid[{extra}]"'
            + (f", or {alternative}" if alternative else "")
        )


class SourceError(MergegridError):
    """A model or data set could not be fetched, or differs from what was pinned."""


class CheckpointError(MergegridError):
    """A checkpoint is damaged, incomplete, or not homologous with its base."""


class HeadersOnlyError(CheckpointError):
    """Data was requested of a model of which only the headers have been downloaded."""


class DamagedError(CheckpointError):
    """The contents of a published folder differ from its manifest."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder
        """The folder to rebuild."""


class DataError(MergegridError):
    """A table of examples does not fit its task."""
