"""Where the damage comes from and what to do about it, in words: weights, rounding, layers, and what this processor and
ONNX Runtime make of a file that is as it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from onnxviz.comparing.answers import Answers
from onnxviz.comparing.hybrids import decibels
from onnxviz.comparing.local import APART_DB, Local, Split
from onnxviz.comparing.result import Compared
from onnxviz.comparing.rules import LAYER_SHARE, RULES, STILL
from onnxviz.comparing.why import Why
from onnxviz.text import amount, printable

#: What to do where `Why.saturates`, whatever the form of the file.
CUT_SUMS: Final = (
    "weights of 8 bits times activations of 8 bits: on this processor, which has no VNNI, sums of two products are cut "
    "at 16 bits; run it with session.x64quantprecision=1, or quantise anew with reduce_range=True (7 bits)"
)
#: And where ONNX Runtime's optimisations change what is computed.
REWRITTEN: Final = (
    "run it without: SessionOptions.graph_optimization_level, or session.disable_quant_qdq=1 where quantisers are "
    "moved; quantise weights too, if they are float"
)
_CAUSES: Final = {"weights": "the weights", "operators": "operators that B has otherwise"}


def source(split: Split | None, why: Why | None, local: Local | None = None) -> str:
    """What most noise comes from, and what to do about it in a file like B; '' where there is none.

    Where one layer does the damage, what would be said of the whole file is beside the point.
    """
    if split is None or split.cause is None:
        return ""
    name = _CAUSES.get(split.cause, split.cause)
    if split.of_a:
        return f"{name}, of A: it is A that is quantised, and B is not"
    worst = next(iter(local.ranked), None) if local is not None else None
    if worst is not None and worst.share >= LAYER_SHARE:
        return f"{name}, {worst.share:.0%} of it at {printable(worst.layer)} alone: mend that layer first"
    layers = () if why is None else why.layers
    if split.cause == "operators":
        return f"{name}: mend the layers named first, or export B anew"
    if split.cause == "rounding" and split.halves:
        return f"rounding of weights and values to {split.halves}: leave the layers named first in float32"
    if split.cause == "weights":
        held = {(one.codes, one.granularity) for layer in layers for one in layer.weights if one.codes}
        if not held:
            return "the weights, none of which is quantised: mend the layers named first"
        told = " and ".join(sorted(f"{codes} {granularity}" for codes, granularity in held))
        if why is not None and why.b.reduce_range:
            told += ", within 7 bits as by reduce_range"
        per_channel = "per channel, or " if any("tensor" in str(one) for _, one in held) else ""
        return f"the weights ({told}): quantise them {per_channel}with more bits, or leave the first layers in float"
    if split.cause == "clipping":
        return "clipping: ranges are too small, so values are cut off; calibrate anew, on real pictures"
    bits = " or ".join(map(str, sorted({one.bits for one in layers if one.bits}))) or "8"
    if any(one.dynamic for one in layers):
        return f"rounding: {bits} bits are too few for activations; take more, or leave the first layers in float"
    return (
        f"rounding: ranges are too large for what goes through them, or {bits} bits too few; calibrate anew"
    )


def mostly(split: Split, why: Why | None, local: Local | None) -> str:
    """What makes the noise, as a sentence of its own: the largest part, or that no part explains what B loses."""
    if local is None or not split.short_of(local):
        return f"mostly {source(split, why, local)}"
    rest = (
        "this processor cuts B's sums" if why is not None and why.measured_cut else "they work on each other"
    )
    return (
        f"these by themselves would leave {split.db:.0f} dB at the answers, where B has {local.measured:.0f}: "
        f"most of the noise is none of them alone ({rest})"
    )


def noise(found: Compared) -> list[str]:
    """What makes the noise, and where the answers have another: sentences."""
    split, why, effects, answers = found.split, found.why, found.effects, found.answers
    moved = any(one.id == "compare.runtime" for one in found.findings)
    buried = _buried(why, effects, answers, moved)
    behind = "" if answers is None else answers.behind
    told = [mostly(split, why, effects)] if split is not None and not (buried or behind) else []
    return [one for one in (*told, apart(answers, effects, why, moved)) if one]


def explained(found: Compared) -> bool:
    """Whether the largest part of the noise is what B loses at the answers."""
    short = found.split is None or found.split.short_of(found.effects)
    moved = any(one.id == "compare.runtime" for one in found.findings)
    behind = found.answers is not None and found.answers.behind
    return not (short or behind or _buried(found.why, found.effects, found.answers, moved))


def apart(answers: Answers | None, local: Local | None, why: Why | None, moved: bool) -> str:
    """That answers lose otherwise than layers do, which are measured without ONNX Runtime's optimisations; '' where
    they are within 6 dB, or hardly differ.

    moved   whether these optimisations are known to change B's outputs (`compare.runtime`)
    """
    lost = _lost(local, answers)
    if local is None or abs(lost) <= APART_DB:
        return ""
    because = _because(why, local, answers, moved) or "other pictures, or other kernels"
    return (
        f"layers are measured without ONNX Runtime's optimisations, and B has {local.measured:.0f} dB there; the "
        f"answers have {local.measured - lost:.0f}: {because}"
    )


def signal(local: Local, answers: Answers | None) -> tuple[str, str]:
    """The signal-to-noise ratio at the answers, as B is run where that is far from the layers' runs, and on what."""
    lost = _lost(local, answers)
    lost = lost if abs(lost) > APART_DB else 0.0
    there = f"{local.measured:.1f} dB " if lost else ""
    note = f"{there}on {amount(local.pictures, 'picture')}, without ONNX Runtime's optimisations"
    if math.isfinite(local.predicted):
        note += f"; {local.predicted:.1f} dB predicted from single layers"
        note += ", layers work on each other" if local.apart else ""
    return f"{local.measured - lost:.1f} dB", note


