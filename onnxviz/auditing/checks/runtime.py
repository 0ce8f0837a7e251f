"""Whether the runtime gives what the file says: twice the same, with its optimisations as without, here as there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz import programs
from onnxviz.auditing.finding import Check, Evidence, NotApplicable, Rule, Severity, check
from onnxviz.auditing.statistics import Likeness
from onnxviz.auditing.subject import Subject
from onnxviz.elsewhere import Reference, on
from onnxviz.errors import ModelFailed, OnnxVizError, judged
from onnxviz.graph.analysis.dataflow import by_name
from onnxviz.graph.naming import real_name
from onnxviz.graph.operators import QUANTISING, computes
from onnxviz.graph.output import Tail, ranked
from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.runtime import providers
from onnxviz.runtime.providers import CPU
from onnxviz.text import quoted

# dB under which optimising changed the numbers (at half of it, gravely): of floats, codes of 8 bits.
_FLOAT, _CODES = 30.0, 15.0
_LAYER, _LAYER_CODES = 40.0, 20.0  # dB, of a layer on another provider
_ROUNDING: Final = 1e-4  # of a layer's largest number
_AT_ONCE: Final = 32  # layers whose values are held together
_MOST: Final = 200.0  # dB of the same numbers
# What makes shares of 0 to 1: they are right to the last bits of 1, however small they are themselves.
_SHARES: Final = ("sigmoid", "softmax", "hard_sigmoid")
_LAST: Final = 1e-6


@check(
    "runtime.repeat",
    "Does the same picture get the same numbers twice?",
    severity="high",
    limits="Two runs of one session; random operators show, and kernels that add in no fixed order may.",
)
def repeat(subject: Subject, rule: Rule) -> Check:
    """Two runs on the same input: any difference."""
    try:
        first, second = (_outputs(subject) for _ in range(2))
    except ModelFailed as error:
        text = f"the file opens and does not run: {error}"
        advice = "Ask for a file that was run before it was sent."
        finding = rule.finding("it does not run", subject.net.input.name, text, advice)
        return rule.check("it does not run", [finding])
    findings = []
    for name, one in first.items():
        if not np.array_equal(one, second[name], equal_nan=one.dtype.kind == "f"):
            ratio = decibels(one, second[name])
            text = f"output {quoted(name)} came out otherwise the second time: {ratio:.0f} dB"
            advice = "Look for random operators, or Dropout in training mode, in the file; export it for inference."
            findings.append(rule.finding(f"{ratio:.0f} dB", name, text, advice))
    return rule.check("the same" if not findings else "not the same", findings)


@check(
    "runtime.optimiser",
    "Does ONNX Runtime compute what the file says?",
    severity="medium",
    threshold="30 dB; 15 of quantised files",
    measure="signal to noise of the outputs against those without optimisation",
    limits="Of this version of ONNX Runtime on this machine and this provider; on a few pictures.",
)
def optimiser(subject: Subject, rule: Rule) -> Check:
    """Signal-to-noise ratio of the outputs with graph optimisations against without."""
    net = subject.net
    names = _compared(net)
    plain, quick = _outputs(subject, names, optimise=False), _outputs(subject, names)
    least = _least(net.model, _FLOAT, _CODES)
    ratios = {name: decibels(one, quick[name]) for name, one in plain.items()}
    values = by_name(net.model.graph)
    for name, one in plain.items():
        maker = values[name].producer() if name in values else None
        shares = maker is not None and computes(maker.op_type) in _SHARES
        if shares and np.abs(one - quick[name]).max(initial=0) < _LAST:
            ratios[name] = _MOST
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
            proof = _both(subject, name, one, quick[name])
            headline = "ONNX Runtime, as it comes, computes something else than the file says"
            findings.append(rule.finding(f"{ratio:.1f} dB", name, text, advice, proof, severity, headline))
    lowest = min(ratios.values(), default=_MOST)
    told = "the same numbers" if lowest >= _MOST else f"{lowest:.1f} dB"
    return rule.check(told, findings, figures={"decibels": ratios, "least": least})


def _both(subject: Subject, name: str, plain: np.ndarray, quick: np.ndarray) -> list[Evidence]:
    from onnxviz.figures.grids import side_by_side

    views, count = subject.views, len(subject.probes)
    if len(views) != count or subject.no_classes or name != subject.net.end.output:
        return []
    says, gives = (
        [subject.label(int(row.argmax())) for row in scores.reshape(count, -1)] for scores in (plain, quick)
    )
    cards = [
        (subject.net.preprocessing.shown(view), f"{one}\n{other if one != other else 'the same'}")
        for view, one, other in zip(views, says, gives, strict=True)
    ]
    caption = "The first pictures: what the file says, and under it what ONNX Runtime makes of it"
    return [Evidence(caption, side_by_side(cards, height=160))]


@check(
    "runtime.provider",
    "Does the provider compute what the CPU does?",
    severity="medium",
    threshold="40 dB, layer by layer and of the gradient; 20 of quantised files",
    measure="signal to noise of each layer, and of the gradient, against the CPU",
    limits="Of one picture on this machine, its driver and this version of ONNX Runtime. Layers that the provider "
    "leaves to the CPU are the CPU's.",
)
def provider(subject: Subject, rule: Rule) -> Check:
    """Signal-to-noise ratio of each layer, and of the gradient, on the provider against the CPU.

    The first layer that is too low is named; a provider that crashes or refuses the file, too.
    """
    net = subject.net
    runs_on = providers.name(net.provider)
    if runs_on == CPU:
        raise NotApplicable("the provider is the CPU; --provider names another")
    least, x = _least(net.model, _LAYER, _LAYER_CODES), subject.probes[:1]
    with on(net, "cpu") as here:
        reference = Reference.of(here, x)
        try:
            with on(net, net.provider) as there:
                ran = reference.run(there)
                if there.program().provider == CPU:
                    raise NotApplicable(f"{runs_on} does not start, and the CPU takes its place")
                ratios = _layers(here, there, x, least)
        except OnnxVizError as error:
            text = f"{runs_on} does not run what the CPU runs: {error}"
            advice = "Run the file on the CPU, or update the provider's package and its driver."
            finding = rule.finding("it does not run", runs_on, text, advice, severity="high")
            return rule.check("it does not run", [finding])
    parts = {name: decibels(reference.ran[name].values, one.values) for name, one in ran.items()}
    rows: dict[str, list[Any]] = {"layer": list(ratios), "dB": list(ratios.values())}
    table = Evidence(f"Layers on {runs_on} against the CPU", table=rows)
    first = next((name for name, ratio in ratios.items() if ratio < least), None)
    findings = []
    if first is not None:
        op = next(one.op for one in net.layers if one.name == first)
        text = (
            f"from {quoted(first)} ({op}) on {runs_on} computes other numbers than the CPU: {ratios[first]:.1f} dB "
            f"there, {parts['network']:.1f} dB at the output, where {least:.0f} are the least"
        )
        advice = "Run the file on the CPU, or this operator; report it to the provider's makers with the layer's name."
        severity: Severity | None = "high" if parts["network"] < least / 2 else None
        findings.append(rule.finding(f"{ratios[first]:.1f} dB", first, text, advice, [table], severity))
    elif parts.get("gradient", _MOST) < least:
        ratio = parts["gradient"]
        text = f"{runs_on} gives another gradient than the CPU: {ratio:.1f} dB, where all layers are alike"
        advice = "Take gradients on the CPU (--provider cpu): explanations made there are of another network."
        findings.append(rule.finding(f"{ratio:.1f} dB", "gradient", text, advice, [table]))
    lowest = min([*ratios.values(), *parts.values()], default=_MOST)
    told = "the same numbers" if lowest >= _MOST else f"{lowest:.1f} dB at the least"
    nodes = {name: one.placed for name, one in ran.items()}
    figures = {"decibels": ratios, **parts, "least": least, "provider": runs_on, "nodes": nodes}
    return rule.check(told, findings, [table], figures)


def _layers(here: Network, there: Network, x: np.ndarray, least: float) -> dict[str, float]:
    """Decibels of layers on one provider against another, up to the first that are too low."""
    layers, ratios = [one.name for one in here.layers], dict[str, float]()
    for start in range(0, len(layers), _AT_ONCE):
        ratios |= _apart(here, there, x, layers[start : start + _AT_ONCE])
        if min(ratios.values(), default=_MOST) < least:
            break
    return ratios


def _apart(here: Network, there: Network, x: np.ndarray, names: list[str]) -> dict[str, float]:
    """Decibels of some layers; of numbers only, no places or masks."""
    feeds = {here.input.name: programs.filled(x, here.batched[1] or 1)}
    cuts = (net.compile(lambda: cut(here.batched[0], names), key=None) for net in (here, there))
    one, other = (program(feeds, names) for program in cuts)
    real = [name for name in names if one[name].dtype.kind == "f"]
    return {name: decibels(one[name].reshape(-1), other[name].reshape(-1)) for name in real}


def _as_good_as(one: np.ndarray, other: np.ndarray) -> bool:
    largest = float(np.abs(one[np.isfinite(one)]).max(initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=_ROUNDING * largest, equal_nan=True))


def _least(model: ir.Model, plain: float, coded: float) -> float:
    """The decibels that files of a kind have to reach: of codes of 8 bits fewer."""
    if any(node.op_type in QUANTISING or "Integer" in node.op_type for node in model.graph.all_nodes()):
        return coded
    return plain


def _compared(net: Network) -> list[str]:
    """The values whose numbers are compared: of what was picked out of many, such as boxes by their scores, the many.

    Which are picked, and in which order, may hang on the last bit of a score. None: all outputs, as they are.
    """
    with judged(net.judge):
        tail = Tail(net.batched[0], net.input.name)
        there = by_name(net.batched[0].graph)
        found: list[ir.Value] = []
        for value in tail.graph.outputs:
            node = tail.picked(value)
            found += [value] if node is None else [one for one in node.inputs[:2] if one is not None]
        kept = [value for value in found if value in tail.moved and tail.is_float(value)]
        names = dict.fromkeys(real_name(value) for value in kept if ranked(value) is None)
    compared = [name for name in names if name in there]
    return [] if compared == [value.name for value in net.batched[0].graph.outputs] else compared


def _outputs(subject: Subject, names: Sequence[str] = (), **options: Any) -> dict[str, np.ndarray]:
    """All outputs for the probes (or these values), those of a run a picture where that is what the file takes."""
    net = subject.net
    program = net.program(names, **options)
    size = max(1, net.batch_size())
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(subject.probes), size):
        chunk = programs.filled(subject.probes[start : start + size], net.batched[1] or 1)
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
    ratio = min(_MOST, 10 * math.log10(like.signal / like.noise)) if like.signal > 0 else -math.inf
    # What is one number throughout has no signal for rounding to be held against.
    return _MOST if ratio < 0 and _as_good_as(one, other) else ratio
