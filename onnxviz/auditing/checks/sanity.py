"""Whether attribution maps change when what was learned is taken out: cascading randomisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.attribution.sheet import attributions
from onnxviz.auditing.checks.faith import fits
from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.registry import Found, NotApplicable, Rule, check
from onnxviz.auditing.statistics import spearman
from onnxviz.auditing.subject import Subject
from onnxviz.network import Network
from onnxviz.opening import load
from onnxviz.progress import silent

if TYPE_CHECKING:
    import onnx_ir as ir

_METHODS: Final = ("grad-cam", "saliency", "gradient", "guided")
_PICTURES: Final = 2
_ALIKE: Final = 0.8


@check(
    "sanity.cascade",
    "Which attribution maps ignore what was learned?",
    severity="info",
    threshold=_ALIKE,
    measure="rank correlation of maps with those of random weights in the upper quarter of the layers, by method",
    needs=("network", "classes", "pictures", "gradients"),
    limits="Two pictures and one draw of random weights. That a map changes does not make it right.",
)
def cascade(subject: Subject, rule: Rule) -> Found:
    """Rank correlation, signed and absolute, of maps with those of random weights, from the head down."""
    from onnxviz.graph.randomise import randomise, weighted

    net = subject.net
    layers = weighted(net.model)
    if len(layers) < 2:
        raise NotApplicable(f"{len(layers)} of its layers have weights in floating point; it takes two")
    methods = [name for name in _METHODS if fits(subject, name)]
    if not methods:
        raise NotApplicable("no attribution method fits this network")
    pictures = [net.prepare(view) for view in subject.views[:_PICTURES]]
    before = [attributions(net, x, methods, progress=silent) for x in pictures]
    targets = [one.grid[0][0].target for one in before]
    depths = _depths(len(layers))
    found: dict[str, dict[str, list[float]]] = {name: {"signed": [], "absolute": []} for name in methods}
    for count in depths.values():
        other = _opened(net, randomise(net.model, layers[:count], seed=subject.seed))
        after = [
            attributions(other, x, methods, target=target, progress=silent)
            for x, target in zip(pictures, targets, strict=True)
        ]
        for column, name in enumerate(methods):
            pairs = [(a.values[0, column], b.values[0, column]) for a, b in zip(before, after, strict=True)]
            found[name]["signed"].append(_mean([spearman(a, b) for a, b in pairs]))
            found[name]["absolute"].append(_mean([spearman(np.abs(a), np.abs(b)) for a, b in pairs]))
    return _found(rule, depths, found)


def _found(rule: Rule, depths: dict[str, int], found: dict[str, dict[str, list[float]]]) -> Found:
    judged = list(depths).index("upper quarter")
    likeness = {name: max(one["signed"][judged], one["absolute"][judged]) for name, one in found.items()}
    findings = [
        rule.finding(
            round(value, 3),
            name,
            f"maps of {name} hardly change when the upper quarter of the layers, the head among them, "
            f"has random weights (rank correlation {value:.2f}): they show edges, not what was learned of classes",
            "Do not take them as evidence of what the network looks at.",
        )
        for name, value in likeness.items()
        if value > rule.bar
    ]
    table: dict[str, list[Any]] = {"method": [], "kind": [], **{depth: [] for depth in depths}}
    for name, kinds in found.items():
        for kind, values in kinds.items():
            table["method"].append(name)
            table["kind"].append(kind)
            for depth, value in zip(depths, values, strict=True):
                table[depth].append(round(value, 3))
    told = ", ".join(f"{name} {value:.2f}" for name, value in likeness.items())
    shown = Evidence("Rank correlation of maps with those of random weights, from the head down", table=table)
    return Found(told, findings, [shown], {"layers": depths, "correlation": found})


def _depths(count: int) -> dict[str, int]:
    """How many layers are random, from the head down, by what they are called."""
    parts = {"head": 1, "upper quarter": count // 4, "upper half": count // 2, "all": count}
    return {name: max(1, number) for name, number in parts.items()}


def _mean(values: list[float]) -> float:
    """Of those that are numbers; of constant maps, which are like nothing, 0."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else 0.0


def _opened(net: Network, model: ir.Model) -> Network:
    """A changed network as the other was opened."""
    return load(
        model,
        preprocess=net.preprocessing,
        labels=net.labels,
        provider="cpu",
        threads=net.threads,
        limits=net.limits,
        input=net.input.name,
        output=net.chosen_output,
    )
