"""What the outputs of a file are: class scores, one score of two classes, steps of a sequence, numbers, detections.

This is the one place that concludes it, from the graph alone: how an output ends, where its batch axis is, what its
names say. Each conclusion carries its reason in words, and says what it rests on: evidence or an assumption.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLayer, near
from onnxviz.graph.analysis.dataflow import FLOATS, QUANTISED, is_tensor
from onnxviz.graph.final import complement, final
from onnxviz.graph.naming import real_name
from onnxviz.graph.operators import computes
from onnxviz.graph.output import (
    BEST,
    BINARY,
    CLASSES,
    DETECTIONS,
    MAP,
    NUMBERS,
    OTHER,
    SEQUENCE,
    Head,
    Tail,
    before,
    explained,
    ranked,
)

__all__ = ["Head", "head", "outputs"]

_HINTS = ("logit", "prob", "score", "class", "softmax", "pred")
_WELL_KNOWN = frozenset({1000, 1001, 11221, 21841, 21843})
"""Numbers of ImageNet's classes: who has so many outputs has these."""


def head(
    model: ir.Model, output: str | None = None, input: str | None = None, labels: int | None = None
) -> Head:
    """The end of a network, whoever exported it: the output that holds class scores, else the one that comes nearest.

    output   the output; None: the one that looks like class scores
    input    the image input; None: the only one
    labels   how many labels there are; None: none
    raises   ModelUnsuitable where no output looks like scores, or several do (the message lists them); UnknownLayer
             for an output that the model does not have
    """
    return _Reader(model, input, labels).chosen(output)


def named_output(model: ir.Model, name: str) -> ir.Value:
    """The output of this name.

    raises   UnknownLayer, listing those that there are
    """
    names = [value.name or "" for value in model.graph.outputs]
    if name not in names:
        raise UnknownLayer(
            f"the model has no output named {name!r}{near(name, names)} (outputs: {', '.join(map(repr, names))})"
        )
    return model.graph.outputs[names.index(name)]


def outputs(model: ir.Model, input: str | None = None, labels: int | None = None) -> list[Head]:
    """What each output is, in the file's order (see `head`)."""
    reader = _Reader(model, input, labels)
    return [reader.end(value) for value in reader.graph.outputs]


