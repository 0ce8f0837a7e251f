"""What a comparison says in words: the lines on a screen, and sentences that the page has too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from onnxviz.auditing.finding import Finding
from onnxviz.comparing.judge import source
from onnxviz.comparing.local import Exclusion, Split
from onnxviz.comparing.result import Compared
from onnxviz.text import printable

#: Layers, and findings, that the screen names.
FIRST: Final = 3
WORST: Final = 10
_HARDLY: Final = 0.005  # of the damage: less is not named
# The parts of a comparison that have other names for a reader.
_PARTS: Final = {
    "runtime": "B optimised against not",
    "why": "figures of the layers",
    "local": "which layer",
    "split": "calibration or weights",
    "advice": "what to do",
    "flips": "maps of changed answers",
    "drift": "where they look",
}


def lines(found: Compared) -> list[str]:
    """Answers, the first layers with the reason, what to do, findings: each with its head."""
    told: list[tuple[str, list[str]]] = []
    if found.answers is not None:
        told.append(("answers", found.answers.sentences()))
    elif not found.pictured:
        told.append(("pictures", ["none were given: weights, ranges and structure were compared"]))
    layers = [f"{share:5.0%}  {printable(name, 60)}  {why}".rstrip() for name, share, why in _first(found)]
    if layers:
        layers.insert(0, "share of the damage that each layer does alone, and why")
    elif found.effects is not None:
        layers = ["no layer differs"]
    told.append(("layers", layers))
    if found.split is not None and found.split.cause is not None:
        mostly = f"mostly {source(found.split, found.why, found.effects)}"
        told.append(("noise from", [shares(found.split), mostly]))
    todo = list(advice(found))
    if found.advice is not None and found.advice.best is not None:
        chosen = found.advice.best
        todo += [exclusion(chosen, found), *(f"  {printable(name)}" for name in chosen.layers)]
        todo += ["names for nodes_to_exclude: exclude.json"] if quantised(found) else []
    told.append(("to do", todo))
    findings = [_finding(one) for one in found.findings[:WORST]] or ["none"]
    more = len(found.findings) - WORST
    told.append(("findings", findings + ([f"{more} more: see the report"] if more > 0 else [])))
    told.append(("not run", list(gaps(found))))
    width = max(len(head) for head, _ in told)
    return [
        f"{(head if row == 0 else '').ljust(width)}  {text}"
        for head, texts in told
        for row, text in enumerate(texts)
    ]


def gaps(found: Compared) -> Iterator[str]:
    """The parts that were not run, and why."""
    yield from (f"{_PARTS.get(part, part)}: {why}" for part, why in found.reasons.items())


def _finding(one: Finding) -> str:
    return f"{one.severity.ljust(6)}  {one.id}: {one.sentence}"


def _first(found: Compared) -> list[tuple[str, float, str]]:
    """The layers to look at first: name, share, reason."""
    if found.effects is None:
        return []
    reasons = dict(zip(found.layers.get("layer", ()), found.layers.get("reason", ()), strict=False))
    ranked = [one for one in found.effects.ranked[:FIRST] if one.e > 0]
    named = ranked[:1] + [one for one in ranked[1:] if one.share >= _HARDLY]
    return [(one.layer, one.share, reasons.get(one.layer, "")) for one in named]


def exclusion(one: Exclusion, found: Compared) -> str:
    """What a list to exclude is worth."""
    before = None if found.advice is None else found.advice.agreement
    count = len(one.layers)
    layers = "this layer" if count == 1 else f"these {count} layers"
    gain = f"{one.gain:+.1f} dB" if np.isfinite(one.gain) else "nothing is left of the damage"
    gain += ", measured"
    if one.agreement is not None and before is not None:
        gain += f", the same class in {one.agreement:.0%} of the probes instead of {before:.0%}"
    if not quantised(found):
        return f"put back {layers} as in A: {gain}"
    return f"leave {layers} in float: {gain}; {one.macs:.1%} of the multiply-accumulates turn float"


def quantised(found: Compared) -> bool:
    """Whether B holds anything as integers."""
    return found.why is None or bool(found.why.activations or found.why.weights)


def advice(found: Compared) -> Iterator[str]:
    """What the findings advise, each once with its places, and what the processor has to do with it."""
    places: dict[str, dict[str, None]] = {}
    for one in found.findings:
        if one.advice:
            places.setdefault(one.advice, {})[one.where] = None
    for text, where in places.items():
        if any(text != other and text in other for other in places):
            continue
        named = [] if "" in where else list(where)  # of the whole file: no place matters
        more = f" and {len(named) - FIRST} more layers" if len(named) > FIRST else ""
        yield f"{text} ({', '.join(named[:FIRST])}{more})" if named else text
    if found.why is not None:
        yield from (text for text in found.why.sentences() if not any(text in said for said in places))


def upper(text: str) -> str:
    """As a sentence begins; names of methods and layers inside it keep their letters."""
    return text[:1].upper() + text[1:]


def shares(split: Split) -> str:
    """'weights 79%, clipping 0%, rounding 21%'."""
    return ", ".join(f"{name} {share:.0%}" for name, share in split.shares.items())
