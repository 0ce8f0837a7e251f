"""docs/promises.md: every row names tests that exist, and its tables of limits are those of the program."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from functools import cache
from pathlib import Path

import onnxviz
from onnxviz.limits import Limits

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def defined(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


# --- rows and their tests ---------------------------------------------------------------------


def test_every_test_that_is_named_exists():
    named = NAMED.findall(PAGE)
    assert len(named) > 100
    assert not [one for one in named if not (ROOT / one[0]).is_file() or one[1] not in defined(one[0])]


def test_every_promise_has_its_row_and_every_row_names_a_test():
    for row in (*rows("Promises"), *rows("Inputs and faults")):
        *told, tests = row
        assert len(row) == 3 and all(told), row
        assert NAMED.findall(tests) and not NAMED.sub("", tests).strip(), row
    assert [row[0] for row in rows("Promises")] == [f"P{i}" for i in range(1, 9)]
    assert len(rows("Inputs and faults")) == len({row[0] for row in rows("Inputs and faults")}) > 45


# --- limits and bounds ------------------------------------------------------------------------


def size(value: float | None) -> str:
    """A number as the tables write it: 1,000,000, 1,073,741,824 (2^30), none."""
    if value is None:
        return "none"
    power = value.bit_length() - 1 if isinstance(value, int) else 0
    return f"{value:,} (2^{power})" if power >= 20 and value == 2**power else f"{value:,.0f}"


def limit_rows() -> list[list[str]]:
    """Name, default and meaning of each limit, as the class itself tells them."""
    text = re.sub(r"\n {6,}", " ", Limits.__doc__ or "")
    told = dict(re.findall(r"^ {4}(\w+) {2,}(.+)$", text, flags=re.MULTILINE))
    return [
        [f"`{field.name}`", size(field.default), re.sub(r"\s+", " ", told[field.name])]  # type: ignore[arg-type]
        for field in dataclasses.fields(Limits)
    ]


def test_the_limits_are_those_of_the_program():
    expected = limit_rows()
    assert rows("Limits") == expected, "\n".join(f"| {' | '.join(row)} |" for row in expected)


def test_the_bounds_are_those_of_the_program():
    for place, value, meaning in rows("Bounds that stay"):
        module, _, name = place.strip("`").rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert f"{found:,}" == value and meaning, place


# --- P1 ---------------------------------------------------------------------------------------


def test_nothing_of_a_file_can_run():
    """No call in the package that could run what a file holds; modules are imported by the caller's own words alone."""
    package = Path(onnxviz.__file__).parent
    # What is installed and announces a provider is a package of the machine, whatever a file says.
    # A command's module is named in the command's own row, a method's file in the method's; what the shell completes by
    # names its module where it stands.
    importing = {
        *(
            "attribution/methods.py",
            "backends/choose.py",
            "__init__.py",
            "cli/command.py",
            "cli/signatures.py",
        ),
        *("exporting/source.py", "runtime/providers.py"),
    }
    for path in package.rglob("*.py"):
        where = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            bad = (
                r"(eval|exec|__import__|os\.system|os\.popen|runpy\.run_path)$|.*register_custom_ops_library"
            )
            assert not re.match(rf"{bad}|.*(pickle|marshal)\.loads?$", called), where
            assert "import_module" not in called or where in importing, where
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell"):
                    assert ast.unparse(keyword.value) == "False", where
