"""Tables as CSV, JSON and Parquet."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz import tables
from onnxviz.errors import MissingDependency, UsageError

ACTIVE = "=+-@\t\r\n＝＋－＠"


def rows_of(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))


@pytest.mark.parametrize("first", ACTIVE)
def test_text_that_a_spreadsheet_would_run_is_made_inert(first):
    cell = f"{first}HYPERLINK(1)"
    _, [shown] = rows_of(tables.csv_bytes({"file": [cell]}))
    assert shown == f"'{cell}"
    header, _ = rows_of(tables.csv_bytes({cell: ["x"]}))
    assert header == [f"'{cell}"]


def test_numbers_stay_numbers_and_nan_is_empty_or_null():
    columns = {
        "score": np.array([-1.5, 0.1, np.nan], np.float32),
        "y": np.array([-3, 2, 0]),
        "z": [-0.25, None, np.inf],
    }
    head, *rows = rows_of(tables.csv_bytes(columns))
    assert head == ["score", "y", "z"]
    assert rows == [["-1.5", "-3", "-0.25"], ["0.1", "2", ""], ["", "0", "inf"]]
    found = json.loads(tables.table_json_bytes(columns))["rows"]
    assert found[1:] == [{"score": 0.1, "y": 2, "z": None}, {"score": None, "y": 0, "z": None}]


ESCAPE = re.compile(
    r"\\(?:x(?=[0-9a-f]{2})|u(?=[0-9a-f]{4})|U(?=[0-9a-f]{8}))((?<=x)..|(?<=u)....|(?<=U).{8})"
)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_whatever_the_text_csv_reads_back_as_one_row_and_nothing_runs(cells):
    header, row = rows_of(tables.csv_bytes({f"c{i}": [cell] for i, cell in enumerate(cells)}))
    assert len(header) == len(cells)
    for cell, shown in zip(cells, row, strict=True):
        assert not shown.startswith(tuple(ACTIVE))
        # What a terminal or an eye takes for something else stands there as its number.
        assert all(c.isprintable() or c in "\t\r\n" or unicodedata.category(c) == "Zs" for c in shown)
        assert "\\" in cell or ESCAPE.sub(lambda m: chr(int(m[1], 16)), shown) in (cell, f"'{cell}")


def test_text_that_is_not_unicode_costs_no_table():
    columns = {"file": ["caf\udce9.png"]}
    assert b"caf\\udce9.png" in tables.csv_bytes(columns)
    assert json.loads(tables.table_json_bytes(columns))["rows"]
    assert tables.parquet_bytes(columns)


def test_parquet_keeps_types_and_values():
    """A column of nothing is text."""
    import pyarrow.parquet

    columns = {
        "score": np.array([0.1, np.nan], np.float32),
        "image": np.array([7, 2**40]),
        "file": ["=a.png", None],
        "label": [None, None],
        "x": [1.5, None],
        "features": [np.ones(2, np.float32)] * 2,
    }
    table = pyarrow.parquet.read_table(io.BytesIO(tables.parquet_bytes(columns)))
    kinds = ["float", "int64", "string", "string", "double", "list<element: float>"]
    assert [str(kind) for kind in table.schema.types] == kinds
    assert table["file"].to_pylist() == ["=a.png", None]
    assert table["image"].to_pylist() == [7, 2**40]
    assert table["score"].to_pylist()[0] == np.float32(0.1)


def test_parquet_without_pyarrow_names_the_extra_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match=r"onnxviz\[table\]"):
        tables.encoder("parquet")


def test_a_kind_is_one_of_three():
    makers = [tables.encoder(kind) for kind in tables.KINDS]
    assert makers == [tables.csv_bytes, tables.table_json_bytes, tables.parquet_bytes]
    with pytest.raises(UsageError, match="did you mean 'parquet'"):
        tables.encoder("parket")


def test_columns_must_agree():
    with pytest.raises(UsageError, match="a: 2, b: 1"):
        tables.csv_bytes({"a": [1, 2], "b": [1]})
    with pytest.raises(UsageError, match="2 dimensions"):
        tables.parquet_bytes({"a": np.zeros((2, 2))})


def test_a_table_without_rows_has_its_header():
    assert tables.csv_bytes({"a": [], "b": np.zeros(0)}) == b"a,b\r\n"
    assert json.loads(tables.table_json_bytes({"a": []}))["rows"] == []
