"""The house's measure: every line is counted once, and the counts are those of the files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import lines  # noqa: E402


def test_every_python_file_is_in_a_room(capsys):
    found = lines.sizes()
    assert set(found) <= set(lines.BUDGETS), "a folder of onnxviz/ has no row in tools/lines.py"
    paths = [path for path in (ROOT / "onnxviz").rglob("*.py")]
    counted = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
    assert sum(count for _, count in found.values()) >= counted
    assert sum(files for files, _ in found.values()) >= len(paths)
    assert lines.main(["lines"]) == 0
    assert "onnxviz/" in capsys.readouterr().out


def test_operators_are_found_where_they_are_named(tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text('"""Conv."""\nRULES = {"Conv": 1, "Relu": 2}\n')
    (tmp_path / "two.py").write_text('# "Relu"\nif op == "Conv":\n    pass\n')
    (tmp_path / "three.py").write_text('ir.node("Relu", [x])\ntape.Conv(x, w)\n')
    monkeypatch.setattr(lines, "PACKAGE", tmp_path)
    assert lines.operator_files() == {"Conv": {"one.py", "two.py"}, "Relu": {"one.py"}}


def test_predict_goes_no_further_than_it_must():
    """Calls inside the package on the bundled network, just opened: the bound of the redesign."""
    _, calls, _ = lines.probe("predict")
    assert 1000 < calls < 4000


def test_predict_imports_no_more_than_it_must():
    _, _, modules = lines.probe("predict command")
    assert 50 < modules <= 60


def test_without_the_packages_it_runs_in_the_test_environment(monkeypatch, tmp_path):
    """It took the folder `.venv-test/lib/python3.11` for a Python, where the file system lists that first."""
    called = []
    monkeypatch.setattr(lines.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(lines.subprocess, "call", lambda command: called.append(command) or 0)
    python = tmp_path / ".venv-test" / "bin" / "python"
    monkeypatch.setattr(lines, "place", lambda name: python)
    assert lines.main(["lines", "flow"]) == 0 and not called
    python.parent.mkdir(parents=True)
    python.touch()
    assert lines.main(["flow"]) == 0 and called == [[str(python), lines.__file__, "flow"]]


def test_the_picture_of_the_imports_is_todays():
    """Which room imports from which; how often may be of yesterday. No import in it is red: none goes up."""
    drawn = lines.HOUSE.read_text(encoding="utf-8")
    assert set(re.findall(r"<title>(\S+) from (\S+)</title>", drawn)) == set(lines.imports()), (
        "python3 tools/lines.py picture draws docs/pictures/house.svg anew"
    )
    assert "#d33" not in drawn
