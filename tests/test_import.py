"""What importing costs, and which parts may know of which packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onnxviz

PACKAGE = Path(onnxviz.__file__).parent
HEAVY = {
    "onnx",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "sklearn",
    "scipy",
    "torch",
    "PIL",
    "jinja2",
    "numpy",
    "socket",
}
NEVER = {"onnxscript", "scipy", "sklearn", "torch", "jinja2", "pydantic"}


def loaded(code: str) -> set[str]:
    """The modules that are there after this."""
    line = [sys.executable, "-c", f"import sys; {code}; print(*sys.modules, file=sys.stderr)"]
    return set(subprocess.run(line, capture_output=True, text=True, check=True).stderr.split())


def loaded_by(*command: str) -> set[str]:
    return loaded(f"from onnxviz.cli.main import run; run({list(command)!r})")


def test_importing_the_package_and_help_import_nothing_heavy():
    assert not HEAVY & loaded("import onnxviz")
    assert not HEAVY & loaded_by("--help")


def test_predict_imports_what_it_uses(photo_files):
    """Nothing that other commands, files or rarer networks need: every module is time before the first answer."""
    found = loaded_by("predict", "efficientnet-lite0", str(photo_files[0]), "--provider", "cpu", "-q")
    ours = {name for name in found if name.partition(".")[0] == "onnxviz"}
    assert len(ours) <= 72, sorted(ours)
    others = [
        "cli.acts",
        "cli.saving",
        "cli.reports",
        "claims",
        "file_set",
        "labels",
        "results",
        "runtime.pool",
    ]
    assert not {f"onnxviz.{name}" for name in others} & ours
    assert not NEVER & found


def test_saliency_imports_what_it_uses(photo_files, tmp_path):
    """Each of these would be a tenth of the second and a half that a map takes, or more."""
    out = tmp_path / "map.png"
    found = loaded_by("saliency", "efficientnet-lite0", str(photo_files[0]), "-q", "-o", str(out))
    assert out.exists() and not {*NEVER, "numpy.ma"} & found


def test_the_program_puts_off_what_onnx_ir_hardly_ever_needs():
    """sympy is a quarter of a second of every command, and works all the same where it is needed."""
    code = "from onnxviz.cli import parent; parent._load(); import onnx_ir as ir"
    before = loaded(code)
    assert "sympy.core" not in before and "onnx_ir._symbolic_shapes" in before
    assert "sympy.core" in loaded(f"{code}; assert str(ir.SymbolicDim('N') + 1) == 'N + 1'")


def test_every_public_name_is_there():
    for name in onnxviz.__all__:
        assert getattr(onnxviz, name) is not None
    assert set(onnxviz.__all__) <= set(dir(onnxviz))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = onnxviz.nonsense
    with pytest.raises(AttributeError) as told:
        _ = onnxviz.salency
    assert told.value.name == "salency" and told.value.obj is onnxviz  # what Python's "Did you mean" goes by


def imported(path: Path) -> set[str]:
    """The modules that a file names in an import, or in a call that imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__", "package", "run_module"):
                found.add(str(node.args[0].value))
    return found


def test_one_module_imports_onnxruntime():
    """Where its telemetry is off: see runtime/providers.py."""
    importing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "onnxruntime" for name in imported(path))
    }
    assert importing == {str(Path("runtime", "providers.py"))}
