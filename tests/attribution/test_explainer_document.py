"""docs/explainer.md, held to the program."""

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

import onnxviz
from onnxviz.attribution.methods import METHODS
from onnxviz.cli.acts import methods
from onnxviz.cli.main import run

TECHNIQUES = [name for name, row in METHODS.items() if row.one_pass]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "explainer.md").read_text(encoding="utf-8")


def test_the_python_code_runs_on_onnx_runtime_alone(tmp_path, photo_files):
    command = re.search(r"```sh\nonnxviz (.*?)\n```", DOCUMENT, flags=re.S)[1].split()
    command[command.index("-o") + 1] = str(tmp_path / "explainer.onnx")
    assert run([*command, "--quiet"]) == 0
    with Image.open(photo_files[0]) as photo:
        photo.save(tmp_path / "photo.jpg", quality=95)
    code = re.search(r"```python\n(.*?)```", DOCUMENT, flags=re.S)[1]
    assert "onnxviz." not in code.replace('"onnxviz.labels"', "")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"Egyptian cat  \d\d\.\d%", done.stdout)
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == (224, 224)
        assert heat.getextrema()[1] == 255


def test_every_technique_and_output_is_named(net):
    named = re.search(r"`--technique` is (.*?); `--layer`", DOCUMENT, flags=re.S)[1]
    assert re.findall(r"`([^`]+)`", named) == list(TECHNIQUES)
    assert methods() == list(TECHNIQUES)  # what `gradient --help` lists
    for technique in TECHNIQUES:
        text = onnxviz.explainer_model.__doc__
        assert re.search(rf"[ \n]{re.escape(technique)}(,|\.| or|\n)", text), technique
    model = onnxviz.explainer_model(net, "grad-cam", target="fed")
    listed = re.findall(r"^\| (in|out) \| `(\w+)`", DOCUMENT, flags=re.M)
    assert [name for kind, name in listed if kind == "in"] == [value.name for value in model.graph.input]
    assert [name for kind, name in listed if kind == "out"] == [value.name for value in model.graph.output]
