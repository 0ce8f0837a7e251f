"""Where the time above the floor goes: kernels of the gradient's session beside twice those of the forward session.

    python3 tools/bench/shares.py [NETWORK ...] [--threads N] [--layers N] [--table]

ONNX Runtime's own profiler, one picture. A node of the gradient bears the name of the forward layer whose cotangent it
computes (Tape.named), so a kernel's time counts to that layer's operator: masks to Relu and Clip, routing to MaxPool.
Of each kernel the least time of all runs counts: it holds on a machine that is not idle as well. Kernels are not all of
the time: what threads wait for each other, and between kernels, is in the benchmark's ratio only.

The bound is what nobody gets under who computes with ONNX Runtime's kernels and keeps the forward pass: that pass, and
of the way back the convolutions and products of matrices alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench import gradient_peers as peers  # noqa: E402
from bench import networks  # noqa: E402

RUNS = 20
FORWARD = "the forward pass"
PRODUCTS = "adjoints: convolutions, matrices"
WAYS = "ways into and out of the blocked layout"
KINDS = {  # by the operator of the layer that a kernel belongs to
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), "adjoints: stuffing, cuts"),
    **dict.fromkeys(("Relu", "Clip"), "masks"),
    **dict.fromkeys(("MaxPool", "AveragePool", "Concat", "GlobalAveragePool"), "pools and joins"),
}
OTHERS = "other operators, sums"
COLUMNS = (FORWARD, PRODUCTS, *dict.fromkeys(KINDS.values()), OTHERS, WAYS)
_MULTIPLIES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul")


class Kernel(NamedTuple):
    """A node of an optimised session: its least time of all runs, in milliseconds."""

    name: str
    op_type: str
    time: float


class Measured(NamedTuple):
    """The kernels of a network's two sessions, and layer -> its operator in the forward graph."""

    ahead: list[Kernel]
    whole: list[Kernel]
    operators: dict[str | None, str]


def main() -> None:
    """Print one table a network, or one row a network."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("networks", nargs="*", default=list(networks.NAMES))
    options.add_argument("--threads", type=int, default=peers.THREADS)
    options.add_argument("--layers", type=int, default=0, help="list this many layers as well, slowest first")
    options.add_argument("--table", action="store_true", help="one row a network, as in docs/performance.md")
    chosen = options.parse_args()
    if chosen.table:
        heads = ("network", "gradient ÷ floor", "bound ÷ floor", *COLUMNS)
        print(_row(heads), _row(["---"] * len(heads)), sep="\n")
    for name in chosen.networks:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(networks.save(name, networks.kept()), Path(folder), chosen.threads)
        if chosen.table:
            print(_summary(name, measured), flush=True)
        else:
            _print(name, measured, chosen.layers)


def measure(path: Path, folder: Path, threads: int) -> Measured:
    """Profile and time the network's file and its gradient."""
    import onnx_ir as ir

    from onnxviz.backends.native import packs_dense
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.normalise import normalise
    from onnxviz.graph.open.load import load

    model = load(str(path)).model
    source = next(str(v.name) for v in model.graph.inputs if not v.is_initializer())
    output = model.graph.outputs[0].name
    x = np.random.default_rng(1).standard_normal((1, 3, networks.SIZE, networks.SIZE)).astype(np.float32)
    made = gradient_model(model, of=output, wrt=source, cpu=True)
    ahead, scores = profiled(path.read_bytes(), {source: x}, folder, threads)
    cotangent = np.zeros(scores.shape, np.float32)
    cotangent.reshape(1, -1)[:, 285] = 1.0
    feeds = {source: x, f"{output}.cotangent": cotangent}
    message, prepack = ir.to_proto(made).SerializeToString(), packs_dense(made)
    whole, _ = profiled(message, feeds, folder, threads, prepack=prepack)
    return Measured(ahead, whole, {node.name: node.op_type for node in normalise(model).graph})


def profiled(
    model: bytes, feeds: dict[str, np.ndarray], folder: Path, threads: int, *, prepack: bool = True
) -> tuple[list[Kernel], np.ndarray]:
    """The kernels of a session, in the order that they run, and its first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    for _ in range(RUNS):
        result = session.run(None, feeds)[0]
    events = json.loads(Path(session.end_profiling()).read_text())
    least: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            least[key] = min(event["dur"], least.get(key, event["dur"]))
    return [Kernel(name, op_type, time / 1e3) for (name, op_type), time in least.items()], result


def shares(kernels: Sequence[Kernel], operators: Mapping[str | None, str]) -> dict[str, tuple[int, float]]:
    """What kernels are for, by COLUMNS -> how many there are, and their time.

    operators   layer -> its operator in the forward graph
    """
    found = dict.fromkeys(COLUMNS, (0, 0.0))
    for kernel in kernels:
        layer, back, _ = kernel.name.partition("/gradient/")
        operator = operators.get(layer, "")
        share = KINDS.get(operator, OTHERS)
        if kernel.op_type.startswith("Reorder"):
            share = WAYS
        elif not back:
            share = FORWARD
        elif kernel.op_type in _MULTIPLIES and (share == KINDS["Conv"] or operator == "Concat"):
            share = PRODUCTS  # of a Concat those that hand back its pieces
        count, taken = found[share]
        found[share] = count + 1, taken + kernel.time
    return found


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _summary(name: str, measured: Measured) -> str:
    """Milliseconds by kind, and over the floor: all kernels, and those that nobody does without."""
    taken = shares(measured.whole, measured.operators)
    least, total = _total(measured.ahead), _total(measured.whole)
    cells = [f"{spent:.1f}" if count else "none" for count, spent in taken.values()]
    ratio = f"{total / least / 2:.2f} ({total:.1f} of {2 * least:.1f} ms)"
    return _row([name, ratio, f"{(least + taken[PRODUCTS][1]) / least / 2:.2f}", *cells])


def _total(kernels: Sequence[Kernel]) -> float:
    return sum(kernel.time for kernel in kernels)


def _print(name: str, measured: Measured, layers: int) -> None:
    """A line for each kind of kernels, and the slowest layers."""
    ahead, whole, operators = measured
    floor, total = 2 * _total(ahead), _total(whole)
    print(f"\n{name}: {total:.1f} ms of kernels, {total / floor:.2f} of the floor, {floor:.1f} ms")
    print("| for | kernels | ms | of the gradient |\n|---|---|---|---|")
    for share, (count, spent) in shares(whole, operators).items():
        print(f"| {share} | {count} | {spent:.2f} | {spent / total:.1%} |")
    by_layer: dict[str, float] = {}
    for kernel in whole:
        layer = kernel.name.partition("/gradient/")[0]
        by_layer[layer] = by_layer.get(layer, 0.0) + kernel.time
    for layer, spent in sorted(by_layer.items(), key=lambda item: -item[1])[:layers]:
        print(f"{spent:9.2f} ms  {layer}")


if __name__ == "__main__":
    main()
