"""Configurations and splits of data sets laid out as on the Hugging Face hub.

The library `datasets` knows which files belong to a split: by the `configs:` of the README, else by
file names. Only that is asked of it; `table_files` reads the files. The library's own readers turn
texts such as `NA` into missing values, `007` into 7 and dates into timestamps, keep a second copy
of every table, and miss a change that leaves the time of a file as it was.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet

from mergegrid.checkpoints.front_matter import front_matter
from mergegrid.errors import DataError
from mergegrid.study.schema.tasks import Table

_PART = re.compile(r"(-\d{5}-of-\d{5})?(\.[^/]*)?$")


def split_files(table: Table, folder: Path) -> list[Path]:
    """The files of the configured split of a data set, in order.

    Raises:
        DataError: the folder has no such configuration or split, or file names do not tell which
            files belong to it.
    """
    data_files = _builder(table, folder).config.data_files
    if table.split not in data_files:
        raise DataError(
            f"{_name(table)} has no split {table.split!r}; choose one of "
            f"{', '.join(map(str, data_files))}"
        )
    files = [Path(file) for file in data_files[table.split]]
    names = sorted({_PART.sub("", file.name) for file in files})
    if len(names) > 1 and "configs" not in front_matter(folder):
        # `datasets` takes validation_matched and validation_mismatched for one split.
        raise DataError(
            f"the split {table.split!r} of {_name(table)} would join {', '.join(names)}; choose "
            "with `files` instead, such as `files: "
            f"{names[0]}*`"
        )
    return files


def class_names(table: Table, folder: Path, column: str) -> list[str] | None:
    """The names of the classes 0, 1, ... in a column of a split, if the data set has some."""
    builder = _builder(table, folder)
    features: Mapping[str, Any] | None = builder.info.features
    if features is None:
        from datasets import Features

        (file, *_) = split_files(table, folder)
        if file.suffix != ".parquet":
            return None
        features = Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    names = getattr(features.get(column), "names", None)
    return list(names) if names else None


def _builder(table: Table, folder: Path) -> Any:
    # Importing it takes seconds; only tables with a split need it.
    from datasets import load_dataset_builder

    if not folder.is_dir():
        raise DataError(f"{table.source} is a file, which has no splits; remove `split`")
    with TemporaryDirectory() as cache:
        try:
            return load_dataset_builder(str(folder), table.config, cache_dir=cache)
        except (ValueError, RuntimeError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise DataError(
                f"{_name(table)} cannot be read as a data set: {' '.join(lines[:2])}; correct "
                "`config`, or choose files with `files` instead of `split`"
            ) from error


def _name(table: Table) -> str:
    return f"{table.source} ({table.config})" if table.config else table.source
