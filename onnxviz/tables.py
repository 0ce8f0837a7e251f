"""Tables of results: CSV, JSON and Parquet from the same columns.

A table is a mapping from a column's name to its cells, one entry a row: lists or one-dimensional arrays of one
length. Cells are numbers, truth values, text or None.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from onnxviz.errors import MissingDependency, UsageError, near
from onnxviz.text import json_bytes, visible

Columns = Mapping[str, Sequence[Any] | np.ndarray]

#: What a table file can be; the file's extension is the same word.
KINDS: Final = ("csv", "json", "parquet")
# A spreadsheet runs a cell that starts with one of these as a formula, even one that another program wrote; the
# full-width forms are taken for the plain ones where East Asian input is usual.
_ACTIVE: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_JSON_SCHEMA: Final = "onnxviz.table/1"


def encoder(kind: str) -> Any:
    """The function that turns columns into the bytes of a table file of this kind.

    raises   UsageError, and MissingDependency at once (not after hours of work) for Parquet without pyarrow
    """
    if kind not in KINDS:
        raise UsageError(f"a table can be {', '.join(KINDS)}; got {kind!r}{near(kind, KINDS)}")
    if kind == "parquet":
        _arrow()
    return {"csv": csv_bytes, "json": table_json_bytes, "parquet": parquet_bytes}[kind]


def inert(cell: Any) -> Any:
    """`cell` as a spreadsheet shows it and never runs it.

    Text that starts with ``=``, ``+``, ``-``, ``@``, a tab or a line break gets an apostrophe in front, the
    spreadsheets' own mark for text; what else hides or acts on a terminal is escaped. Numbers stay as they are, so
    -1.5 remains a number.
    """
    if not isinstance(cell, str):
        return cell
    return ("'" if cell.startswith(_ACTIVE) else "") + visible(cell, besides="\t\r\n")


def csv_bytes(columns: Columns) -> bytes:
    """The table as CSV (RFC 4180, UTF-8, header line, lines ended by CR LF); None and NaN are empty cells."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([inert(name) for name in columns])
    for row in zip(*_plain(columns).values(), strict=True):
        writer.writerow(["" if _missing(cell) else inert(cell) for cell in row])
    return buffer.getvalue().encode()


def both(name: str, columns: Columns) -> dict[str, bytes]:
    """The table as NAME.csv, and where pyarrow is installed as NAME.parquet."""
    made = {f"{name}.csv": csv_bytes(columns)}
    with contextlib.suppress(MissingDependency):
        made[f"{name}.parquet"] = parquet_bytes(columns)
    return made


def _missing(cell: Any) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def table_json_bytes(columns: Columns) -> bytes:
    """The table as JSON: {"schema", "rows": [{column: cell}, ...]}; NaN and infinities are null."""
    plain = _plain(columns)
    rows = [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    return json_bytes({"schema": _JSON_SCHEMA, "rows": rows})


def parquet_bytes(columns: Columns) -> bytes:
    """The table as Apache Parquet, numbers in their own types.

    raises   MissingDependency without pyarrow
    """
    arrow, parquet = _arrow()
    _check(columns)
    table = arrow.table({name: arrow.array(_text_safe(cells)) for name, cells in columns.items()})
    # A column of None alone has no type, which not every reader takes: text, as the names and labels of other tables.
    known = [one.with_type(arrow.string()) if arrow.types.is_null(one.type) else one for one in table.schema]
    table = table.cast(arrow.schema(known))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency(
            'Parquet tables need pyarrow: pip install "onnxviz[table]", or choose csv or json'
        ) from error
    return pyarrow, pyarrow.parquet


def _text_safe(cells: Sequence[Any] | np.ndarray) -> Sequence[Any] | np.ndarray:
    """Lone surrogates (names that are not UTF-8) have no place in Arrow's strings."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "fiub":
        return cells
    return [
        cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell for cell in cells
    ]


def _plain(columns: Columns) -> dict[str, list[Any]]:
    """Every cell as a Python number, text or None; float32 with the digits that it has, 0.1 and not 0.10000000149."""
    _check(columns)
    return {name: _listed(cells) for name, cells in columns.items()}


def _listed(cells: Sequence[Any] | np.ndarray) -> list[Any]:
    if isinstance(cells, np.ndarray) and cells.dtype == np.float32:
        return [float(str(cell)) for cell in cells]
    return list(cells.tolist() if isinstance(cells, np.ndarray) else cells)


def _check(columns: Columns) -> None:
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise UsageError(f"the columns of a table must have one length; got {told}")
    for name, cells in columns.items():
        if isinstance(cells, np.ndarray) and cells.ndim != 1:
            raise UsageError(f"column {name!r} has {cells.ndim} dimensions; a column has one")