def _lost(local: Local | None, answers: Answers | None) -> float:
    """How many decibels the answers have less than the layers' runs; 0 where that cannot be told, or is nothing."""
    told = [] if answers is None else [one for one in answers.likeness.values() if one.signal]
    if local is None or not told:
        return 0.0
    own = decibels(math.sqrt(sum(one.noise / one.signal for one in told) / len(told)))
    return local.measured - own if min(local.measured, own) < decibels(STILL) else 0.0


def _because(why: Why | None, local: Local | None, answers: Answers | None, moved: bool) -> str:
    """What answers lose otherwise by than layers do; '' where that is not known."""
    if cuts := _cut_below(why, local, answers):
        return f"this processor cuts the sums of {cuts}"
    # Where the processor might have cut them and has not, it is what else is done to quantisers.
    rewrites = why is not None and why.saturates and not why.b.written and _lost(local, answers) > 0
    return "its rewriting of the graph changes B's outputs" if moved or rewrites else ""


def _buried(why: Why | None, local: Local | None, answers: Answers | None, moved: bool) -> bool:
    """Whether what layers lose is little of what answers do, and it is known why."""
    return _lost(local, answers) > APART_DB and bool(_because(why, local, answers, moved))


def _cut_below(why: Why | None, local: Local | None, answers: Answers | None) -> str:
    """Of which files this processor cuts sums, where answers lose by more than layers do: 'B', 'A', 'A and B'; '' of
    none."""
    lost = _lost(local, answers)
    if why is None or local is None or lost <= APART_DB:
        return ""
    cut = why.a_saturates, why.cuts(local.measured - lost)
    return " and ".join(name for name, one in zip("AB", cut, strict=True) if one)


def in_question(parts: Mapping[str, Any]) -> bool:
    """Whether it is either the processor or ONNX Runtime's rewriting that B's answers lose by, and a run without the
    former would tell."""
    why = parts.get("why")
    if why is None or not why.saturates or why.measured_cut:
        return False
    return rewritten(parts) or _lost(parts.get("local"), parts.get("answers")) > APART_DB


def rewritten(parts: Mapping[str, Any]) -> bool:
    """Whether ONNX Runtime computes something else than B's file says: `compare.runtime`."""
    moved = parts.get("runtime")
    return moved is not None and RULES["compare.runtime"].grade(moved.sqnr) is not None


def cut(parts: Mapping[str, Any]) -> str:
    """What to do where this processor computes something else than the files say; '' where it does not.

    Told by B's outputs with optimisations and without; and where both are cut, or A's are, by what the layers lose.
    """
    why, local, answers = (parts.get(name) for name in ("why", "local", "answers"))
    cuts = _cut_below(why, local, answers)
    if not cuts and rewritten(parts) and why is not None and why.cuts(parts["runtime"].sqnr):
        cuts = "B"
    return (f"A's {CUT_SUMS}" if cuts == "A" else CUT_SUMS) if cuts else ""


def cause(parts: Mapping[str, Any]) -> str:
    """Where the damage comes from and what to do about that; '' where it is not known."""
    split, local, why, answers = (parts.get(name) for name in ("split", "local", "why", "answers"))
    if answers is not None and answers.behind:
        return f"mend what B does behind its logits: {printable(answers.scores)}"
    told = [cut(parts)] if cut(parts) else []
    if _buried(why, local, answers, rewritten(parts)):
        return told[0] if told else REWRITTEN
    if split is not None and split.cause is not None and not split.short_of(local):
        told.append(f"{split.shares[split.cause]:.0%} of the noise comes from {source(split, why, local)}")
    worst = next(iter(local.ranked), None) if local is not None else None
    if worst is not None and worst.e and (worst.share < LAYER_SHARE or not told):
        told.append(f"look at {printable(worst.layer)} first ({worst.share:.0%} of the damage)")
    return "; ".join(told)