class _Reader(Tail):
    """Concludes what the outputs of one model are."""

    def __init__(self, model: ir.Model, input: str | None, labels: int | None) -> None:
        super().__init__(model, input)
        self.labels = labels
        self._ends: dict[ir.Value, Head] = {}

    # --- which output ----------------------------------------------------------------------------

    def chosen(self, output: str | None) -> Head:
        """The output that is named, or the one that looks like scores."""
        values = list(self.graph.outputs)
        if output is not None:
            return self.end(named_output(self.model, output))
        tiers = [(kind, told) for told in (True, False) for kind in (CLASSES, BINARY)]
        for kind, told in [*tiers, (SEQUENCE, None), (NUMBERS, None)]:
            candidates = [v for v in values if self.end(v).kind == kind and told in (None, self.end(v).told)]
            if len(candidates) > 1:
                candidates = self._best(candidates)
            if len(candidates) == 1:
                return self.end(candidates[0])
            if candidates and kind != NUMBERS:
                what = "sequences" if kind == SEQUENCE else "class scores"
                raise ModelUnsuitable(
                    f'several outputs look like {what}; choose one with `output` (--output "{candidates[0].name}"): '
                    f"{', '.join(self.end(value).spelled for value in candidates)}"
                )
        examples = list(dict.fromkeys(end.example for end in map(self.end, values) if end.example))[:2]
        found = "; ".join(self.end(value).describe() for value in values)
        raise ModelUnsuitable(
            "no output looks like class scores (a float tensor of shape (N, classes)); the outputs are: "
            f"{found}{explained(examples, 'for one number')}"
        )

    def _best(self, candidates: list[ir.Value]) -> list[ir.Value]:
        """Of several: the same scores once, then what nothing is made from, then activations, then telling names."""
        once: dict[str, ir.Value] = {}
        for value in candidates:  # logits and their softmax are one answer: the softmax tells more
            end = self.end(value)
            if end.logits not in once or end.activation is not None:
                once[end.logits] = value
        left = list(once.values())
        behind = {one: before(one) for one in left}
        last = [one for one in left if not any(one in behind[other] for other in left if other is not one)]
        for narrowed in (
            last,
            [value for value in last if self.end(value).activation is not None],
            [value for value in last if any(hint in (value.name or "").lower() for hint in _HINTS)],
        ):
            if len(narrowed) == 1:
                return narrowed
        return last

    # --- what one output is ----------------------------------------------------------------------

    def end(self, value: ir.Value) -> Head:
        """The conclusion about one output."""
        if value not in self._ends:
            self._ends[value] = replace(self._conclude(value), output=value.name or "")
        return self._ends[value]

    def _conclude(self, value: ir.Value) -> Head:
        name = value.name or ""
        dtype = self.facts.dtypes.get(name, value.dtype)
        shape = self.facts.shape(value)
        if shape is None and value.shape is not None:
            shape = tuple(d if isinstance(d, int) else None for d in value.shape)
        batch = self.batch(value, shape)
        other = Head(name, name, None, None, name, kind=OTHER, batch=batch, shape=_spelled(shape, batch))
        if value not in self.moved:
            return replace(other, batch=None, reason="the picture does not move it")
        if not is_tensor(value):
            return replace(other, reason="no tensor, but a sequence or an optional one")
        best_of = ranked(value, BEST)
        if best_of is not None:
            return replace(other, reason=f"it tells where the largest of {real_name(best_of)!r} is")
        if dtype is not None and dtype not in FLOATS and dtype not in QUANTISED:
            return replace(other, reason="whole numbers, such as indices or counts")
        two = None if (alone := complement(value)) is None else self._conclude(alone)
        if two is not None and (two.kind, two.activation) == (BINARY, "sigmoid"):
            return replace(two, told=True, reason=f"{two.reason}; the output lays its complement before it")
        if shape is not None and 0 in shape:
            return replace(other, reason="it holds no numbers, since one of its sizes is 0")
        picked = self.picked(value)
        if picked is not None:
            at = 1 if picked.op_type == "NonMaxSuppression" else 0
            example = self._entry(picked.inputs[at] if at < len(picked.inputs) else None)
            reason = f"its entries were picked out by {picked.op_type}"
            return replace(other, kind=DETECTIONS, reason=reason, example=example)
        ended = final(value, self.facts, self.graph.opset_imports.get("", 1))
        layer = self.weight_layer(ended.logits)
        features = ended.logits if layer is None else self.features(layer)
        whole = self.facts.full_shape(features)
        base = Head(
            scores=name,
            logits=real_name(ended.logits),
            activation=ended.activation,
            classes=None,
            features=real_name(features),
            pooled=whole is not None and len(whole) > 2,
            batch=batch,
            shape=_spelled(shape, batch),
        )
        if shape is None:
            return replace(base, told=False, open=True, reason="its shape cannot be told from the graph")
        pictures = self.prober.layout.batch is not None and (self.prober.open_batch or len(shape) != 1)
        if batch is None and pictures:
            reason = "its first axis is not that of the pictures: several rows belong to each, or none"
            example = self._entry(layer.outputs[0] if layer is not None else None)
            return replace(base, kind=MAP, classes=None, reason=reason, example=example)
        rest = [d for axis, d in enumerate(shape) if axis != batch]
        sizes = [d for d in rest if d != 1]
        if len(sizes) == 0:
            found = self._one(base, value, layer)
        elif len(sizes) == 1:
            found = self._row(base, value, sizes[0], rest, ended.over, layer)
        else:
            found = self._rows(base, value, rest, ended.over, layer)
        if (ended.sound and not ended.lossy) or not (found.scored or found.kind == SEQUENCE):
            return found
        again = "computed from it again: as the file writes it, it overflows"
        if ended.lossy:
            again = "which are taken: the file gives their negative logarithms, smaller where likelier"
        reason = f"{found.reason}, {again}"
        return replace(found, scores=found.logits, axis=found.logits_axis, activation=None, reason=reason)

    def _one(self, base: Head, value: ir.Value, layer: ir.Node | None) -> Head:
        """One number a picture: two classes, or a quantity."""
        example = _part(base, *[0] * max(0, len(base.shape) - 1))
        base = replace(base, open=base.activation is None and self.open(value))
        two = replace(base, kind=BINARY, classes=2, example="logit(0)")
        one = replace(base, kind=NUMBERS, classes=1, example=example)
        if base.activation in ("softmax", "log_softmax"):
            return replace(one, reason="a softmax over one number is 1 whatever the picture")
        names = self.names(value, layer)
        quantity, ends_in = names_of_quantities(names), self.quantity_end(value)
        if self.labels in (1, 2):
            return replace(two, reason=f"{self.labels} labels")
        if quantity is not None:
            return replace(one, reason=f"a name says {quantity!r}")
        if base.activation is not None:
            return replace(two, reason=f"one {base.activation} of {base.logits!r}")
        if ends_in is not None:
            return replace(one, reason=f"it ends in {ends_in}")
        word = names_of_classes(names)
        if word is not None:
            return replace(two, reason=f"a name says {word!r}")
        return replace(two, told=False, reason="one number, taken for the logit of two classes")

    def _row(
        self,
        base: Head,
        value: ir.Value,
        count: int | None,
        rest: list[int | None],
        over: int | None,
        layer: ir.Node | None,
    ) -> Head:
        """A row of numbers a picture: a score for each class, or quantities."""
        at = next(axis for axis, d in enumerate(rest) if d != 1)
        opened = base.activation is None and self.open(value)
        base = replace(base, classes=count, axis=at + 1, open=opened)
        numbers = replace(base, kind=NUMBERS, example=_part(base, *[0] * len(rest)))
        boxed = any(self.boxes(other, count) for other in self.graph.outputs if other is not value)
        if boxed and base.activation not in ("softmax", "log_softmax"):
            return replace(numbers, kind=DETECTIONS, reason=f"a score for each of {count} boxes")
        if base.activation in ("softmax", "log_softmax"):
            if over is not None and count is not None and over != count:
                return replace(numbers, reason=f"its {count} numbers are softmaxes over {over} each")
            return replace(base, reason=f"{base.activation} of {base.logits!r}")
        names = self.names(value, layer)
        quantity, ends_in = names_of_quantities(names), self.quantity_end(value)
        if self.labels is not None and self.labels == count:
            return replace(base, reason=f"{count} labels")
        told_by = self.best_told_by(value)
        if told_by is not None and self.width(layer) in (None, count):
            return replace(base, reason=f"output {told_by!r} tells which is the largest")
        if quantity is not None:
            return replace(numbers, reason=f"a name says {quantity!r}")
        if base.activation is not None:
            return replace(base, reason=f"a sigmoid of each of {base.logits!r}")
        rectified = ends_in is not None and computes(ends_in) == "relu"
        if ends_in is not None and (layer is None or not rectified or self.directly(value, layer)):
            return replace(numbers, reason=f"it ends in {ends_in}")
        word = names_of_classes(names)
        if word is not None:
            return replace(base, reason=f"a name says {word!r}")
        if count in _WELL_KNOWN:
            return replace(base, reason=f"{count} is the number of ImageNet's classes")
        return replace(base, told=False, reason="nothing in the file says what they are")

    def _rows(
        self, base: Head, value: ir.Value, rest: list[int | None], over: int | None, layer: ir.Node | None
    ) -> Head:
        """Several rows a picture: steps of a sequence, places of a map, boxes."""
        sizes = [(axis, d) for axis, d in enumerate(rest, 1) if d != 1]
        part = _part(base, *[0] * len(rest))
        places = len(rest) == 3 and base.batch == 0  # (N, C, H, W) or the like
        reason = "it has places" if places else "several rows a picture, with nothing that calls them steps"
        mapped = replace(base, kind=MAP, reason=reason, example=part)
        if len(sizes) != 2 or None in (sizes[0][1], sizes[1][1]):
            return mapped
        softened = base.activation in ("softmax", "log_softmax")
        width = over if softened else self.width(layer)
        axis = next((axis for axis, d in reversed(sizes) if d == width), sizes[1][0] if base.batch else None)
        if axis is None or (len(rest) == 3 and not softened):
            return mapped
        (row,) = [one for one in sizes if one[0] != axis]
        count = dict(sizes)[axis]
        if any(self.boxes(other, row[1]) for other in self.graph.outputs if other is not value):
            reason = f"a row for each of {row[1]} boxes"
            return replace(base, kind=DETECTIONS, classes=count, reason=reason, example=part)
        if row[1] is not None and self.flattened(value, row[1]):
            return replace(mapped, reason=f"its {row[1]} rows are the places of a map")
        reasons = [
            (softened, f"{base.activation} over the {count} of each step"),
            (
                base.batch not in (0, None),
                "the pictures stand on its second axis, as recognisers of text write it",
            ),
            (self.behind_recurrent(value), "a recurrent layer is in front of it"),
            (self.best_told_by(value) is not None, "an output tells which is the largest of each step"),
            (self.labels is not None and self.labels in (count, (count or 0) - 1), f"{self.labels} labels"),
        ]
        told = [reason for holds, reason in reasons if holds]
        alone = sum(v in self.moved for v in self.graph.outputs) == 1 and base.activation is None
        if not told and not (alone and layer is not None and self.directly(value, layer)):
            return mapped
        logits, width = self._steps_of(base, value, row[1], count, axis)
        steps = None if self.prober.open_size else row[1]
        middle = (steps or 2) // 2
        indices = [0 if one == width or size == 1 else middle for one, size in enumerate(logits[1], 1)]
        return replace(
            base,
            logits=logits[0],
            kind=SEQUENCE,
            classes=count,
            axis=axis,
            logits_axis=width,
            steps=steps,
            shape=tuple("?" if self.prober.open_size and d == row[1] else d for d in base.shape),
            told=bool(told),
            reason=told[0] if told else "rows of one linear layer, taken for steps",
            example=_text(logits[0], indices),
        )

    def _steps_of(
        self, base: Head, value: ir.Value, steps: int | None, count: int | None, axis: int
    ) -> tuple[tuple[str, list[int | None]], int]:
        """The logits of a sequence and the axis of their classes; the output where these cannot be told apart."""
        logits = next((v for v in before(value) | {value} if real_name(v) == base.logits), value)
        for one, known in ((logits, None), (value, axis)):
            shape = self.facts.shape(one)
            at = self.batch(one, shape)
            rest = [d for i, d in enumerate(shape or ()) if i != at]
            found = known
            if known is None and sorted(d or 0 for d in rest if d != 1) == sorted((steps or 0, count or 0)):
                same = shape == self.facts.shape(value)
                found = axis if same else rest.index(count) + 1 if steps != count else None
            if found is not None:
                return (real_name(one), rest), found
        return (base.scores, []), axis

    def _entry(self, source: ir.Value | None) -> str:
        """An objective of one number of a value inside the network; '' where it has none for each picture."""
        known = self.facts.shape(source)
        if source is None or not source.name or not known or len(known) < 2 or not self.is_float(source):
            return ""
        logits = final(source, self.facts, self.graph.opset_imports.get("", 1)).logits
        if self.facts.shape(logits) != known:  # what a softmax is sure of moves nothing: its logits do
            logits = source
        return _text(real_name(logits), [0] * (len(known) - 1))


