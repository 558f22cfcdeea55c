"""The errors a user can meet: each says what was found, where, and what to do."""


class MergegridError(Exception):
    """Base of every error that mergegrid raises on purpose."""


class ConfigError(MergegridError):
    """The configuration asks for something that cannot be done."""


class SourceError(MergegridError):
    """A model or a data set could not be fetched, or is not what was pinned."""


class CheckpointError(MergegridError):
    """A checkpoint is damaged, incomplete, or not homologous with its base."""


class DataError(MergegridError):
    """A table of examples does not fit its task."""
