"""What the gradient benchmark times: each maker gives a function that computes one input gradient.

All take the same pictures and the same cotangent of the logits, on two threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

THREADS = 2
REST = 0.05  # seconds
TRAINING_NEWEST = (3, 12)  # the last Python that onnxruntime-training was built for

Step = Callable[[], Any]


class Unmeasured(Exception):
    """A peer cannot do this network, and why."""


def session(model: Any) -> Any:
    """A bare ONNX Runtime session of a file or of serialised bytes."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def forward(path: Path, x: np.ndarray) -> Step:
    """The floor's half: one bare forward pass."""
    bare = session(str(path))
    source = bare.get_inputs()[0].name
    return lambda: bare.run(None, {source: x})


def native(path: Path, x: np.ndarray, cotangent: np.ndarray, *, cpu: bool = True) -> Step:
    """onnxviz, as many pictures at once as its techniques take.

    cpu   False: the graph as it is exported, which keeps to forms that are exact on every device
    """
    from onnxviz.backends.native import SideBySide
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.open.load import load

    model = load(str(path)).model
    source, output = _ends(model)
    program = SideBySide(
        gradient_model(model, of=output, wrt=source, cpu=cpu), provider="cpu", threads=THREADS, seconds=None
    )
    wanted = f"{source}.gradient"
    feeds = [{source: x[i : i + 1], f"{output}.cotangent": cotangent[i : i + 1]} for i in range(len(x))]
    if len(x) == 1:
        return lambda: program(feeds[0])[wanted]
    return lambda: np.concatenate([found[wanted] for found in program.each(feeds, THREADS)])


def _ends(model: Any) -> tuple[str, str]:
    source = next(v.name for v in model.graph.inputs if not v.is_initializer())
    return source, model.graph.outputs[0].name


def torch_eager(net: Callable[[Any], Any], x: np.ndarray, cotangent: np.ndarray) -> Step:
    """torch as it comes: forward pass and autograd."""
    import torch

    torch.set_num_threads(THREADS)
    image, seed = torch.from_numpy(x), torch.from_numpy(cotangent)

    def step() -> np.ndarray:
        leaf = image.detach().requires_grad_(True)
        y = net(leaf)
        return torch.autograd.grad(y, leaf, seed.reshape(y.shape))[0].numpy()

    return step


def torch_compiled(net: Callable[[Any], Any], x: np.ndarray, cotangent: np.ndarray) -> Step:
    """torch.compile with its defaults."""
    import torch

    try:
        step = torch_eager(torch.compile(net), x, cotangent)
        step()
    except Exception as error:
        raise Unmeasured(_short(error)) from error
    return step


def onnx_ad(path: Path, x: np.ndarray, cotangent: np.ndarray, right: np.ndarray) -> tuple[Step, str]:
    """onnx-ad on the file with its batch fixed; the note says where what it gives is wrong."""
    try:
        from onnx_ad import reverse

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
        found = engine.run(wanted, feeds)[0]
    except Exception as error:
        raise Unmeasured(_short(error)) from error
    off = float(np.linalg.norm(found.ravel() - right.ravel()) / np.linalg.norm(right))
    note = f", and wrong (relative error {off:.1g})" if off > 0.05 else ""
    return (lambda: engine.run(wanted, feeds)), note


class OrtTraining:
    """onnxruntime-training in its own virtual environment: a child process that times one run when asked to."""

    def __init__(self, python: Path, path: Path, x: np.ndarray, cotangent: np.ndarray) -> None:
        self._folder = tempfile.TemporaryDirectory()
        data = Path(self._folder.name) / "data.npz"
        np.savez(data, x=x, cotangent=cotangent)
        script = Path(__file__).parent / "ort_training_child.py"
        self._child = subprocess.Popen(
            [str(python), str(script), str(path), str(data), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        answer = self._answer()
        if not answer.startswith("ready"):
            self.close()
            raise Unmeasured(_reason(answer)[:90] or "its process died")
        self.gradient = np.load(data.with_suffix(".gradient.npy"))

    def seconds(self) -> float:
        """One run, timed by the child itself."""
        assert self._child.stdin is not None
        self._child.stdin.write("run\n")
        self._child.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def close(self) -> None:
        """End the child."""
        if self._child.stdin is not None:
            self._child.stdin.close()
        self._child.wait(timeout=60)
        self._folder.cleanup()


def training_python() -> Path:
    """The environment of onnxruntime-training; raises Unmeasured where no Python of this machine can have it."""
    from environment import environment, find_python

    base = find_python(TRAINING_NEWEST)
    if base is None:
        raise Unmeasured("needs Python 3.11 or 3.12")
    return environment("ort-training", ["-e", ".[ort-training]"], base=base)


def timed(step: Step) -> float:
    """Seconds of one run, after a rest: threads of the step before go on spinning for a while, on this one's cores."""
    time.sleep(REST)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:90]}" if lines else type(error).__name__


def _reason(text: str) -> str:
    """What a failed check of ONNX Runtime says, without where it stands in its source."""
    return text[text.rfind(" was false. ") + 12 :] if " was false. " in text else text


def peak(code: str, *arguments: str) -> int:
    """The most memory, in bytes, that a Python process with this code took."""
    # Linux hands ru_maxrss down from the process that forked; VmHWM is this program's own.
    ending = (
        "\nimport os, re, resource"
        "\nown = '/proc/self/status'"
        "\nif os.path.exists(own): print(re.search(r'VmHWM:\\s+(\\d+)', open(own).read()).group(1))"
        "\nelse: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + ending, *arguments], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
