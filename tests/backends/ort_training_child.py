"""Run by test_ort_training in the environment that has onnxruntime-training: gradients to a file, for comparison.

Arguments: a folder with `<name>.onnx` and `<name>.npz` (what to feed, layers) for each name, and the names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import onnxviz
from onnxviz import objectives
from onnxviz.errors import OnnxVizError, UnsupportedOperator
from tests.backends import operator_cases as cases


def gradients(path: str, stem: Path, backend: str) -> dict[str, np.ndarray]:
    """By the image and by a layer, of a score whose class is fed; the layer's values beside."""
    with np.load(stem.with_suffix(".npz")) as given:
        x, target, layer = given["x"], given["target"], str(given["layer"])
    net = onnxviz.load(path, provider="cpu", preprocess="unit", backend=backend)
    run = net.gradients(objectives.logit(objectives.FED), [net.input.name, layer], also=[layer])
    found = run(x, {"target": target})
    assert net.manifest("test")["backend"] == backend
    names = {f"{net.input.name}.gradient": "image", f"{layer}.gradient": "layer", layer: "values"}
    return {names.get(name, name): array for name, array in found.items()}


def refused(path: Path, **options: str) -> str:
    """The type and text of the error."""
    rules = options.pop("rules", "plain")
    try:
        net = onnxviz.load(path, provider="cpu", preprocess="unit", **options)
        net.gradients(objectives.logit(2), rules=rules)
    except OnnxVizError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def both(case: str) -> list[dict[str, np.ndarray]]:
    """One operator by both backends."""
    return [cases.gradients(case, backend) for backend in ("ort-training", "native")]


def beyond(case: str) -> str | float:
    """'refused', or how far the gradient is from the native one."""
    try:
        return cases.worst(*both(case))
    except UnsupportedOperator:
        return "refused"


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        path = name if name == "efficientnet-lite0" else str(folder / f"{name}.onnx")
        for backend in ("native", "ort-training"):
            np.savez(folder / f"{name}.{backend}.npz", **gradients(path, folder / name, backend))
    facts = {
        "trusted": {name: cases.worst(*both(name)) for name in cases.TRUSTED},
        "beyond": {name: beyond(name) for name in cases.BEYOND},
        "doctor": {check.name: [check.state, check.detail] for check in onnxviz.doctor()},
        "guided": refused(folder / "tiny.onnx", backend="ort-training", rules="guided"),
        "lstm": refused(folder / "lstm.onnx", backend="ort-training"),
        "torch": refused(folder / "tiny.onnx", backend="torch"),
        "auto": refused(folder / "lstm.onnx"),
        "new": refused(folder / "new.onnx", backend="ort-training"),
    }
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
