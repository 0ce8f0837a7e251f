"""What a plain install carries."""

import zipfile
from pathlib import Path

from onnxviz.files import sha256

ROOT = Path(__file__).parent.parent


def test_the_wheel_carries_the_bundled_network(tmp_path, monkeypatch):
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        names = set(wheel.namelist())
        wheel.extract("onnxviz/_models/efficientnet-lite0.onnx", tmp_path)
    assert {
        "onnxviz/_models/catalogue.json",
        "onnxviz/_models/imagenet-labels.txt",
        "onnxviz/py.typed",
        *(f"onnxviz/templates/report.{kind}" for kind in ("html.j2", "css", "js")),
    } <= names
    assert not [name for name in names if name.startswith(("tests", "tools", "models"))]
    assert sha256(tmp_path / "onnxviz/_models/efficientnet-lite0.onnx") == sha256(
        ROOT / "models/efficientnet-lite0.onnx"
    )
