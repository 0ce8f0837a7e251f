"""What a user waits for before anything happens: imports, help, the first prediction, an inspection."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.turns import Spread

RUNS = 11


def run() -> list[dict]:
    """Median wall-clock seconds of whole processes, and what of it is Python's own start."""
    with tempfile.TemporaryDirectory() as folder:
        photo, resnet = _photo(Path(folder)), _resnet50(Path(folder))
        python = [sys.executable]
        cases = [
            ("`import onnxviz`", [*python, "-c", "import onnxviz"], 0.2),
            ("`onnxviz --help`", [*python, "-m", "onnxviz", "--help"], 0.4),
            (
                "`onnxviz predict`, bundled network",
                [*python, "-m", "onnxviz", "predict", "efficientnet-lite0", photo],
                0.9,
            ),
            (
                "`onnxviz saliency`, bundled network",
                [
                    *python,
                    "-m",
                    "onnxviz",
                    "saliency",
                    "efficientnet-lite0",
                    photo,
                    "-o",
                    f"{folder}/heat.png",
                ],
                1.5,
            ),
            ("`onnxviz inspect`, ResNet-50", [*python, "-m", "onnxviz", "inspect", resnet], 1.2),
        ]
        bare = [*python, "-c", "pass"]
        rows = []
        for name, command, target in cases:
            _time(command)  # its files come from the disk
            seconds, empty = zip(*((_time(command), _time(bare)) for _ in range(RUNS)), strict=True)
            rows.append(
                {
                    "name": name,
                    **Spread.of(seconds).row(unit=" s"),
                    "target": f"≤ {target} s",
                    "detail": f"of which Python itself {statistics.median(empty):.2f} s",
                }
            )
        return rows


def _time(command: list[str]) -> float:
    # With byte code, as it is installed: the first run may leave it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def _photo(folder: Path) -> str:
    from PIL import Image
    from skimage import data

    path = folder / "cat.jpg"
    Image.fromarray(data.chelsea()).save(path)
    return str(path)


def _resnet50(folder: Path) -> str:
    """The onnx package's ResNet-50 with random weights in place of its constants."""
    import onnx
    from onnx import numpy_helper

    source = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    model = onnx.load(source)
    random = np.random.default_rng(0)
    shapes = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in shapes:
            weight = random.normal(0, 0.05, shapes[node.input[0]]).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    path = folder / "resnet50.onnx"
    onnx.save(model, path)
    return str(path)
