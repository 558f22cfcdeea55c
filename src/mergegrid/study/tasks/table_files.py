"""Read a table of examples: CSV, TSV, JSON, Parquet, or lines of text with a pattern.

Values stay as they are written. A field of CSV, TSV or a line of text is text, including `007`,
`1.10`, `None` and `NA`; JSON and Parquet keep their own types. Only `null`, and a key that a JSON
record lacks, become None.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import pandas as pd
import pyarrow.parquet

from mergegrid.errors import DataError
from mergegrid.study.schema.tasks import Format, Table
from mergegrid.study.tasks.hub_splits import split_files

Columns = dict[str, list[Any]]
"""The cells of a file by column."""

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_QUOTED = re.compile(r'"(?:[^"]*"")+[^"]*"')
_HELP = (
    "if the separator is not a comma (csv) or tab (tsv), or a field contains a separator or line "
    "break, convert the table to JSON lines or Parquet"
)


def read_table(table: Table, path: Path) -> pd.DataFrame:
    """Read the configured rows of a table from the files below the fetched `path`.

    Returns:
        A column of Python objects per name; missing values are None.

    Raises:
        DataError: no file matches, a file is not in its format, two columns have one name, or a
            line does not match the pattern.
    """
    files = split_files(table, path) if table.split else _files(table, path)
    parts = [_read(file, table) for file in files]
    columns = {
        name: pd.Series(
            [
                value
                for part in parts
                for value in part.get(name, [None] * len(next(iter(part.values()), [])))
            ],
            # Cells may be lists, and integers with gaps must not become floats.
            dtype="object",
        )
        for name in dict.fromkeys(name for part in parts for name in part)
    }
    start, stop = (int(bound) if bound else None for bound in table.rows.split(":"))
    return pd.DataFrame(columns).iloc[start:stop].reset_index(drop=True)


def text_column(table: Table, frame: pd.DataFrame, column: str) -> list[str | None]:
    """Return the texts of a column; None for missing ones.

    Raises:
        DataError: the column does not exist, or has a value that is not text, such as a boolean, a
            list, or a number with a fraction, whose original spelling is unknown.
    """
    texts: list[str | None] = []
    for row, value in enumerate(values_of(table, frame, column)):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not (value is None or isinstance(value, str)):
            raise DataError(
                f"{row_name(table, row)}: text column {column!r} has the value {value!r}, which is "
                f"{type(value).__name__}, not text; store texts as strings, or choose another "
                "column"
            )
        texts.append(value)
    return texts


def values_of(table: Table, frame: pd.DataFrame, column: str) -> list[Any]:
    """Return the values of a column.

    Raises:
        DataError: the column does not exist.
    """
    if column not in frame:
        raise DataError(
            f"{table.source} has no column {column!r}; choose one of {', '.join(map(str, frame))}"
        )
    return frame[column].tolist()


def row_name(table: Table, row: int) -> str:
    """Name a row of a table for messages; row 0 is called row 1."""
    part = "" if table.rows == ":" else f" of the rows {table.rows}"
    return f"row {row + 1}{part} of {table.source}"


def _files(table: Table, path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if table.files is None:
        names = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise DataError(
            f"{table.source} is a folder ({names}); set `files` to the names of the files to read"
        )
    files = sorted(path.glob(table.files))
    if not files:
        names = ", ".join(sorted(str(file.relative_to(path)) for file in path.rglob("*.*"))[:8])
        raise DataError(
            f"no file of {table.source} matches {table.files}; it contains {names}; correct `files`"
        )
    return files


def _read(file: Path, table: Table) -> Columns:
    kind = table.format if table.format != "auto" else _SUFFIXES.get(file.suffix)
    if kind == "lines" and table.pattern:
        return _read_lines(file, re.compile(table.pattern), table.encoding)
    try:
        if kind == "csv":
            return _read_fields(file, table.encoding, ",")
        if kind == "tsv":
            return _read_fields(file, table.encoding, "\t")
        if kind == "json":
            return _read_json(file, table.encoding)
        if kind == "jsonl":
            return _read_json_lines(file, table.encoding)
        if kind == "parquet":
            return _read_parquet(file)
    except DataError as error:
        raise DataError(f"{file} cannot be read as {kind}: {error}") from error
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be read as {kind}: {error}; set `format` or `encoding`"
        ) from error
    raise DataError(
        f"unknown format of {file.name}; set `format` to csv, tsv, json, jsonl, parquet or lines"
    )


def _read_fields(file: Path, encoding: str, separator: str) -> Columns:
    with _open_text(file, encoding, newline="") as opened:
        text = opened.read()
    if separator == "\t" and not _quotes_fields(text):
        # A quotation mark is an ordinary character, as in the TSV files of GLUE.
        header, *rows = _rows(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        header, *rows = _rows(text, delimiter=separator, strict=True)
    names = [name.strip() for name in header]
    return _columns(names, [[row[at] for row in rows] for at in range(len(header))])


def _rows(text: str, **dialect: Any) -> Iterator[list[str]]:
    """Yield the rows of a text without blank lines; all must have as many fields as the first."""
    # Lines end in one way throughout the text: any other line end inside a field is an error.
    lines = io.StringIO(text, newline="\n" if "\n" in text else "\r")
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, **dialect)
    width = None
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            what = str(error)
            if what.startswith("new-line character"):
                what = "a carriage return in a field without quotation marks"
            raise DataError(f"line {start}: {what}; {_HELP}") from error
        if row is None:
            break
        if not row:
            continue
        width = width or len(row)
        if len(row) != width:
            raise DataError(
                f"line {start} has {len(row)} fields instead of {width}: {', '.join(row)[:80]!r}; "
                f"{_HELP}"
            )
        yield row
    if width is None:
        raise ValueError("the file is empty")


def _quotes_fields(text: str) -> bool:
    """Tell whether a TSV quotes exactly the fields with a quotation mark, as pandas writes them."""
    marked = [field for field in re.split(r"[\t\r\n]", text) if '"' in field]
    # An empty line of a table with one column is written as "" as well.
    quoted = [field for field in marked if field != '""']
    return bool(quoted) and all(_QUOTED.fullmatch(field) for field in quoted)


def _read_json(file: Path, encoding: str) -> Columns:
    with _open_text(file, encoding) as lines:
        content = json.load(lines)
    if isinstance(content, list):
        return _records({f"record {at}": record for at, record in enumerate(content, start=1)})
    if not isinstance(content, dict):
        raise ValueError(f"it is {type(content).__name__} instead of a list of records")
    columns = {
        # pandas writes a table as {"text": {"0": "good", "1": "bad"}}.
        name: list(column.values()) if isinstance(column, dict) else column
        for name, column in content.items()
    }
    if len({tuple(column) for column in content.values() if isinstance(column, dict)}) > 1:
        raise ValueError("its columns have different row names")
    if any(not isinstance(column, list) for column in columns.values()):
        raise ValueError("it is one object whose values are not columns")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("its columns differ in length")
    return columns


def _read_json_lines(file: Path, encoding: str) -> Columns:
    records = {}
    with _open_text(file, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    records[f"line {number}"] = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
    return _records(records)


def _records(records: dict[str, Any]) -> Columns:
    """Turn records, by their name in messages, into columns."""
    for place, record in records.items():
        if not isinstance(record, dict):
            raise ValueError(f"{place} is {type(record).__name__} instead of an object")
    names = dict.fromkeys(name for record in records.values() for name in record)
    return {name: [record.get(name) for record in records.values()] for name in names}


def _read_parquet(file: Path) -> Columns:
    # Not with pandas, which turns a column of integers or booleans with gaps into floats.
    content = pyarrow.parquet.ParquetFile(file).read()
    return _columns(content.column_names, [column.to_pylist() for column in content.columns])


def _columns(names: Sequence[str], columns: Sequence[list[Any]]) -> Columns:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise ValueError(f"two columns have the name {repeated[0]!r}")
    return dict(zip(names, columns, strict=True))


def _read_lines(file: Path, pattern: re.Pattern[str], encoding: str) -> Columns:
    rows = []
    with _open_text(file, encoding) as lines:
        for number, line in enumerate((line.rstrip("\n") for line in lines), start=1):
            match = pattern.fullmatch(line)
            if match is None:
                raise DataError(
                    f"line {number} of {file.name} does not match the pattern "
                    f"{pattern.pattern!r}: {line[:80]!r}; correct the pattern"
                )
            rows.append(match.groupdict())
    return {name: [row[name] for row in rows] for name in pattern.groupindex}


@contextmanager
def _open_text(file: Path, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file, compressed or not, and skip a byte-order mark."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    opener = _COMPRESSED.get(file.suffix, open)
    with opener(file, "rt", encoding=encoding, newline=newline) as opened:
        yield cast(TextIO, opened)
