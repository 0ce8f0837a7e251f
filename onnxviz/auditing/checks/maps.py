"""Whether attribution maps of this network tell what it uses, so that they may be shown as evidence: whether they tell
more than chance, and whether they change when what was learned is taken out."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.attribution.faithfulness import BASELINES, faithfulness
from onnxviz.attribution.sheet import attributions
from onnxviz.auditing.finding import Check, Evidence, NotApplicable, Rule, check, columns
from onnxviz.auditing.statistics import spearman
from onnxviz.auditing.subject import Subject, spread
from onnxviz.errors import ModelUnsuitable, UnsupportedOperator
from onnxviz.network import Network
from onnxviz.opening import load
from onnxviz.progress import silent

_METHODS: Final = ("grad-cam", "smoothgrad", "saliency", "guided")
_PICTURES: Final = 6
_STEPS: Final = 8


@check(
    "faith.gain",
    "Which attribution maps tell more than chance?",
    severity="info",
    threshold="random",
    measure="symmetric relevance gain, by method",
    needs=("network", "classes", "pictures", "gradients"),
    least=4,
    limits="Six pictures: a method may be better than its limits tell. What maps say of single pictures is not judged.",
)
def gain(subject: Subject, rule: Rule) -> Check:
    """Symmetric relevance gain of each method: not told from random where its lower limit is under random's upper."""
    fitting = [name for name in _METHODS if fits(subject, name)]
    if not fitting:
        raise NotApplicable("no attribution method fits this network")
    options: dict[str, Any] = {"steps": _STEPS, "seed": subject.seed, "progress": silent}
    height, width = subject.views[0].shape[:2]
    options["grid"] = min(14, height, width)
    result = faithfulness(subject.net, spread(subject.images, _PICTURES), fitting, **options)
    chance = result.score("random").high or 0.0
    findings = [
        rule.finding(
            round(one.value, 3),
            one.method,
            f"{len(result.names)} pictures cannot tell maps of {one.method} from random ones: their gain is "
            f"{one.value:.3f} (95% limits {one.low:.3f} to {one.high:.3f}), that of random maps up to {chance:.3f}",
            "Do not take them as evidence of what the network looks at: take a method that is better here, or run "
            "`onnxviz faithfulness` on more pictures.",
        )
        for one in result.scores
        if one.better is False
    ]
    told = [f"{one.method} {one.value:+.2f}" for one in result.scores if one.method not in BASELINES]
    figures = {one.method: {"gain": one.value, "low": one.low, "high": one.high} for one in result.scores}
    caption = "Symmetric relevance gain of each method, beside chance and the middle"
    shown = Evidence(caption, result.picture())
    return rule.check(", ".join(told), findings, [shown], figures)


def fits(subject: Subject, method: str) -> bool:
    """Whether the method can be taken of this network at all."""
    try:
        attributions(subject.net, subject.probes[:1], [method], progress=silent)
    except (ModelUnsuitable, UnsupportedOperator):
        return False
    return True


_CASCADED: Final = ("grad-cam", "saliency", "gradient", "guided")
_LOOKED_AT: Final = 2
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
def cascade(subject: Subject, rule: Rule) -> Check:
    """Rank correlation, signed and absolute, of maps with those of random weights, from the head down."""
    from onnxviz.graph.randomise import randomise, weighted

    net = subject.net
    layers = weighted(net.model)
    if len(layers) < 2:
        raise NotApplicable(f"{len(layers)} of its layers have weights in floating point; it takes two")
    methods = [name for name in _CASCADED if fits(subject, name)]
    if not methods:
        raise NotApplicable("no attribution method fits this network")
    pictures = [net.prepare(view) for view in subject.views[:_LOOKED_AT]]
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


def _found(rule: Rule, depths: dict[str, int], found: dict[str, dict[str, list[float]]]) -> Check:
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
    rows = [
        (name, kind, *(round(value, 3) for value in values))
        for name, kinds in found.items()
        for kind, values in kinds.items()
    ]
    table = columns(("method", "kind", *depths), rows)
    told = ", ".join(f"{name} {value:.2f}" for name, value in likeness.items())
    shown = Evidence("Rank correlation of maps with those of random weights, from the head down", table=table)
    return rule.check(told, findings, [shown], {"layers": depths, "correlation": found})


def _depths(count: int) -> dict[str, int]:
    """How many layers are random, from the head down, by what they are called."""
    parts = {"head": 1, "upper quarter": count // 4, "upper half": count // 2, "all": count}
    return {name: max(1, number) for name, number in parts.items()}


def _mean(values: list[float]) -> float:
    """Of those that are numbers; of constant maps, which are like nothing, 0."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else 0.0


def _opened(net: Network, model: ir.Model) -> Network:
    own: dict[str, Any] = {"input": net.input.name, "output": net.chosen_output, "labels": net.labels}
    own |= {"preprocess": net.preprocessing, "threads": net.threads, "limits": net.limits}
    return load(model, provider="cpu", **own)
