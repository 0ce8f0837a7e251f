"""What a comparison shows: the lines on a screen, its page for `auditing.report`, and the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from onnxviz import tables
from onnxviz.attribution.result import Attribution
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
    heat,
)
from onnxviz.comparing import local
from onnxviz.comparing.answers import MARGIN
from onnxviz.comparing.cause import CUT_SUMS, explained, noise, signal
from onnxviz.comparing.drift import Flip
from onnxviz.comparing.judge import missing, verdict
from onnxviz.comparing.result import PARTS, Compared, differing, quantised, written
from onnxviz.files import json_bytes, png_bytes
from onnxviz.text import amount, file_name, printable

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
    "healed_db": "Signal to noise at the answers of B with this layer as in A; of the first five. ∞: no noise is left.",
    "sqnr_db": "Of the layer's values, with all that went wrong before: where damage arrives, not where it is made.",
    "cut_off": "Share of A's values beyond the range that B holds.",
    "codes_used": "Share of B's range that A's values fill, in B's units.",
    "steps_under_zero": "Steps under 0 that B's values go where A's never are.",
    "weights_sqnr_db": "Signal to noise of B's weights.",
    "weights_short_db": "By how much that is under what bits and granularity predict: an error of step²/12.",
}
_STEPS: Final = {
    "weights": "their weights",
    "values": "their values on the probe pictures",
    "place": "the operators that make them",
    "name": "their names, among equals",
    "given": "--match",
}
_FORMATS: Final = {
    "share": ".1%", "z": ".1f", "healed_db": ".1f", "sqnr_db": ".1f", "codes_used": ".0%", "weights_sqnr_db": ".1f",
    "weights_short_db": ".1f",
}  # fmt: skip


def page(
    found: Compared, fail_on: str = "high", accepted: Mapping[str, str] | None = None, model: str = ""
) -> Page:
    """The page, see `compare.Comparison.save`."""
    taken = dict(accepted or {})
    a, b = found.names
    networks = {"A": found.manifest, "B": {**found.manifest, **found.manifest["b"]}}
    pictures = None if found.answers is None else found.answers.pictures
    sections = [part(found) for part in (_what_to_do, _layers, _split, _answers, _pictures, _matching)]
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
    beside = {
        "layers": found.layers,
        "flips": {} if found.answers is None else found.answers.flips,
        "drift": {} if found.drift is None else found.drift.table,
        "weights": {} if found.why is None else found.why.weight_table(),
    }
    for name, columns in beside.items():
        made |= tables.both(name, columns) if columns else {}
    if found.drift is not None:
        sheets = {method: found.drift.sheet(method) for method in found.drift.worst}
        made |= {f"drift-{file_name(name)}.png": png_bytes(one) for name, one in sheets.items() if one}
    if found.advice is not None:
        made["exclude.json"] = json_bytes({"schema": "onnxviz.exclude/1", **found.advice.to_dict()})
    return made


# --- sentences ----------------------------------------------------------------------------------


def _lead(found: Compared) -> Iterator[str]:
    if found.answers is None:
        if found.pictured:
            yield f"Answers were not compared: {found.reasons.get('answers', '')}."
        else:
            compared = "weights, ranges and structure were compared, answers and layers' effects were not"
            yield f"No pictures were given: {compared}."
    else:
        yield from (f"{upper(text)}." for text in found.answers.sentences())
    yield from (f"Not run: {text}." for text in gaps(found) if not text.startswith("answers: "))
    if found.manifest.get("incomplete"):
        yield "The comparison was interrupted: what was done by then is here."


def _numbers(found: Compared) -> Iterator[Number]:
    answers, effects, split = found.answers, found.effects, found.split
    if answers is not None and answers.agreement:
        sure = answers.agreement[MARGIN]
        if sure.of:
            low, high = sure.limits
            note = f"of {amount(sure.of, 'picture')}, 95% limits {low:.0%} to {high:.0%}"
            yield Number(f"{sure.share:.0%}", "same answer where A is sure", note)
    if answers is not None and answers.noise is not None:
        noise = answers.noise
        more = "more than " if noise.beyond else ""
        told = "grey levels of noise do the same to A"
        yield Number(f"{more}{noise.sd:.2g}", told, "standard deviation, of 255")
    if answers is not None and answers.truth is not None:
        held = answers.truth
        note = (
            f"A {held.right_a.share:.1%}; {held.fixed} fixed, {held.broken} broken, McNemar p = {held.p:.2g}"
        )
        yield Number(
            f"{held.right_b.share:.1%}",
            f"of {amount(held.pictures, 'true class', 'true classes')} right in B",
            note,
        )
    if effects is not None and np.isfinite(effects.measured):
        value, note = signal(effects, answers)
        yield Number(value, "signal to noise at the answers", note)
    if split is not None and split.cause is not None and explained(found):
        yield Number(f"{split.shares[split.cause]:.0%}", f"of the noise comes from {split.cause}", str(split))


# --- sections -----------------------------------------------------------------------------------


def _what_to_do(found: Compared) -> Section | None:
    steps = [Text(f"{upper(text)}.") for text in advice(found)]
    chosen = _best(found)
    if chosen is not None:
        names = ", ".join(repr(printable(node)) for node in chosen.nodes)
        call = f"quantize_static(..., nodes_to_exclude=[{names}])" if quantised(found) else ""
        steps.append(Text(f"{upper(exclusion(chosen, found))}.", call))
    blocks: list[Block] = [Steps(steps)] if steps else []
    if found.advice is not None and found.advice.exclusions:
        lists = found.advice.exclusions
        columns: dict[str, list[Any]] = {
            "layers": [len(one.layers) for one in lists],
            "gain, dB": [one.gain for one in lists],
            "signal to noise, dB": [one.sqnr for one in lists],
            "same class": [one.agreement for one in lists],
            "MACs in float": [one.macs for one in lists],
            "ends with": [printable(one.layers[-1]) for one in lists],
        }
        formats = dict(zip(list(columns)[1:5], ("+.1f", ".1f", ".0%", ".1%"), strict=True))
        hints = {
            "ends with": "The list has the layers of the one above it, and those behind them by share up to this one.",
            "gain, dB": "How much more signal to noise B has at the answers with so many layers by A's operators.",
            "MACs in float": "Share of the multiply-accumulates that are not quantised then.",
        }
        kept, ends = ("left in float", ", for nodes_to_exclude") if quantised(found) else ("as in A", "")
        caption = f"So many of the first layers {kept}; exclude.json has the names of all these lists{ends}."
        blocks.append(Table(columns, caption, bars={"gain, dB": None}, formats=formats, hints=hints))
    lead = "Each list was tried, and its gain measured." if chosen is not None else ""
    return Section("What to do", blocks, lead) if blocks else None


def _layers(found: Compared) -> Section | None:
    if not found.layers:
        return None
    places = found.layers.get("place", ())
    ranked = sorted((place, row) for row, place in enumerate(places) if place is not None)[:WORST]
    blocks: list[Block] = []
    if ranked:
        caption = "The layers to look at first: what each does to the answers alone, everything else as in A."
        blocks.append(_table(found, _RANKED, [row for _, row in ranked], caption))
    caption = (
        "All layers of A that were found in B, in the order of computation; layers.csv has more columns."
    )
    marked = [row for place, row in ranked if place <= FIRST]
    blocks.append(_table(found, _ALL, range(len(found.layers["layer"])), caption, marked))
    lead = "Its own part in the damage, not what arrives there from other layers." if ranked else ""
    behind = f"{upper(found.answers.behind)}. " if found.answers and found.answers.behind else ""
    return Section("Which layer", blocks, behind + lead)


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
        "operators": "operators and attributes that B has otherwise",
        "weights": "B's weights in A, nothing else",
        "clipping": "what B's quantisers cut off",
        "rounding": "what they round",
    }
    parts = [Part(name, share, notes[name]) for name, share in found.split.shares.items()]
    told = " ".join(f"{upper(text)}." for text in noise(found))
    lead = "Noise power at the answers, by what makes it."
    return Section("What makes the noise", [Split(parts, told)], lead)


def _answers(found: Compared) -> Section | None:
    if found.answers is None or not found.answers.flips.get("picture"):
        return None
    names = {
        "picture": "picture", "a_label": "A says", "a_probability": "A's probability", "b_label": "B says",
        "b_probability": "B's probability", "margin": "margin in A", "truth_label": "true class",
    }  # fmt: skip
    flips = found.answers.flips
    columns = {title: list(flips[name]) for name, title in names.items() if name in flips}
    formats = dict.fromkeys(("A's probability", "B's probability", "margin in A"), ".2f")
    table = Table(columns, "A row for each picture whose class changed.", formats=formats, sort="margin in A")
    blocks: list[Block] = [table]
    if found.flips:
        caption = "Each with the map of A for its class, and of B for its own."
        blocks.insert(0, Gallery([_flip(one) for one in found.flips], caption, laid=True))
    lead = "Those first that A was surest of. All of them are in flips.csv."
    return Section("Changed answers", blocks, lead)


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
    blocks: list[Block] = [Text("\n\n".join(f"{upper(text)}." for text in found.drift.sentences()))]
    for method, pairs in found.drift.worst.items():
        named = zip(found.drift.names[method], pairs, strict=True)
        photos = [_photo(method, printable(name), *pair) for name, pair in named]
        if photos:
            caption = f"{method}: the pictures whose maps lie furthest under their floor, A's and B's map over each."
            blocks.append(Gallery(photos, caption, laid=True))
    return Section("Where they look", blocks, "Maps of A and of B for one class, over the same picture.")


def _photo(method: str, name: str, one: Attribution, other: Attribution) -> Photo:
    layers = [heat(method, whose, map.values, signed=one.signed) for whose, map in (("A", one), ("B", other))]
    return Photo(name, one.image, note=one.label, layers=layers)


def _matching(found: Compared) -> Section | None:
    matching = found.matching
    if matching is None:
        return None
    pairs, lost = matching.pairs, missing(matching)
    told = (
        f"{matching.macs:.1%} of A's multiply-accumulates were found in B, and {len(pairs)} values that both compute. "
        "What A computes between two of these, such as a convolution before its activation, is part of the layer "
        "behind it."
    )
    if lost:
        told += f"\n\nLayers of A that were not found in B, and not compared: {', '.join(lost)}."
    steps = [step for step in _STEPS if any(pair.by == step for pair in pairs)]
    of = [[pair for pair in pairs if pair.by == step] for step in steps]
    columns: dict[str, list[Any]] = {
        "found by": [_STEPS[step] for step in steps],
        "values": [len(one) for one in of],
        "alike, the least": [min(pair.sure for pair in one) for one in of],
        "less sure": [sum(pair.weak for pair in one) for one in of],
    }
    hints = {
        "alike, the least": "Cosine of the weights, or correlation of the values: 1 where nothing changed.",
        "less sure": "Their values are hardly alike, but no others came into question: weak in layers.csv.",
    }
    table = Table(columns, "How they were found.", formats={"alike, the least": ".2f"}, hints=hints)
    blocks: list[Block] = [Text(told), *([table] if steps else [])]
    return Section("What was compared", blocks, "Layers are found by weights and values, not by names.")


# --- in words: the lines on a screen, and sentences that the page has too --------------------------

#: Layers, and findings, that the screen names.
FIRST: Final = 3
WORST: Final = 10
_ROUNDED: Final = "none does anything but for float32's own rounding: {:.0f} dB at the answers"
_HARDLY: Final = 0.005  # of the damage: less is not named
# The parts of a comparison that have other names for a reader.
_CALLED: Final = {
    "runtime": "B optimised against not",
    "sums": "B with its sums whole",
    "why": "figures of the layers",
    "local": "which layer",
    "split": "what makes the noise",
    "advice": "what to do",
    "flips": "maps of changed answers",
    "drift": "where they look",
}


def lines(found: Compared, accepted: Mapping[str, str] | None = None) -> list[str]:
    """Answers, the first layers with the reason, what to do, findings: each with its head.

    accepted   reasons, by fingerprint, of findings that somebody has accepted: they stand last
    """
    told: list[tuple[str, list[str]]] = []
    if found.answers is not None:
        told.append(("answers", found.answers.sentences()))
    elif not found.pictured:
        told.append(("pictures", ["none were given: weights, ranges and structure were compared"]))
    layers = [f"{share:5.0%}  {printable(name, 60)}  {why}".rstrip() for name, share, why in _first(found)]
    if layers:
        layers.insert(0, "share of the damage that each layer does alone, and why")
    elif found.effects is not None:
        layers = [_ROUNDED.format(found.effects.measured) if found.effects.moved else "no layer differs"]
    elif not found.pictured and (layers := differing(found.why, FIRST)):
        layers.insert(
            0, "signal to noise of B's weights, the worst first; what they do to answers, pictures tell"
        )
    behind = [found.answers.behind] if found.answers and found.answers.behind else []
    told.append(("layers", behind + layers))
    if found.split is not None and found.split.cause is not None:
        told.append(("noise from", [str(found.split), *noise(found)]))
    todo = list(advice(found))
    chosen = _best(found)
    if chosen is not None:
        todo += [exclusion(chosen, found), *(f"  {printable(name)}" for name in chosen.layers)]
        todo += ["names for nodes_to_exclude: exclude.json"] if quantised(found) else []
    told.append(("to do", todo))
    taken = accepted or {}
    findings = [
        f"{one.severity.ljust(6)}  {one.id}: {one.sentence}"
        + (f". Accepted: {taken[one.fingerprint]}" if one.fingerprint in taken else "")
        for one in sorted(found.findings, key=lambda one: one.fingerprint in taken)[:WORST]
    ] or ["none"]
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
    yield from (f"{_CALLED.get(part, part)}: {why}" for part, why in found.reasons.items())


def _first(found: Compared) -> list[tuple[str, float, str]]:
    """The layers to look at first: name, share, reason."""
    if found.effects is None or found.effects.still:
        return []
    reasons = dict(zip(found.layers.get("layer", ()), found.layers.get("reason", ()), strict=False))
    ranked = [one for one in found.effects.ranked[:FIRST] if one.e > 0]
    named = ranked[:1] + [one for one in ranked[1:] if one.share >= _HARDLY]
    return [(one.layer, one.share, reasons.get(one.layer, "")) for one in named]


def exclusion(one: local.Exclusion, found: Compared) -> str:
    """What a list to exclude is worth."""
    before = None if found.advice is None else found.advice.agreement
    count = len(one.layers)
    layers = "this layer" if count == 1 else f"these {count} layers"
    gain = f"{one.gain:+.1f} dB" if np.isfinite(one.gain) else "nothing is left of the damage"
    gain += ", measured"
    if one.agreement is not None and before is not None:
        hidden = one.agreement != before and f"{one.agreement:.0%}" == f"{before:.0%}"
        now, was = (f"{share:.{1 if hidden else 0}%}" for share in (one.agreement, before))
        was = "as before" if one.agreement == before else f"instead of {was}"
        gain += f", the same class in {now} of the probes {was}"
    if not quantised(found):
        return f"put back {layers} as in A: {gain}"
    return f"leave {layers} in float: {gain}; {one.macs:.1%} of the multiply-accumulates turn float"


def _best(found: Compared) -> local.Exclusion | None:
    """The list that is worth advising; none where A is the one that is quantised: B is better then."""
    of_a = found.split is not None and found.split.of_a
    return None if found.advice is None or of_a else found.advice.best


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
        more = f" and {amount(len(named) - FIRST, 'more layer')}" if len(named) > FIRST else ""
        yield f"{text} ({', '.join(named[:FIRST])}{more})" if named else text
    if found.why is not None and found.why.saturates and not any(CUT_SUMS in said for said in places):
        yield CUT_SUMS


def upper(text: str) -> str:
    """As a sentence begins; names of methods and layers inside it keep their letters."""
    return text[:1].upper() + text[1:]
