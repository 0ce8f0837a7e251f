"""What the gradient benchmark times: each maker gives a function that computes one input gradient.

All take the network's file and a file with the same pictures `x` and the same cotangent of the logits, and two threads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench import networks
from bench.turns import Step, Unmeasured

THREADS = 2
TRAINING_NEWEST = (3, 12)  # the last Python that onnxruntime-training was built for


def session(model: Any) -> Any:
    """A bare ONNX Runtime session of a file or of serialised bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def forward(path: str, data: str) -> Step:
    """The floor's half: one bare forward pass."""
    bare, x = session(path), np.load(data)["x"]
    source = bare.get_inputs()[0].name
    return lambda: bare.run(None, {source: x})[0]


def native(path: str, data: str) -> Step:
    """onnxviz, as many pictures at once as its techniques take."""
    from onnxviz.backends.native import SideBySide
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.open.load import load

    model = load(path).model
    x, cotangent = np.load(data).values()
    source = next(v.name for v in model.graph.inputs if not v.is_initializer())
    output = model.graph.outputs[0].name
    program = SideBySide(
        gradient_model(model, of=output, wrt=source, cpu=True),
        provider="cpu",
        threads=THREADS,
        seconds=None,
    )
    wanted = f"{source}.gradient"
    feeds = [{source: x[i : i + 1], f"{output}.cotangent": cotangent[i : i + 1]} for i in range(len(x))]
    if len(x) == 1:
        return lambda: program(feeds[0])[wanted]
    return lambda: np.concatenate([found[wanted] for found in program.each(feeds, THREADS)])


def stock(path: str, data: str) -> Step:
    """The file that `onnxviz gradient` writes, on ONNX Runtime with its defaults: what whoever is given it gets."""
    import onnxruntime

    import onnxviz

    x, cotangent = np.load(data).values()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gradient.onnx"
        onnx.save(onnxviz.gradient_model(path), file)
        engine = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    source, seed = (value.name for value in engine.get_inputs())
    return lambda: engine.run([f"{source}.gradient"], {source: x, seed: cotangent})[0]


def torch_eager(name: str, path: str, data: str) -> Step:
    """torch as it comes: forward pass and autograd."""
    return _autograd(networks.module(name, Path(path)), data)


def torch_compiled(name: str, path: str, data: str) -> Step:
    """torch.compile with its defaults."""
    import torch

    return _autograd(torch.compile(networks.module(name, Path(path))), data)


def _autograd(net: Callable[[Any], Any], data: str) -> Step:
    import torch

    torch.set_num_threads(THREADS)
    image, seed = (torch.from_numpy(array) for array in np.load(data).values())

    def step() -> np.ndarray:
        leaf = image.detach().requires_grad_(True)
        y = net(leaf)
        return torch.autograd.grad(y, leaf, seed.reshape(y.shape))[0].numpy()

    return step


def onnx_ad(path: str, data: str) -> Step:
    """onnx-ad on the file with its batch fixed."""
    from onnx_ad import reverse

    x, cotangent = np.load(data).values()
    model = onnx.load(path)
    for value in (*model.graph.input[:1], *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = len(x)
    if any(d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim):
        for d, length in zip(model.graph.input[0].type.tensor_type.shape.dim, x.shape, strict=True):
            d.dim_value = length
    made = reverse(onnx.shape_inference.infer_shapes(model), layout="onnx")
    engine = session(made.SerializeToString())
    known = {v.name for v in model.graph.input}
    seed = next(v for v in engine.get_inputs() if v.name not in known)
    axes = [d for d in seed.shape if isinstance(d, int)]
    shaped = cotangent.reshape([*cotangent.shape, 1] if len(axes) < len(seed.shape) else seed.shape)
    feeds = {model.graph.input[0].name: x, seed.name: shaped}
    wanted = [v.name for v in engine.get_outputs() if v.name not in {o.name for o in model.graph.output}]
    return lambda: engine.run(wanted, feeds)[0]


def training_python() -> Path:
    """The environment of onnxruntime-training; raises Unmeasured where no Python of this machine can have it.

    ONNXVIZ_ORT_TRAINING_PYTHON names one that stands, as for the tests.
    """
    from environment import environment, find_python

    if given := os.environ.get("ONNXVIZ_ORT_TRAINING_PYTHON"):
        return Path(given)
    base = find_python(TRAINING_NEWEST)
    if base is None:
        raise Unmeasured("needs Python 3.11 or 3.12")
    return environment("ort-training", ["-e", ".[ort-training]"], base=base)
