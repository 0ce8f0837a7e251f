"""What a comparison shows: its page for `auditing.report`, the files beside it, and the lines on a screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import tables
from onnxviz.auditing.finding import FAIL_ON, Finding, counts
from onnxviz.auditing.report.facts import facts, now
from onnxviz.auditing.report.page import (
    Block,
    Gallery,
    Number,
    Page,
    Part,
    Photo,
    Section,
    Split,
    Steps,
    Table,
    Text,
    Verdict,
    heat,
)
from onnxviz.comparing.judge import MARGIN, source
from onnxviz.comparing.resume import PARTS, written
from onnxviz.errors import UsageError, near
from onnxviz.files import json_bytes
from onnxviz.text import printable, quoted

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution
    from onnxviz.comparing.advice import Exclusion
    from onnxviz.comparing.flips import Flip
    from onnxviz.comparing.result import Compared

#: Layers that the screen names.
_FIRST: Final = 3
_WORST: Final = 10
# Columns of the layer tables on the page, by what they are called in layers.csv: what the page calls them.
_RANKED: Final = {
    "place": "place",
    "layer": "layer",
    "share": "share of the damage",
    "healed_db": "dB when healed",
    "reason": "what stands out",
}
_ALL: Final = {
    "layer": "layer",
    "share": "share of the damage",
    "z": "z",
    "sqnr_db": "SQNR, dB",
    "cut_off": "cut off",
    "codes_used": "codes used",
    "steps_under_zero": "steps under 0",
    "weights_sqnr_db": "weights, dB",
    "weights_short_db": "under prediction, dB",
}
_HINTS: Final = {
    "share": "Share of the noise at the answers that this layer makes alone: e² of the sum of all e².",
    "z": "How far log e lies above the median of all layers, in robust deviations.",
    "healed_db": "Signal to noise at the answers of B with this layer as in A; tried for the first five.",
    "sqnr_db": "Of the layer's values, with all that went wrong before: where damage arrives, not where it is made.",
    "cut_off": "Share of A's values beyond the range that B holds.",
    "codes_used": "Share of B's range that A's values fill.",
    "steps_under_zero": "Steps under 0 that B's values go where A's never are.",
    "weights_sqnr_db": "Signal to noise of B's weights.",
    "weights_short_db": "By how much that is under what bits and granularity predict: an error of step²/12.",
}
_FORMATS: Final = {
    "share": ".1%", "z": ".1f", "healed_db": ".1f", "sqnr_db": ".1f", "codes_used": ".0%", "weights_sqnr_db": ".1f",
    "weights_short_db": ".1f",
}  # fmt: skip


def verdict(found: Compared, fail_on: str, accepted: Mapping[str, str]) -> Verdict:
    """'fail' for a finding that counts; 'incomplete' where answers or layers were to be compared and could not be.

    raises   UsageError for an unknown severity
    """
    if fail_on not in FAIL_ON:
        raise UsageError(
            f"fail_on is one of {', '.join(FAIL_ON)}; got {quoted(fail_on)}{near(fail_on, FAIL_ON)}"
        )
    if any(counts(one, fail_on, accepted) for one in found.findings):
        return "fail"
    needed = {"answers", "matching", "local"} if found.pictured else {"matching"}
    states = {one.id: one.state for one in found.checks}
    gaps = needed & set(found.reasons) or states.get("compare.matching") == "not-run"
    return "incomplete" if gaps or found.manifest.get("incomplete") else "pass"


def page(
    found: Compared, fail_on: str = "high", accepted: Mapping[str, str] | None = None, model: str = ""
) -> Page:
    """The page, see `compare.Comparison.save`."""
    taken = dict(accepted or {})
    a, b = found.names
    networks = {"A": found.manifest, "B": {**found.manifest, **found.manifest["b"]}}
    pictures = None if found.answers is None else found.answers.pictures
    sections = [
        _what_to_do(found),
        _layers(found),
        _split(found),
        _answers(found),
        _pictures(found),
        _matching(found),
    ]
    return Page(
        kind="compare",
        title=f"{a} → {b}",
        verdict=verdict(found, fail_on, taken),
        lead=list(_lead(found)),
        numbers=list(_numbers(found)),
        facts=facts(networks, pictures=pictures, seed=found.manifest["parameters"]["seed"]),
        when=now(),
        checks=found.checks,
        accepted=taken,
        fail_on=fail_on,
        sections=[one for one in sections if one is not None],
        figures=found.manifest["figures"],
        model=model or b,
    )


def files(found: Compared) -> dict[str, bytes]:
    """What lies beside the page: the tables whole, and the lists to exclude."""
    made = {PARTS: written(found.measured)}
    flips = {} if found.answers is None else found.answers.flips
    drifted = {} if found.drift is None else found.drift.table
    weights = {} if found.why is None else found.why.weight_table()
    for name, columns in (
        ("layers", found.layers),
        ("flips", flips),
        ("drift", drifted),
        ("weights", weights),
    ):
        made |= tables.both(name, columns) if columns else {}
    if found.advice is not None:
        made["exclude.json"] = json_bytes({"schema": "onnxviz.exclude/1", **found.advice.to_dict()})
    return made


# --- sentences ----------------------------------------------------------------------------------


def _lead(found: Compared) -> Iterator[str]:
    if found.answers is None:
        why = found.reasons.get("answers", "")
        yield (
            f"Answers were not compared: {why}." if found.pictured else
            "No pictures were given: weights, ranges and structure were compared, answers and layers' effects were not."
        )  # fmt: skip
    else:
        yield from (f"{text[:1].upper()}{text[1:]}." for text in found.answers.sentences())
    for part, why in found.reasons.items():
        if part != "answers":
            yield f"Not run: {part}: {why}."
    if found.manifest.get("incomplete"):
        yield "The comparison was interrupted: what was done by then is here."


def _numbers(found: Compared) -> Iterator[Number]:
    answers, effects, split = found.answers, found.effects, found.split
    if answers is not None and answers.agreement:
        sure = answers.agreement[MARGIN]
        if sure.of:
            low, high = sure.limits
            note = f"of {sure.of} pictures, limits {low:.0%} to {high:.0%}"
            yield Number(f"{sure.share:.0%}", "same answer where A is sure", note)
    if answers is not None and answers.noise is not None:
        noise = answers.noise
        more = "more than " if noise.beyond else ""
        yield Number(
            f"{more}{noise.sd:.2g}", "grey levels of noise do the same to A", "standard deviation, of 255"
        )
    if effects is not None and np.isfinite(effects.measured):
        apart = ", layers work on each other" if effects.apart else ""
        note = (
            f"on {effects.pictures} pictures, without ONNX Runtime's optimisations; "
            f"{effects.predicted:.1f} dB predicted from single layers{apart}"
        )
        yield Number(f"{effects.measured:.1f} dB", "signal to noise at the answers", note)
    if split is not None and split.cause is not None:
        yield Number(
            f"{split.shares[split.cause]:.0%}", f"of the noise comes from {split.cause}", _shares(split)
        )


def _shares(split: Any) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in split.shares.items())


def _first(found: Compared) -> list[tuple[str, float, str]]:
    """The layers to look at first: name, share, reason."""
    if found.effects is None:
        return []
    reasons = dict(zip(found.layers.get("layer", ()), found.layers.get("reason", ()), strict=False))
    ranked = [one for one in found.effects.ranked if one.e > 0][:_FIRST]
    return [(one.layer, one.share, reasons.get(one.layer, "")) for one in ranked]


def best(found: Compared) -> Exclusion | None:
    """Of the lists to exclude the shortest that gains at least half of what the longest does."""
    lists = [] if found.advice is None else [one for one in found.advice.exclusions if one.gain > 0]
    most = max((one.gain for one in lists), default=0.0)
    return next((one for one in lists if one.gain >= most / 2), None)


def _exclusion(one: Exclusion, found: Compared) -> str:
    before = None if found.advice is None else found.advice.agreement
    count = len(one.layers)
    agreement = (
        ""
        if one.agreement is None or before is None
        else f", the same class in {one.agreement:.0%} of the probes instead of {before:.0%}"
    )
    layers = "this layer" if count == 1 else f"these {count} layers"
    gain = (
        f"{one.gain:+.1f} dB, measured"
        if np.isfinite(one.gain)
        else "nothing is left of the damage, measured"
    )
    if not _quantised(found):
        return f"put back {layers} as in A: {gain}{agreement}"
    return (
        f"leave {layers} in float: {gain}{agreement}; {one.macs:.1%} of the multiply-accumulates turn float"
    )


def _quantised(found: Compared) -> bool:
    """Whether B holds anything as integers."""
    return found.why is None or bool(found.why.activations or found.why.weights)


# --- sections -----------------------------------------------------------------------------------


def _what_to_do(found: Compared) -> Section | None:
    steps: list[Text] = []
    seen: set[str] = set()
    for one in found.findings:
        if one.advice and one.advice not in seen:
            seen.add(one.advice)
            place = f"{one.where}: " if one.where else ""
            steps.append(Text(f"{place}{one.advice}."))
    chosen = best(found)
    if chosen is not None:
        told = _exclusion(chosen, found)
        names = ", ".join(repr(printable(node)) for node in chosen.nodes)
        call = f"quantize_static(..., nodes_to_exclude=[{names}])" if _quantised(found) else ""
        steps.append(Text(f"{told[:1].upper()}{told[1:]}.", call))
    blocks: list[Block] = [Steps(steps)] if steps else []
    if found.advice is not None and found.advice.exclusions:
        lists = found.advice.exclusions
        columns: dict[str, list[Any]] = {
            "layers": [len(one.layers) for one in lists],
            "gain, dB": [one.gain for one in lists],
            "signal to noise, dB": [one.sqnr for one in lists],
            "same class": [one.agreement for one in lists],
            "MACs in float": [one.macs for one in lists],
            "the last of them": [printable(one.layers[-1]) for one in lists],
        }
        formats = {
            "gain, dB": "+.1f",
            "signal to noise, dB": ".1f",
            "same class": ".0%",
            "MACs in float": ".1%",
        }
        hints = {
            "gain, dB": "How much more signal to noise B has at the answers with so many layers by A's operators.",
            "MACs in float": "Share of the multiply-accumulates that are not quantised then.",
        }
        caption = "The first layers left in float; all lists are in exclude.json, ready for nodes_to_exclude."
        blocks.append(Table(columns, caption, bars={"gain, dB": None}, formats=formats, hints=hints))
    return Section("What to do", blocks, "Each gain was measured, not guessed.") if blocks else None


def _layers(found: Compared) -> Section | None:
    if not found.layers:
        return None
    places = found.layers.get("place", ())
    ranked = sorted((place, row) for row, place in enumerate(places) if place is not None)[:_WORST]
    blocks: list[Block] = []
    if ranked:
        caption = "The layers to look at first: what each does to the answers alone, everything else as in A."
        blocks.append(_table(found, _RANKED, [row for _, row in ranked], caption))
    caption = (
        "All layers of A that were found in B, in the order of computation; layers.csv has more columns."
    )
    marked = [row for place, row in ranked if place <= _FIRST]
    blocks.append(_table(found, _ALL, range(len(found.layers["layer"])), caption, marked))
    return Section(
        "Which layer", blocks, "Its own part in the damage, not what arrives there from other layers."
    )


def _table(
    found: Compared, names: Mapping[str, str], rows: Sequence[int], caption: str, marked: Sequence[int] = ()
) -> Table:
    """Some columns and rows of the layer table, as the page calls them."""
    there = {name: title for name, title in names.items() if name in found.layers}
    columns = {title: [found.layers[name][row] for row in rows] for name, title in there.items()}
    bars = {there["share"]: 1.0} if "share" in there else {}
    formats = {title: _FORMATS[name] for name, title in there.items() if name in _FORMATS}
    hints = {title: _HINTS[name] for name, title in there.items() if name in _HINTS}
    return Table(columns, caption, bars=bars, formats=formats, hints=hints, marked=marked)


def _split(found: Compared) -> Section | None:
    if found.split is None or found.split.cause is None:
        return None
    notes = {
        "weights": "B's weights in A, nothing else",
        "clipping": "what B's quantisers cut off",
        "rounding": "what they round",
    }
    parts = [Part(name, share, notes[name]) for name, share in found.split.shares.items()]
    told = source(found.split, found.why)
    lead = "Noise power at the answers, by what makes it."
    return Section("Calibration or weights", [Split(parts, f"Mostly {told}.")], lead)


def _answers(found: Compared) -> Section | None:
    if found.answers is None or not found.answers.flips.get("picture"):
        return None
    names = {
        "picture": "picture", "a_label": "A says", "a_probability": "A's probability", "b_label": "B says",
        "b_probability": "B's probability", "margin": "margin in A", "truth": "true class",
    }  # fmt: skip
    flips = found.answers.flips
    columns = {title: list(flips[name]) for name, title in names.items() if name in flips}
    formats = dict.fromkeys(("A's probability", "B's probability", "margin in A"), ".2f")
    table = Table(columns, "A row for each picture whose class changed.", formats=formats, sort="margin in A")
    gallery = [
        Gallery(
            [_flip(one) for one in found.flips], "Each with the map of A for its class, and of B for its own."
        )
    ]
    return Section(
        "Changed answers",
        [*gallery[: len(found.flips)], table],
        "Those first that A was surest of. All of them are in flips.csv.",
    )


def _flip(one: Flip) -> Photo:
    (first, p), (second, q) = one.answers
    layers = [
        heat(method, f"{whose}: {answer[0]}", map.values, signed=map.signed)
        for method, maps in one.maps.items()
        for whose, answer, map in zip("AB", one.answers, maps, strict=True)
    ]
    told = f"{first} {p:.0%} → {second} {q:.0%}"
    return Photo(one.name, one.image, told, [(f"A: {first}", p), (f"B: {second}", q)], layers)


def _pictures(found: Compared) -> Section | None:
    if found.drift is None:
        return None
    blocks: list[Block] = [
        Text("\n\n".join(f"{text[:1].upper()}{text[1:]}." for text in found.drift.sentences()))
    ]
    for method, pairs in found.drift.worst.items():
        names = found.drift.names[method]
        photos = [_photo(method, printable(name), *pair) for name, pair in zip(names, pairs, strict=True)]
        if photos:
            caption = f"{method}: the pictures whose maps lie furthest under their floor, A's and B's map over each."
            blocks.append(Gallery(photos, caption))
    return Section("Where they look", blocks, "Maps of A and of B for one class, over the same picture.")


def _photo(method: str, name: str, one: Attribution, other: Attribution) -> Photo:
    layers = [heat(method, whose, map.values, signed=one.signed) for whose, map in (("A", one), ("B", other))]
    return Photo(name, one.image, note=one.label, layers=layers)


def _matching(found: Compared) -> Section | None:
    matching = found.matching
    if matching is None:
        return None
    weak = [pair for pair in matching.pairs if pair.weak]
    told = [
        f"{matching.macs:.1%} of A's multiply-accumulates and {matching.values:.0%} of its values were found in B: "
        f"{len(matching.pairs)} values."
    ]
    if weak:
        told.append(
            f"Weak, since nothing else came into question: {', '.join(printable(one.layer, 60) for one in weak)}."
        )
    return Section(
        "What was compared",
        [Text("\n\n".join(told))],
        "Layers are found by weights and values, not by names.",
    )


# --- on a screen --------------------------------------------------------------------------------


def lines(found: Compared) -> list[str]:
    """Answers, the first layers with the reason, what to do, findings: each with its head."""
    told: list[tuple[str, list[str]]] = []
    if found.answers is not None:
        told.append(("answers", found.answers.sentences()))
    layers = [f"{share:5.0%}  {printable(name, 60)}  {why}".rstrip() for name, share, why in _first(found)]
    if found.effects is not None and not layers:
        layers = ["no layer differs"]
    told.append(("layers", layers))
    if found.split is not None and found.split.cause is not None:
        told.append(("noise from", [_shares(found.split), f"mostly {source(found.split, found.why)}"]))
    chosen = best(found)
    if chosen is not None:
        lists = ["names for nodes_to_exclude, of 1 to 8 layers: exclude.json"] if _quantised(found) else []
        told.append(("to do", [_exclusion(chosen, found), *map(printable, chosen.layers), *lists]))
    told.append(("findings", [_finding(one) for one in found.findings] or ["none"]))
    told.append(("not run", [f"{part}: {why}" for part, why in found.reasons.items()]))
    width = max(len(head) for head, _ in told)
    return [
        f"{(head if row == 0 else '').ljust(width)}  {text}"
        for head, texts in told
        for row, text in enumerate(texts)
    ]


def _finding(one: Finding) -> str:
    return f"{one.severity.ljust(6)}  {one.id}: {one.sentence}"
