"""Where the time above the floor goes: kernels of the gradient's session beside twice those of the forward session.

    python3 tools/bench/shares.py [NETWORK ...] [--threads N] [--layers N] [--table]

ONNX Runtime's own profiler, one picture. A node of the gradient bears the name of the forward layer whose cotangent it
computes (Tape.named), so a kernel's time counts to that layer's operator: masks to Relu and Clip, routing to MaxPool.
Of each kernel the least time of all runs counts: it holds on a machine that is not idle as well. Kernels are not all of
the time: what threads wait for each other, and between kernels, is in the time of whole runs, which is taken beside,
without the profiler.

The bound is what nobody gets under who computes with ONNX Runtime's kernels and keeps the forward pass: that pass, and
of the way back the convolutions and products of matrices alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench import gradient_peers as peers  # noqa: E402
from bench import networks  # noqa: E402

RUNS = 20
REST = 0.1  # seconds until the threads of a session before sleep
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
    """A node of an optimised session: its least time of all runs, in microseconds."""

    name: str
    op_type: str
    time: float


class Session(NamedTuple):
    """What was measured of one: its kernels as they run, a whole run in microseconds, its first output."""

    kernels: list[Kernel]
    run: float
    result: np.ndarray


class Measured(NamedTuple):
    """A network's two sessions, and layer -> its operator in the forward graph."""

    ahead: Session
    whole: Session
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
        heads = ("network", "gradient ÷ floor", "bound ÷ floor", *COLUMNS, "between kernels")
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
    ahead = profiled(path.read_bytes(), {source: x}, folder, threads)
    cotangent = np.zeros(ahead.result.shape, np.float32)
    cotangent.reshape(1, -1)[:, 285] = 1.0
    feeds = {source: x, f"{output}.cotangent": cotangent}
    message, prepack = ir.to_proto(made).SerializeToString(), packs_dense(made)
    whole = profiled(message, feeds, folder, threads, prepack=prepack)
    return Measured(ahead, whole, {node.name: node.op_type for node in normalise(model).graph})


def profiled(
    model: bytes, feeds: dict[str, np.ndarray], folder: Path, threads: int, *, prepack: bool = True
) -> Session:
    """Run it without the profiler, for the time of a whole run, and with it."""
    import onnxruntime

    def session(**profile: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        for key, value in profile.items():
            setattr(options, key, value)
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    bare = session()
    result = bare.run(None, feeds)[0]
    time.sleep(REST)
    run = statistics.median(_run(bare, feeds) for _ in range(RUNS))
    del bare
    time.sleep(REST)
    engine = session(enable_profiling=True, profile_file_prefix=str(folder / "profile"))
    for _ in range(RUNS):
        engine.run(None, feeds)
    events = json.loads(Path(engine.end_profiling()).read_text())
    least: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            key = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            least[key] = min(event["dur"], least.get(key, event["dur"]))
    return Session([Kernel(name, op_type, time) for (name, op_type), time in least.items()], run, result)


def _run(engine: Any, feeds: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    engine.run(None, feeds)
    return 1e6 * (time.perf_counter() - start)


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
    """Milliseconds by kind, and over the floor: of whole runs, and of the kernels that nobody does without."""
    ahead, whole, operators = measured
    floor, taken = 2 * ahead.run, shares(whole.kernels, operators)
    least = sum(kernel.time for kernel in ahead.kernels)
    bound = (least + taken[PRODUCTS][1]) / (2 * least)
    between = whole.run - sum(kernel.time for kernel in whole.kernels)
    cells = [f"{spent / 1e3:.1f}" if count else "none" for count, spent in taken.values()]
    ratio = f"{whole.run / floor:.2f} ({whole.run / 1e3:.1f} of {floor / 1e3:.1f} ms)"
    return _row([name, ratio, f"{bound:.2f}", *cells, f"{between / 1e3:.1f}"])


def _print(name: str, measured: Measured, layers: int) -> None:
    """A line for each kind of kernels by the operator they run, and the slowest layers."""
    ahead, whole, operators = measured
    floor, total = 2 * sum(k.time for k in ahead.kernels), sum(k.time for k in whole.kernels)
    print(
        f"\n{name}: {total / 1e3:.1f} ms of kernels, {total / floor:.2f} of the floor, {floor / 1e3:.1f} ms"
    )
    print(
        f"whole runs {whole.run / 1e3:.1f} ms, {whole.run / ahead.run / 2:.2f} of {2 * ahead.run / 1e3:.1f} ms"
    )
    print("| for | kernels | ms | of the gradient |\n|---|---|---|---|")
    for share, (count, spent) in shares(whole.kernels, operators).items():
        print(f"| {share} | {count} | {spent / 1e3:.2f} | {spent / total:.1%} |")
    by_layer: dict[str, float] = {}
    for kernel in whole.kernels:
        layer = kernel.name.partition("/gradient/")[0]
        by_layer[layer] = by_layer.get(layer, 0.0) + kernel.time
    for layer, spent in sorted(by_layer.items(), key=lambda item: -item[1])[:layers]:
        print(f"{spent / 1e3:9.2f} ms  {layer}")


if __name__ == "__main__":
    main()
