"""The tools under tools/ speak to the package as it is: benchmarks run too seldom to find out by themselves."""

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.mark.parametrize("path", sorted(TOOLS.rglob("*.py")), ids=lambda path: str(path.relative_to(TOOLS)))
def test_what_a_tool_imports_of_the_package_is_there(path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxviz":
            module = importlib.import_module(node.module)
            missing += [
                f"{node.module}.{one.name} (line {node.lineno})"
                for one in node.names
                if not hasattr(module, one.name) and not importlib.util.find_spec(f"{node.module}.{one.name}")
            ]
    assert not missing
