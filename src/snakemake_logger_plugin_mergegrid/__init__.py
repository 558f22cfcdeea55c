"""Where Snakemake finds the logger of mergegrid: packages with such a name are its plugins."""

from mergegrid.study.live.handler import LogHandler, LogHandlerSettings

__all__ = ["LogHandler", "LogHandlerSettings"]
