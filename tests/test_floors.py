"""The floors of the house: which room may import from which, held by import-linter's contracts in pyproject.toml."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIGURATION = ROOT / "pyproject.toml"
RUN = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def judged(folder: Path) -> tuple[int, str]:
    """Exit code and verdict on the package that lies in `folder`: which import goes up, or closes a circle."""
    command = [sys.executable, "-c", RUN, "--no-cache", "--config", str(CONFIGURATION)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    _, _, verdict = (done.stdout + done.stderr).partition("Contracts\n")
    return done.returncode, verdict or done.stdout + done.stderr


def test_rooms_import_from_lower_floors_and_there_is_no_circle():
    code, verdict = judged(ROOT)
    assert code == 0, (
        "an import goes up, or closes a circle (floors: [tool.importlinter] in pyproject.toml). Move the thing to the "
        f"floor where it belongs, rather than import it late:\n{verdict}"
    )


def test_nothing_is_let_pass():
    contracts = tomllib.loads(CONFIGURATION.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    assert [one["id"] for one in contracts if "ignore_imports" in one] == []


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("text.py", "from onnxviz.network import Network", r"onnxviz\.text -> onnxviz\.network"),
        (
            "graph/naming.py",
            "from onnxviz.grad.table import RULES",
            r"onnxviz\.graph\.naming -> onnxviz\.grad\.table",
        ),
        ("grad/table.py", "def late(): import torch", r"onnxviz\.grad\.table -> torch"),
        ("graph/naming.py", "import onnxruntime", r"onnxviz\.graph\.naming -> onnxruntime"),
        (
            "graph/naming.py",
            "from onnxviz.runtime import ort",
            r"onnxviz\.graph\.naming -> onnxviz\.runtime\.ort",
        ),
        (
            "runtime/ort.py",
            "def late(): from onnxviz.graph.naming import name_nodes",
            r"onnxviz\.runtime\.ort -> onnxviz\.graph\.naming",
        ),
        ("features/patch_boxes.py", "def late(): from onnxviz.features.patches import patches", r"features"),
        (
            "attribution/sampled.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from onnxviz.attribution.saliency import saliency",
            r"attribution",
        ),
        ("novelty.py", "", r"novelty"),
    ],
)
def test_an_import_that_goes_up_or_round_is_told(tmp_path, file, line, told):
    """At the top of a file, inside a function, for types alone; and a room that has no floor yet."""
    shutil.copytree(ROOT / "onnxviz", tmp_path / "onnxviz", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "onnxviz" / file
    path.write_text((path.read_text("utf-8") if path.exists() else "") + f"\n{line}\n", "utf-8")
    code, verdict = judged(tmp_path)
    assert code == 1 and re.search(told, verdict), verdict