def _spelled(shape: tuple[int | None, ...] | None, batch: int | None) -> tuple[int | str, ...]:
    """The shape with 'N' for the pictures and '?' for what cannot be told."""
    return tuple(
        "N" if axis == batch else "?" if size is None else size for axis, size in enumerate(shape or ())
    )


def _part(base: Head, *indices: int) -> str:
    return _text(base.logits if base.activation is None else base.scores, indices)


def _text(name: str, indices: Sequence[int]) -> str:
    return f"part({', '.join([repr(name), *map(str, indices)])})"


# --- what names say -------------------------------------------------------------------------------

_CLASSES = frozenset({
    "categories", "category", "class", "classes", "classification", "classifier", "classify", "cls", "label", "labels",
    "logit", "logits", "prob", "probabilities", "probability", "probs", "softmax"
})  # fmt: skip
_QUANTITIES = frozenset({
    "age", "ages", "angle", "angles", "arousal", "bbox", "bboxes", "boundingbox", "box", "boxes", "coord",
    "coordinate", "coordinates", "coords", "corners", "count", "counts", "delta", "deltas", "density", "depth",
    "descriptor", "descriptors", "distance", "embed", "embedding", "embeddings", "encoding", "euler", "feat", "feats",
    "feature", "features", "gaze", "height", "heights", "joints", "keypoint", "keypoints", "kpt", "kpts", "landmark",
    "landmarks", "latent", "loc", "locations", "mos", "offset", "offsets", "pitch", "pose", "poses", "position",
    "positions", "price", "quality", "quat", "quaternion", "reg", "regress", "regression", "regressions",
    "regressor", "roll", "rotation", "speed", "steering", "temperature", "translation", "valence", "vertices", "xy",
    "xywh", "xyxy", "xyz", "yaw"
})  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words(name: str) -> list[str]:
    """The words of a name: 'fc_bboxPred.weight' has fc, bbox, pred and weight, in small letters."""
    return [word.lower() for word in _WORD.findall(name)]


def names_of_classes(names: Iterable[str]) -> str | None:
    """The word by which one of these names speaks of classes."""
    return _first(names, _CLASSES)


def names_of_quantities(names: Iterable[str]) -> str | None:
    """The word by which one of these names speaks of measured quantities or features, and not of their classes."""
    return _first((name for name in names if not _CLASSES.intersection(words(name))), _QUANTITIES)


def _first(names: Iterable[str], wanted: frozenset[str]) -> str | None:
    return next((word for name in names for word in words(name) if word in wanted), None)
