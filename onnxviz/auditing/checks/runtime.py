"""Whether the runtime gives what the file says: twice the same, and the same with its optimisations as without."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.finding import Severity
from onnxviz.auditing.registry import Found, Rule, check
from onnxviz.auditing.statistics import Likeness
from onnxviz.auditing.subject import Subject
from onnxviz.graph.dequantised import QUANTISING
from onnxviz.runtime import batching
from onnxviz.text import quoted

# dB under which optimising changed the numbers (at half of it, gravely): of float32, half precision, codes of 8 bits.
_FLOAT, _HALF, _CODES = 30.0, 30.0, 20.0
_MOST: Final = 200.0  # dB of the same numbers


@check(
    "runtime.repeat",
    "Does the same picture get the same numbers twice?",
    severity="high",
    limits="Two runs of one session; random operators show, and kernels that add in no fixed order may.",
)
def repeat(subject: Subject, rule: Rule) -> Found:
    """Two runs on the same input: any difference."""
    first, second = (_outputs(subject) for _ in range(2))
    findings = []
    for name, one in first.items():
        apart = not np.array_equal(one, second[name], equal_nan=one.dtype.kind == "f")
        if apart:
            ratio = decibels(one, second[name])
            text = f"output {quoted(name)} came out otherwise the second time: {ratio:.0f} dB"
            advice = "Look for random operators, or Dropout in training mode, in the file; export it for inference."
            findings.append(rule.finding(f"{ratio:.0f} dB", name, text, advice))
    return Found("the same" if not findings else "not the same", findings)


@check(
    "runtime.optimiser",
    "Does ONNX Runtime compute what the file says?",
    severity="medium",
    threshold="30 dB; 20 of quantised files",
    limits="Of this version of ONNX Runtime on this machine and this provider; on a few pictures.",
)
def optimiser(subject: Subject, rule: Rule) -> Found:
    """Signal-to-noise ratio of the outputs with graph optimisations against without."""
    net = subject.net
    plain, quick = _outputs(subject, optimise=False), _outputs(subject)
    model = net.model
    least = _FLOAT
    if any(
        value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
        for value in model.graph.initializers.values()
    ):
        least = _HALF
    if any(node.op_type in QUANTISING or "Integer" in node.op_type for node in model.graph.all_nodes()):
        least = _CODES
    ratios = {name: decibels(one, quick[name]) for name, one in plain.items()}
    findings = []
    for name, ratio in ratios.items():
        if ratio < least:
            text = (
                f"ONNX Runtime's graph optimisations change output {quoted(name)}: {ratio:.1f} dB between with and "
                f"without, where {least:.0f} are usual for such files"
            )
            advice = (
                "Of a quantised file: its weights may be stored as float, which ONNX Runtime quantises per tensor "
                "(WeightBiasQuantization); store them quantised, or set session.disable_quant_qdq=1. Else run it with "
                "ORT_DISABLE_ALL, and report it to ONNX Runtime."
            )
            severity: Severity | None = "high" if ratio < least / 2 else None
            findings.append(rule.finding(f"{ratio:.1f} dB", name, text, advice, severity=severity))
    lowest = min(ratios.values(), default=_MOST)
    told = "the same numbers" if lowest >= _MOST else f"{lowest:.1f} dB"
    return Found(told, findings, figures={"decibels": ratios, "least": least})


def _outputs(subject: Subject, optimise: bool | None = None) -> dict[str, np.ndarray]:
    """All outputs for the probes, those of a run a picture where that is what the file takes."""
    net = subject.net
    program = net.program() if optimise is None else net.program(optimise=optimise)
    size = max(1, net.batch_size())
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(subject.probes), size):
        chunk = batching.filled(subject.probes[start : start + size], net.batched[1] or 1)
        for name, array in program({net.input.name: chunk}).items():
            found.setdefault(name, []).append(np.asarray(array).reshape(-1))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


def decibels(one: np.ndarray, other: np.ndarray) -> float:
    """Signal to noise: of `one`, less its mean, against its difference from `other`; 200 of the same numbers."""
    if one.shape != other.shape:
        return -math.inf
    a, b = (np.asarray(x, np.float64) for x in (one, other))
    kept = np.isfinite(a)
    if not np.array_equal(kept, np.isfinite(b)):
        return -math.inf
    like, middle = Likeness(), a[kept].mean() if kept.any() else 0.0
    like.add(a[kept] - middle, b[kept] - middle)
    if like.noise == 0:
        return _MOST
    # Not `sqnr`, which takes norms under 2.2e-16 for that: what untrained networks answer is smaller.
    return min(_MOST, 10 * math.log10(like.signal / like.noise)) if like.signal > 0 else -math.inf
