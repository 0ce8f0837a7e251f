"""Where the time above the floor goes: kernels of the gradient's session beside twice those of the forward session.

    python3 tools/bench/shares.py [NETWORK ...] [--threads N] [--layers N]

ONNX Runtime's own profiler, one picture. A node of the gradient bears the name of the forward layer whose cotangent it
computes (Tape.named), so a kernel's time counts to that layer's operator: masks to Relu and Clip, routing to MaxPool.
Of each kernel the least time of all runs counts: it holds on a machine that is not idle as well. Kernels are not all of
the time: what threads wait for each other, and between kernels, is in the benchmark's ratio only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from bench import gradient_peers as peers  # noqa: E402
from bench import networks  # noqa: E402

RUNS = 20
REORDERS = ("ReorderInput", "ReorderOutput")


class Kernel(NamedTuple):
    """A node of an optimised session: its least time of all runs, in microseconds."""

    name: str
    op_type: str
    time: float


def main() -> None:
    """Print one table a network."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("networks", nargs="*", default=list(networks.NAMES))
    options.add_argument("--threads", type=int, default=peers.THREADS)
    options.add_argument("--layers", type=int, default=0, help="list this many layers as well, slowest first")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.networks:
            _print(name, Path(folder), chosen.threads, chosen.layers)


def _print(name: str, folder: Path, threads: int, layers: int) -> None:
    import onnx_ir as ir

    from onnxviz.backends.native import packs_dense
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.normalise import normalise
    from onnxviz.graph.open.load import load

    path = networks.save(name, folder)
    model = load(str(path)).model
    source = next(str(v.name) for v in model.graph.inputs if not v.is_initializer())
    output = model.graph.outputs[0].name
    x = np.random.default_rng(1).standard_normal((1, 3, networks.SIZE, networks.SIZE)).astype(np.float32)
    made = gradient_model(model, of=output, wrt=source, cpu=True)
    ahead, scores = profiled(path.read_bytes(), {source: x}, folder, threads)
    cotangent = np.zeros(scores.shape, np.float32)
    cotangent.reshape(1, -1)[:, 285] = 1.0
    feeds = {source: x, f"{output}.cotangent": cotangent}
    whole, _ = profiled(
        ir.to_proto(made).SerializeToString(), feeds, folder, threads, prepack=packs_dense(made)
    )
    operators = {node.name: node.op_type for node in normalise(model).graph}
    floor, total = 2 * sum(k.time for k in ahead), sum(k.time for k in whole)
    print(
        f"\n{name}: {total / 1e3:.1f} ms of kernels, {total / floor:.2f} of the floor, {floor / 1e3:.1f} ms"
    )
    print("| for the cotangents of | kernels | ms | of the gradient |\n|---|---|---|---|")
    for share, (count, time) in sorted(shares(whole, operators).items(), key=lambda item: -item[1][1]):
        print(f"| {share} | {count} | {time / 1e3:.2f} | {time / total:.1%} |")
    by_layer: Counter[str] = Counter()
    for kernel in whole:
        by_layer[kernel.name.partition("/gradient/")[0]] += kernel.time
    for layer, time in by_layer.most_common(layers):
        print(f"{time / 1e3:9.2f} ms  {layer}")


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
    return [Kernel(name, op_type, time) for (name, op_type), time in least.items()], result


def shares(kernels: Sequence[Kernel], operators: dict[str | None, str]) -> dict[str, tuple[int, float]]:
    """What kernels are for -> how many there are, and their time.

    operators   layer -> its operator in the forward graph
    """
    found: dict[str, tuple[int, float]] = {}
    for kernel in kernels:
        layer, back, _ = kernel.name.partition("/gradient/")
        if kernel.op_type in REORDERS:
            share = "(way into the blocked layout and out of it)"
        elif back:
            share = operators.get(layer, "(sums, and what belongs to no layer)")
        else:
            share = "(the forward pass)"
        count, time = found.get(share, (0, 0.0))
        found[share] = count + 1, time + kernel.time
    return found


if __name__ == "__main__":
    main()
