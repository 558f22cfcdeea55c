"""Data of a study that lie on this machine, read as its jobs will read them.

A column that does not exist, an unknown label or an empty split is thus found before a run.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergegrid.checkpoints.sources.source import PathOrigin, SourceConfig
from mergegrid.errors import DataError
from mergegrid.study.finetuning.instruction_examples import prepare_instructions
from mergegrid.study.schema.study import Study
from mergegrid.study.tasks.examples import SPLITS, prepare
from mergegrid.study.tasks.questions import prepare_questions


def check_local_data(study: Study) -> None:
    """Read the tasks, benchmarks and instructions of which all files lie on this machine.

    Raises:
        DataError: one cannot be prepared; the message begins with its key.
    """
    if study.encoders:
        for name, task in study.encoders.tasks.items():
            paths = {split: _local(getattr(task, split)) for split in SPLITS}
            tables = {split: path for split, path in paths.items() if getattr(task, split)}
            if all(tables.values()):
                _read(f"encoders.tasks.{name}", prepare, task, tables)
    if study.decoders:
        for name, benchmark in study.decoders.benchmarks.items():
            if path := _local(benchmark.records):
                _read(f"decoders.benchmarks.{name}", prepare_questions, benchmark, path)
        for family_name, family in study.decoders.families.items():
            for name, expert in family.experts.items():
                if expert.data and (path := _local(expert.data.records)):
                    key = f"decoders.families.{family_name}.experts.{name}.data"
                    _read(key, prepare_instructions, expert.data, path)


def _local(source: SourceConfig | None) -> Path | None:
    """Path of a file or folder of this machine; None for other sources."""
    if source and isinstance(origin := source.origin, PathOrigin):
        return Path(origin.path)
    return None


def _read(key: str, prepared: Callable[..., Any], *arguments: Any) -> None:
    try:
        with _warnings_only(key):
            prepared(*arguments)
    except DataError as error:
        raise DataError(f"{key}: {error}") from error


@contextmanager
def _warnings_only(key: str) -> Iterator[None]:
    """Have messages begin with a key, and drop those that are no warnings."""

    def named(record: logging.LogRecord) -> bool:
        record.msg = f"{key}: {record.msg}"
        return record.levelno >= logging.WARNING

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(named)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(named)
