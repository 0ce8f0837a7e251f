"""Written files on OpenVINO, in the environment that tools/test.py makes for it (its package replaces onnxruntime)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

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


@pytest.fixture(scope="module")
def picture(cat, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("openvino") / "cat.png"
    Image.fromarray(cat).save(path)
    return str(path)


def onnxviz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line there, on the code that is tested here."""
    command = [interpreter(), "-m", "onnxviz", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)


def test_the_providers_are_held_against_each_other(picture) -> None:
    done = onnxviz("providers", "efficientnet-lite0", picture, "--json", "--runs", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    cpu, openvino = json.loads(done.stdout)["providers"]
    assert (cpu["provider"], openvino["provider"], openvino["state"]) == ("cpu", "openvino", "ran")
    for part in ("network", "gradient"):
        assert openvino[part]["difference"] < 1e-5
        # All of it is OpenVINO's: what is left to the CPU, and the copies on its borders, made it slow.
        assert set(openvino[part]["nodes"]) == {"OpenVINOExecutionProvider"}


def test_options_reach_the_provider(picture) -> None:
    """bfloat16 or float16 depart where the processor has them; an option that it has not, and a device, are refused."""
    given = ("providers", "efficientnet-lite0", picture, "--runs", "1", "--provider", "openvino")
    for option, words in (("nonsense=1", "nonsense"), ("device_type=GPU", "openvino")):
        done = onnxviz(*given, "--provider-option", option)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert done.stdout == ""
    done = onnxviz("predict", "efficientnet-lite0", picture, "--provider", "openvino", "--json",
                   "--provider-option", "device_type=CPU", "--provider-option", "precision=FP32")  # fmt: skip
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["provider"] == "OpenVINOExecutionProvider"
    assert manifest["provider_options"] == {"device_type": "CPU", "precision": "FP32"}


def test_an_audit_holds_it_against_the_cpu(picture) -> None:
    options = ("--only", "runtime.provider", "--provider", "openvino", "--json")
    done = onnxviz("audit", "efficientnet-lite0", picture, *options)
    (one,) = [check for check in json.loads(done.stdout)["checks"] if check["id"] == "runtime.provider"]
    assert one["state"] == "clean", one
    assert one["figures"]["provider"] == "OpenVINOExecutionProvider"
    assert min(one["figures"]["decibels"].values()) > 90
    assert one["figures"]["gradient"] > 90
    assert set(one["figures"]["nodes"]["gradient"]) == {"OpenVINOExecutionProvider"}
