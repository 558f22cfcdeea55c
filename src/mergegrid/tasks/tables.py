"""Reading a table of examples: CSV, TSV, JSON, Parquet, or lines of text with a pattern."""

import re
from pathlib import Path

import pandas as pd

from mergegrid.config.tasks import Format, Table
from mergegrid.errors import DataError

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}


def read_table(table: Table, path: Path) -> pd.DataFrame:
    """Read the rows that a table of the configuration names, below the fetched `path`.

    Raises:
        DataError: no file matches, a file is not of its format, or a line breaks the pattern.
    """
    frames = [_read(file, table) for file in _files(table, path)]
    return pd.concat(frames, ignore_index=True).iloc[_slice(table.rows)].reset_index(drop=True)


def _files(table: Table, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if table.files is None:
        found = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise DataError(
            f"{table.source} is a folder ({found}); name the files to read with `files`"
        )
    files = sorted(path.glob(table.files))
    if not files:
        found = ", ".join(sorted(str(file.relative_to(path)) for file in path.rglob("*.*"))[:8])
        raise DataError(f"{table.source} has no file {table.files}; it holds {found}")
    return files


def _read(file: Path, table: Table) -> pd.DataFrame:
    kind = table.format if table.format != "auto" else _SUFFIXES.get(file.suffix)
    try:
        if kind == "csv":
            return pd.read_csv(file, encoding=table.encoding)
        if kind == "tsv":
            return pd.read_csv(file, sep="\t", quoting=3, encoding=table.encoding)
        if kind in ("json", "jsonl"):
            # Values stay as they are written: no dates, no numbers out of texts.
            return pd.read_json(
                file,
                lines=kind == "jsonl",
                encoding=table.encoding,
                dtype=False,
                convert_dates=False,
            )
        if kind == "parquet":
            return pd.read_parquet(file)
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read as {kind}: {error}; set `format`") from error
    if kind == "lines" and table.pattern:
        return _read_lines(file, re.compile(table.pattern), table.encoding)
    raise DataError(
        f"the format of {file.name} is not clear from its name; "
        "set `format` to csv, tsv, json, jsonl, parquet or lines"
    )


def _read_lines(file: Path, pattern: re.Pattern[str], encoding: str) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(file.read_text(encoding=encoding).splitlines(), start=1):
        match = pattern.fullmatch(line)
        if match is None:
            raise DataError(
                f"line {number} of {file.name} does not fit the pattern {pattern.pattern!r}: "
                f"{line[:80]!r}; correct the pattern"
            )
        rows.append(match.groupdict())
    return pd.DataFrame(rows)


def _slice(rows: str) -> slice:
    start, stop = (int(bound) if bound else None for bound in rows.split(":"))
    return slice(start, stop)
