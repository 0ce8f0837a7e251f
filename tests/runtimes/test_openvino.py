"""Written files on OpenVINO, in the environment that tools/test.py makes for it (its package replaces onnxruntime)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.runtimes import held

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")


def interpreter() -> str:
    """The Python that has onnxruntime-openvino."""
    usual = ROOT / ".venv-openvino" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    found = os.environ.get("ONNXVIZ_OPENVINO_PYTHON", str(usual))
    assert Path(found).exists(), f"{found} is not there: run `python3 tools/test.py` once, which makes it"
    return found


def on_openvino(folder: Path, cases: dict[str, held.Held]) -> dict:
    held.write(folder, cases)
    options = '{"device_type": "CPU", "precision": "FP32"}'
    command = [interpreter(), str(CHILD), str(folder), "OpenVINOExecutionProvider", options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return held.read(folder)


def test_every_form(tmp_path) -> None:
    """It reads HardSigmoid's beta=0 as 0.5, mixes up square weights, and refuses much else (see grad/forms.py)."""
    cases = {name: make() for name, make in held.FORMS.items()}
    held.hold_all(cases, on_openvino(tmp_path, cases))


def test_the_bundled_network(net, cat, tmp_path) -> None:
    cases = held.bundled(net, cat)
    held.hold_all(cases, on_openvino(tmp_path, cases))
