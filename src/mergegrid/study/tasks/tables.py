"""Reading a table of examples: CSV, TSV, JSON, Parquet, or lines of text with a pattern.

Values stay as they are written. A field of CSV, TSV or a line of text is text, `007`, `1.10`,
`None` and `NA` included; JSON and Parquet keep their own types. Only `null`, and a key that a JSON
record lacks, are None.
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

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
}
Columns = dict[str, list[Any]]
"""The cells of a file, column by column."""

_QUOTED = re.compile(r'"(?:[^"]*"")+[^"]*"')
_HELP = (
    "where the separator is no comma (csv) or tab (tsv), or a field holds one or a line break, "
    "write the table as JSON lines or Parquet"
)
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_table(table: Table, path: Path) -> pd.DataFrame:
    """Read the rows that a table of the configuration names, below the fetched `path`.

    Returns:
        A column of Python objects per name; missing values are None.

    Raises:
        DataError: no file matches, a file is not of its format, two columns have one name, or a
            line breaks the pattern.
    """
    parts = [_read(file, table) for file in _files(table, path)]
    columns = {
        name: pd.Series(
            [value for part in parts for value in part.get(name, [None] * _length(part))],
            # Cells may be lists, and integers with a gap must not become floats.
            dtype="object",
        )
        for name in dict.fromkeys(name for part in parts for name in part)
    }
    return pd.DataFrame(columns).iloc[_slice(table.rows)].reset_index(drop=True)


def text_column(table: Table, frame: pd.DataFrame, column: str) -> list[str | None]:
    """The texts of a column; None where a row has none.

    Raises:
        DataError: there is no such column, or it holds something else than text: a number with a
            fraction, for which no one knows how it was written, a boolean, or a list.
    """
    texts: list[str | None] = []
    for row, value in enumerate(values_of(table, frame, column)):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not (value is None or isinstance(value, str)):
            raise DataError(
                f"{place(table, row)}: the text column {column!r} holds {value!r}, which is "
                f"{type(value).__name__} and not text; write texts as strings, or name another "
                "column"
            )
        texts.append(value)
    return texts


def values_of(table: Table, frame: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column.

    Raises:
        DataError: there is no such column.
    """
    if column not in frame:
        raise DataError(
            f"{table.source} has no column {column!r}; it has {', '.join(map(str, frame))}"
        )
    return frame[column].tolist()


def place(table: Table, row: int) -> str:
    """A row of a table as messages name it, the first being row 1."""
    part = "" if table.rows == ":" else f" of the rows {table.rows}"
    return f"row {row + 1}{part} of {table.source}"


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
        f"the format of {file.name} is not clear from its name; "
        "set `format` to csv, tsv, json, jsonl, parquet or lines"
    )


def _read_fields(file: Path, encoding: str, separator: str) -> Columns:
    with _text(file, encoding, newline="") as opened:
        text = opened.read()
    if separator == "\t" and not _quoted_by_a_writer(text):
        # Elsewhere a quotation mark in TSV is a character like any other, as in GLUE.
        header, *rows = _rows(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        header, *rows = _rows(text, delimiter=separator, strict=True)
    return _named(
        [name.strip() for name in header], [[row[at] for row in rows] for at in range(len(header))]
    )


def _rows(text: str, **dialect: Any) -> Iterator[list[str]]:
    """The rows of a text, all of as many fields as the first has; blank lines are left out."""
    # One kind of line end for all of the text: another one within a field is a fault.
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
                what = "a carriage return within a field that stands in no quotation marks"
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
        raise ValueError("it is empty")


def _quoted_by_a_writer(text: str) -> bool:
    """Whether a TSV quotes each field that holds a quotation mark, and no other, as pandas does."""
    marked = [field for field in re.split(r"[\t\r\n]", text) if '"' in field]
    # An empty line of a table with one column is written as "" as well.
    quoted = [field for field in marked if field != '""']
    return bool(quoted) and all(_QUOTED.fullmatch(field) for field in quoted)


def _read_json(file: Path, encoding: str) -> Columns:
    with _text(file, encoding) as lines:
        content = json.load(lines)
    if isinstance(content, list):
        return _records(content, "record {}")
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__} instead of a list of records")
    columns = {
        # As pandas writes a table: {"text": {"0": "good", "1": "bad"}}.
        name: list(column.values()) if isinstance(column, dict) else column
        for name, column in content.items()
    }
    if len({tuple(column) for column in content.values() if isinstance(column, dict)}) > 1:
        raise ValueError("its columns name other rows")
    if any(not isinstance(column, list) for column in columns.values()):
        raise ValueError("it is one object whose values are not columns")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("its columns differ in length")
    return columns


def _read_json_lines(file: Path, encoding: str) -> Columns:
    records, numbers = [], []
    with _text(file, encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                numbers.append(number)
    return _records(records, "line {}", numbers)


def _records(records: Sequence[Any], naming: str, numbers: Sequence[int] = ()) -> Columns:
    for at, record in enumerate(records):
        if not isinstance(record, dict):
            where = naming.format(numbers[at] if numbers else at + 1)
            raise ValueError(f"{where} is {type(record).__name__} instead of an object")
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _read_parquet(file: Path) -> Columns:
    # Not by pandas, for which a column of integers or booleans with a gap is one of floats.
    found = pyarrow.parquet.ParquetFile(file).read()
    return _named(found.column_names, [column.to_pylist() for column in found.columns])


def _named(names: Sequence[str], columns: Sequence[list[Any]]) -> Columns:
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"two columns are called {twice[0]!r}")
    return dict(zip(names, columns, strict=True))


def _read_lines(file: Path, pattern: re.Pattern[str], encoding: str) -> Columns:
    rows = []
    with _text(file, encoding) as lines:
        for number, line in enumerate((line.rstrip("\n") for line in lines), start=1):
            match = pattern.fullmatch(line)
            if match is None:
                raise DataError(
                    f"line {number} of {file.name} does not fit the pattern {pattern.pattern!r}: "
                    f"{line[:80]!r}; correct the pattern"
                )
            rows.append(match.groupdict())
    return {name: [row[name] for row in rows] for name in pattern.groupindex}


@contextmanager
def _text(file: Path, encoding: str, newline: str | None = None) -> Iterator[TextIO]:
    """An open text file, without the mark of byte order that some editors write first."""
    own = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    with _COMPRESSED.get(file.suffix, open)(file, "rt", encoding=own, newline=newline) as opened:
        yield cast(TextIO, opened)


def _length(part: Columns) -> int:
    return len(next(iter(part.values()), []))


def _slice(rows: str) -> slice:
    start, stop = (int(bound) if bound else None for bound in rows.split(":"))
    return slice(start, stop)
