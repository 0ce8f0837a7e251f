"""What a comparison holds, its table of layers (how it is shown is `page`'s business), and going on with one that was
interrupted: its parts, as the folder has them that it was saved in.

They are written as JSON, and read into the dataclasses that are named here and no others: a folder is a file that
anybody may have made.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from onnxviz._version import __version__
from onnxviz.auditing.finding import Check, Finding, ordered
from onnxviz.auditing.resume import digest, earlier, pictured, read, refusal
from onnxviz.auditing.statistics import Likeness, Share
from onnxviz.comparing.answers import Answers, Truth
from onnxviz.comparing.dense import Detections, Pixels
from onnxviz.comparing.drift import Drift, Flip
from onnxviz.comparing.local import Advice, Exclusion, Local, LocalEffect, Split
from onnxviz.comparing.match import Matching, Pair
from onnxviz.comparing.noise import Noise
from onnxviz.comparing.rules import FLOAT32
from onnxviz.comparing.stored import Codes
from onnxviz.comparing.weights import WeightFigures
from onnxviz.comparing.why import LayerFigures, Why
from onnxviz.errors import UsageError, near
from onnxviz.image.folder import Skipped
from onnxviz.network import Network
from onnxviz.results import Result
from onnxviz.tables import Columns
from onnxviz.text import printable, quoted

# What needs pictures to be measured.
_MEASURED: Final = (
    *("sqnr_db", "cosine", "a_low", "a_high", "beyond_low", "beyond_high", "codes_used", "codes_unused"),
    *("under_zero", "steps_under_zero", "not_finite"),
)
# Below this many decibels of its own something other than 8 bits must be at work.
_ROUNDED_DB: Final = 20.0
# And over this many weights are the same, but for float32's rounding.
_SAME_DB: Final = 100.0


@dataclass(repr=False)
class Compared(Result):
    """What changed between two files of one network.

    values     (L,) float32 ≥ 0: the local effect of each layer, in the order of `layers`; none where it was not run
    names      what the two files are called
    checks     every check with its state, findings and figures
    layers     a row for each layer of A that was found in B, in the order of computation
    matching   which value of B is which of A (`match.Matching`)
    answers    agreement and its limits, noise equivalent, flips (`answers.Answers`)
    split      noise by its source: weights, clipping, rounding (`split.Split`)
    drift      how far explanations moved (`drift.Drift`)
    advice     layers to leave in float, with what that was measured to gain (`advice.Advice`)
    effects    what each layer does by itself (`local.Local`)
    why        the figures of each layer (`why.Why`)
    flips      the changed answers that A was surest of, with their maps (`flips.Flip`)
    reasons    by part, why it was not run
    pictured   whether pictures were given
    measured   by part, what another comparison may go on with
    """

    names: tuple[str, str] = ("A", "B")
    checks: tuple[Check, ...] = field(default=(), repr=False)
    layers: Columns = field(default_factory=dict, repr=False)
    matching: Matching | None = field(default=None, repr=False)
    answers: Answers | None = field(default=None, repr=False)
    split: Split | None = field(default=None, repr=False)
    drift: Drift | None = field(default=None, repr=False)
    advice: Advice | None = field(default=None, repr=False)
    effects: Local | None = field(default=None, repr=False)
    why: Why | None = field(default=None, repr=False)
    flips: Sequence[Flip] = field(default=(), repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)
    pictured: bool = True
    measured: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def findings(self) -> list[Finding]:
        """What was found, the gravest first."""
        return ordered(self.checks)

    def check(self, id: str) -> Check:
        """The check of this id, such as 'compare.answers'.

        raises   UsageError
        """
        for one in self.checks:
            if one.id == id:
                return one
        ids = [one.id for one in self.checks]
        raise UsageError(f"there is no check {id!r}{near(id, ids)}; there are {', '.join(ids)}")

    def table(self) -> Columns:
        """`layers`."""
        return self.layers


# --- the table of layers --------------------------------------------------------------------------


def rows(why: Why | None, local: Local | None, pictures: bool, whole: bool = True) -> dict[str, list[Any]]:
    """The columns, in A's order: layer, op, place (1 is the first to look at), share, effect, z, healed_db, reason,
    cut_off, weights_short_db, and the figures of `why`.

    pictures   whether the figures of values are of real pictures; else they are left out
    whole      whether `why` is of all layers: what else has an effect is no layer
    """
    if why is None:
        if local is None:
            return {}
        return {"layer": [one.layer for one in local.effects], **_effects(local, local.effects)}
    effects = {} if local is None else {one.layer: one for one in local.effects}
    figures = list(map(_figures, why.layers))
    table = {name: [row[name] for row in figures] for name in (figures[0] if figures else ())}
    names = [one.pair.layer for one in why.layers]
    others = [] if local is None or not whole else [one for one in local.effects if one.layer not in names]
    found: dict[str, list[Any]] = {name: list(table[name]) for name in ("layer", "op") if name in table}
    if local is not None:
        found |= _effects(local, [effects.get(name) for name in names])
    weights = {w.node_a: w for w in (*(w for one in why.layers for w in one.weights), *why.unplaced)}
    found["reason"] = [
        reason(one, effects.get(one.pair.layer), weights) if pictures else "" for one in why.layers
    ]
    if pictures:
        found["cut_off"] = [one.beyond for one in why.layers]
    found["weights_short_db"] = [None if one.worst is None else one.worst.short for one in why.layers]
    left_out = () if pictures else _MEASURED
    found |= {name: list(cells) for name, cells in table.items() if name not in (*found, *left_out)}
    if local is None or not others:
        return found
    # First what is no layer, and has effects alone: the quantiser of the input.
    told = "what the input's quantiser does to the picture"
    known: dict[str, list[Any]] = {
        "layer": [one.layer for one in others],
        "op": ["input"] * len(others),
        "reason": [told if one.e else "" for one in others],
        **_effects(local, others),
    }
    return {name: [*known.get(name, [None] * len(others)), *cells] for name, cells in found.items()}


def _figures(one: LayerFigures) -> dict[str, Any]:
    worst = one.worst
    return {
        "layer": one.pair.layer,
        "op": one.pair.op,
        "b": one.pair.b,
        "matched_by": one.pair.by,
        "sure": one.pair.sure,
        "weak": one.pair.weak,
        "macs": one.pair.macs,
        "sqnr_db": one.sqnr,
        "cosine": one.cosine,
        "a_low": one.a_low,
        "a_high": one.a_high,
        "codes": one.codes,
        "granularity": one.granularity,
        "symmetric": one.symmetric,
        "dynamic": one.dynamic if one.codes else None,
        "low": one.low,
        "high": one.high,
        "beyond_low": one.below,
        "beyond_high": one.above,
        "codes_used": one.used,
        "codes_unused": one.unused,
        "under_zero": one.waste,
        "steps_under_zero": one.steps,
        "weights": worst.codes if worst else None,
        "weights_sqnr_db": worst.sqnr if worst else None,
        "weights_predicted_db": worst.predicted if worst else None,
        "weights_range_over_median": worst.spread if worst else None,
        "constant_channels": sum(w.constant for w in one.weights) if one.weights else None,
        "bias_overflow": sum(w.overflow or 0 for w in one.weights) if one.weights else None,
        "not_finite": one.not_finite,
    }


def _effects(local: Local, listed: Sequence[LocalEffect | None]) -> dict[str, list[Any]]:
    """Columns of these effects: their places among all, and their figures."""
    places = {one.layer: place for place, one in enumerate(local.ranked, 1) if one.e}
    of = {"share": "share", "effect": "e", "z": "z", "healed_db": "healed"}
    return {
        "place": [None if one is None else places.get(one.layer) for one in listed],
        **{column: [one and getattr(one, name) for one in listed] for column, name in of.items()},
    }


def reason(
    one: LayerFigures,
    effect: LocalEffect | None = None,
    weights: Mapping[str, WeightFigures] | None = None,
) -> str:
    """Why a layer lost what it lost, in a few words; '' where B does nothing there.

    weights   by A's node, those of all layers: a layer may be behind an operator that is none by itself
    """
    name = printable(one.pair.layer, 80)
    told = [text.removeprefix(f"{name}: ") for text in one.sentences()]
    if effect is None or not effect.e:
        return "; ".join(told)
    if effect.taken_back:
        told.insert(0, f"alone it moves the answers by {effect.e:.2g}, which other layers take back")
        return "; ".join(told)
    if effect.e <= FLOAT32 and one.bits is None and one.unrectified is None:
        return "float32's own rounding"
    of = [weights[node] for node in effect.nodes if weights is not None and node in weights] or one.weights
    told += [text for figures in of if figures not in one.weights for text in figures.sentences()]
    if effect.unlike and one.unrectified is None:
        # A quantiser that holds what is below zero says more than that nothing else stands there.
        place = len(told) if one.steps else 0
        told.insert(place, f"computed otherwise: {printable('; '.join(effect.unlike), 160)}")
    if not any(figures.rescaled for figures in of):
        behind = {norm: figures for figures in (weights or {}).values() for norm in figures.norms}
        numbers = [text for node, text in effect.numbers if node not in behind]
        # Of a norm behind a product its own numbers say more than the bias that these come to; where the product has
        # other weights for them, what both make together is what counts.
        told = [text for text in told if not (numbers and text.startswith("its bias differs"))]
        nodes = [node for node, _ in effect.numbers if node in behind]
        told += dict.fromkeys([*numbers, *(text for node in nodes for text in behind[node].sentences())])
    told = list(dict.fromkeys(told))
    return "; ".join(told or _rounding(one, effect, of) or ["computed otherwise"])


def _rounding(one: LayerFigures, effect: LocalEffect, weights: Sequence[WeightFigures]) -> list[str]:
    """What it is where nothing stands out."""
    worst = min(weights, key=lambda one: -1e9 if one.sqnr is None else one.sqnr, default=None)
    if one.bits is not None:
        held = f", weights {worst.codes} {worst.granularity}" if worst is not None and worst.codes else ""
        return [f"rounding to {one.codes} {one.granularity}{held}"]
    if worst is not None and worst.codes:
        return [f"rounding of its weights to {worst.codes} {worst.granularity}"]
    told = [f"rounding to {effect.halves}"] if effect.halves else []
    told += [f"A rounds to {effect.a_codes}, and B does not"] if effect.a_codes else []
    if worst is not None and worst.sqnr is None:
        told.append("A's weights there are all 0")
    elif worst is not None and worst.sqnr is not None and worst.sqnr < (_ROUNDED_DB if told else _SAME_DB):
        told.append(f"its weights differ: {worst.sqnr:.1f} dB")
    return told


def quantised(found: Compared) -> bool:
    """Whether B holds anything as integers."""
    return found.why is None or bool(found.why.b.activations or found.why.b.weights)


def differing(why: Why | None, most: int) -> list[str]:
    """The weights that differ most, the worst first, with the layers that they are of; what float32's rounding alone
    makes differ does not."""
    every = [(layer.pair.layer, one) for layer in (why.layers if why else ()) for one in layer.weights]
    every += [(one.node_a, one) for one in (why.unplaced if why else ())]
    apart = sorted((one.sqnr, name) for name, one in every if one.sqnr is not None and one.sqnr < _SAME_DB)
    return [f"{sqnr:6.1f} dB  {printable(name, 60)}" for sqnr, name in apart[:most]]


#: The file of the parts.
PARTS: Final = "parts.json"
_SCHEMA: Final = "onnxviz.parts/1"
_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        *(
            Advice,
            Answers,
            Codes,
            Detections,
            Exclusion,
            LayerFigures,
            Likeness,
            Local,
            LocalEffect,
            Noise,
            Pair,
        ),
        *(Pixels, Share, Skipped, Split, Truth, WeightFigures, Why),
    )
}
_WORDS: Final = {
    "models": "one of the models",
    "recipes": "how pictures become their inputs",
    "pictures": "the pictures",
    "request": "what was asked for, or how a model is run,",
    "version": "onnxviz itself",
}


def rests(nets: Sequence[Network], images: Sequence[Any], request: Mapping[str, Any]) -> dict[str, str]:
    """What the parts rest on, a digest of each.

    request   all else that decides what comes of it, as plain values
    """
    run = [[net.provider, net.backend, net.optimise] for net in nets]
    return {
        "models": digest([net.digest for net in nets]),
        "recipes": digest([net.preprocessing.to_dict() for net in nets]),
        "pictures": pictured(images),
        "request": digest([repr(request), run]),
        "version": __version__,
    }


def made(
    folder: str | os.PathLike[str], now: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The parts of an earlier comparison by name, and its manifest; None where there is no report.

    raises   UsageError where the report is of something else, naming what has changed
    """
    manifest = earlier(folder, now, "compare", _WORDS)
    if manifest is None:
        return None
    path = Path(folder) / PARTS
    message = read(path)
    try:
        if message["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {message['schema']!r}")
        parts = {str(name): _loaded(one) for name, one in message["parts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise refusal(f"{quoted(path)} does not hold the parts of a comparison: {error}") from error
    return parts, manifest


def written(parts: Mapping[str, Any]) -> bytes:
    """The parts as a file."""
    plain = {name: _plain(one) for name, one in parts.items()}
    return json.dumps({"schema": _SCHEMA, "parts": plain}, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """As JSON has it; what it has no word for is an object with one key, which tells what it is."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {type(value).__name__: own}
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key), _plain(one)] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        listed = [_plain(one) for one in value]
        return {"tuple": listed} if isinstance(value, tuple) else listed
    if isinstance(value, Path):
        return {"Path": os.fsdecode(value)}
    value = value.item() if isinstance(value, np.generic) else value
    return {"float": repr(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _loaded(value: Any) -> Any:
    if isinstance(value, list):
        return [_loaded(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, own),) = value.items()
    if kind == "dict":
        return {_loaded(key): _loaded(one) for key, one in own}
    if kind == "tuple":
        return tuple(map(_loaded, own))
    if kind == "Path":
        return Path(own)
    if kind == "float":  # NaN and infinities, which JSON has no word for
        return float(own)
    return _KINDS[kind](**{str(name): _loaded(one) for name, one in own.items()})
