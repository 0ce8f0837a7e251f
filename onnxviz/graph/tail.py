"""What a graph tells about the end of an output: its last layer, its batch axis, what picks and what bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import FLOATS, dependent, flat, image_input, measured, subgraphs
from onnxviz.graph.analysis.probe import BATCHES, Facts, Prober
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import (
    ACTIVATIONS,
    BY_STATISTICS,
    FORM,
    GLOBAL_POOLS,
    SELECTIONS,
    WEIGHTED,
    computes,
    computing,
    family,
)

# Between the last weight layer and the logits: a bias, a pool over places, a scale, a clip.
_AFTER_WEIGHTS = (
    FORM
    | (GLOBAL_POOLS - {"GlobalLpPool"})
    | BY_STATISTICS
    | computing("mean_pool add total subtract multiply divide clip leaky_relu relu mean")
)
_PROBABILITIES = computing("hard_sigmoid sigmoid softmax")
# An output that ends in one of these is bounded or scaled as class scores are not.
_QUANTITY_ENDS = (
    ACTIVATIONS - computing("leaky_relu prelu sigmoid") | computing("absolute exp sqrt") | {"LpNormalization"}
)
# Between the sum of squares and what is divided by its root.
_OF_LENGTHS = FORM | computing("broadcast_to add clip maximum multiply power reciprocal sum sqrt")


class Tail:
    """The end of a model's graph, ready to be asked."""

    def __init__(self, model: ir.Model, input: str | None) -> None:
        self.model = flat(model)
        self.graph = self.model.graph
        self.prober = Prober(self.model, image_input(self.model, input))
        self.facts = self.prober.facts()
        self.moved = dependent(self.graph, self.prober.image)
        self._measured = measured(self.graph, self.moved)  # of a dynamically quantised file
        self._other: Facts | None = None

    def other(self) -> Facts | None:
        """The shapes at another batch, where the file leaves that open."""
        if self._other is None and self.prober.open_batch:
            self._other = self.prober.facts(batch=BATCHES[1])
        return self._other

    # --- what is asked of the graph --------------------------------------------------------------

    def is_float(self, value: ir.Value) -> bool:
        """Whether it holds floating-point numbers."""
        return self.facts.dtypes.get(value.name or "", value.dtype) in FLOATS

    def picked(self, value: ir.Value) -> ir.Node | None:
        """The node behind the last weights that picks some of many."""
        seen: set[ir.Value] = set()
        todo = [value]
        while todo:
            one = todo.pop()
            node = one.producer()
            if node is None or one in seen or one not in self.moved:
                continue
            seen.add(one)
            if node.op_type in SELECTIONS or "NMS" in node.op_type:
                return node
            if view(node).op in WEIGHTED and self._source(node) is not None:
                continue
            inner = [
                inside
                for graph in subgraphs(node)
                for inside in graph.all_nodes()
                if inside.op_type in SELECTIONS
            ]
            if inner:
                return inner[0]
            todo += [read for read in node.inputs if read is not None]
        return None

    def batch(self, value: ir.Value, shape: tuple[int | None, ...] | None) -> int | None:
        """The axis of the pictures, from the shapes at two batches and what the file declares."""
        image = self.prober.layout.batch
        if shape is None or image is None:
            return 0
        size = self.facts.batch
        places = [axis for axis, d in enumerate(shape) if d == size]
        if self.prober.open_batch:
            if places == [0] and None not in shape and len(shape) == 2:
                return 0
            other = self.other()
            grown = other.shape(value) if other is not None else None
            if grown is not None and len(grown) == len(shape):
                places = [axis for axis in places if grown[axis] == BATCHES[1]]
            symbol = self.prober.image.shape[image] if self.prober.image.shape is not None else None
            declared = list(value.shape) if value.shape is not None else []
            if not places and symbol is not None and not isinstance(symbol, int) and symbol.value:
                places = [axis for axis, d in enumerate(declared) if d == symbol]
            if not places and None in shape[:1]:
                return 0  # inference did not get so far
        return places[0] if places else None

    def names(self, value: ir.Value, layer: ir.Node | None) -> list[str]:
        """The output's name, then those of its last layer and its weights, and the task that the file states."""
        names = [value.name or ""]
        if len(self.graph.outputs) == 1:
            names.append(str(self.model.metadata_props.get("task", "")))
        if layer is not None:
            weights = [v for v in view(layer).inputs[1:3] if v is not None and v not in self.moved]
            names += [v.name or "" for v in weights]
            names += [layer.name or "", layer.outputs[0].name or ""]
        return names

    def width(self, layer: ir.Node | None) -> int | None:
        """How many numbers the last weight layer gives at each place."""
        if layer is None:
            return None
        shape = self.facts.shape(layer.outputs[0])
        if shape is None:
            return None
        return shape[1] if family(view(layer).op) == "convolution" and len(shape) > 2 else shape[-1]

    def boxes(self, value: ir.Value, rows: int | None) -> bool:
        """Whether it holds four numbers for each of so many rows."""
        shape = self.facts.shape(value)
        return shape is not None and len(shape) == 3 and shape[1] == rows and shape[2] == 4

    def behind_recurrent(self, value: ir.Value) -> bool:
        """Whether an LSTM, GRU or RNN is in front of it."""
        makers = (v.producer() for v in before(value))
        return any(maker is not None and family(maker.op_type) == "recurrent" for maker in makers)

    def directly(self, value: ir.Value, layer: ir.Node) -> bool:
        """Whether nothing but form, a bias and a ReLU stands between the weights and the output."""
        for _, node, op, _ in self._back(value):
            if node is layer or op not in FORM | computing("add relu"):
                return node is layer
        return False

    def flattened(self, value: ir.Value, rows: int) -> bool:
        """Whether so many rows are the places of a map, its height times its width."""
        for one, _, op, _ in self._back(value):
            shape = self.facts.full_shape(one)
            if shape is not None and len(shape) == 4:
                pairs = [(a, b) for i, a in enumerate(shape) for b in shape[i + 1 :] if a > 1 and b > 1]
                return any(a * b == rows for a, b in pairs)
            if op not in FORM | WEIGHTED | computing("add log_softmax sigmoid softmax"):
                return False
        return False

    def quantity_end(self, value: ir.Value) -> str | None:
        """What stands at the very end that bounds, scales or sums up as class scores are not; None: nothing does."""
        scaled: list[str] = []
        # By a range measured as it runs: part of a product of integers, whose bias follows.
        dequantised = False
        for _, node, op, source in self._back(value):
            if op in _QUANTITY_ENDS:
                return op
            if op in _PROBABILITIES:
                return f"a scaled {op}" if scaled else None
            if computes(op) in ("divide", "multiply") and len(node.inputs) == 2 and self._normed(node):
                return "a division by its length"
            if source is None:
                return None
            if (computes(op) == "sum" or computes(op) in ("matmul", "gemm")) and self._shares(source):
                return "a mean weighted by a Softmax"
            if computes(op) in ("add", "divide", "multiply", "subtract"):
                dequantised = not self._measured.isdisjoint(node.inputs)
                if not dequantised:
                    scaled.insert(0, op)
            elif op in WEIGHTED:
                biased = dequantised or computes(op) == "matmul"
                return "a rescaling" if _rescaled(scaled, biased=biased) else None
            elif op not in FORM:
                return None
        return None

    def _shares(self, value: ir.Value) -> bool:
        """Whether it is a Softmax, perhaps times constants."""
        for _, _, op, _ in self._back(value):
            if op not in FORM | computing("multiply"):
                return computes(op) == "softmax"
        return False

    def _normed(self, node: ir.Node) -> bool:
        """Whether one operand is a length of the other: ReduceL2, or the root of a sum of squares."""
        below = node.inputs[1]
        for _ in range(8):
            maker = below.producer() if below is not None else None
            if maker is None:
                return False
            if computes(maker.op_type) in ("l2", "sum_square"):
                return True
            if maker.op_type not in _OF_LENGTHS:
                return False
            if computes(maker.op_type) == "sum":
                squared = maker.inputs[0].producer() if maker.inputs[0] is not None else None
                return squared is not None and computes(squared.op_type) in ("multiply", "power")
            below = next((v for v in maker.inputs if v in self.moved), None)
        return False

    def open(self, value: ir.Value) -> bool:
        """Whether operators stand at the end of which the graph alone does not tell what they give."""
        for _, _, op, source in self._back(value):
            if op in WEIGHTED or op == "GlobalMaxPool" or computes(op) in ("relu", "leaky_relu"):
                return False
            if op not in _AFTER_WEIGHTS or source is None:
                return True
        return False

    # --- the last layer and what it reads --------------------------------------------------------

    def _back(self, value: ir.Value) -> Iterator[tuple[ir.Value, ir.Node, str, ir.Value | None]]:
        """Each value from this one back, its node, its operator, and its source, up to where there is none."""
        one: ir.Value | None = value
        while one is not None and (node := one.producer()) is not None:
            source = self._source(node)
            yield one, node, view(node).op, source
            one = source

    def _source(self, node: ir.Node) -> ir.Value | None:
        """The one input of the node that depends on the image, ranges aside; None where there are more."""
        found = [
            value
            for value in view(node).inputs
            if value is not None and value in self.moved and value not in self._measured
        ]
        return found[0] if len(found) == 1 else None

    def weight_layer(self, logits: ir.Value) -> ir.Node | None:
        """The last product with weights before the logits."""
        for _, node, op, source in self._back(logits):
            if source is None or op not in _AFTER_WEIGHTS:
                return node if source is not None and op in WEIGHTED else None
        return None

    def features(self, layer: ir.Node) -> ir.Value:
        """What the layer reads, further back for a value without Dropout, of rank 2 and in floating point."""
        values = list(self._chain(layer))
        for value in values:
            shape = self.facts.shape(value)
            if shape is not None and len(shape) == 2 and self.is_float(value):
                return value
        return next((value for value in values if self.is_float(value)), values[0])

    def _chain(self, layer: ir.Node) -> Iterator[ir.Value]:
        """The layer's data, then what it was before each change of form; Dropout and Identity are skipped."""
        value = next((v for v in view(layer).inputs if v is not None), None)
        elements = self._elements(value)
        while value is not None:
            node = value.producer()
            op = view(node).op if node is not None else ""
            if computes(op) not in ("dropout", "identity"):
                yield value
            if (
                node is None
                or op not in FORM | computing("quantize_measured")
                or self._elements(value) != elements
            ):
                return
            value = view(node).inputs[0]

    def _elements(self, value: ir.Value | None) -> int | None:
        shape = self.facts.full_shape(value)
        return math.prod(shape[1:]) if shape is not None else None


def _rescaled(ops: list[str], *, biased: bool) -> bool:
    """Whether a factor and then a summand follow the last layer and its bias: quantities brought to their units."""
    rest = ops[1:] if biased and ops and computes(ops[0]) == "add" else ops
    return [computes(op) in ("multiply", "divide") for op in rest] == [True, False]


def before(value: ir.Value) -> set[ir.Value]:
    """Everything that the value is computed from."""
    found: set[ir.Value] = set()
    todo = [value]
    while todo:
        node = todo.pop().producer()
        for read in node.inputs if node is not None else ():
            if read is not None and read not in found:
                found.add(read)
                todo.append(read)
    return found


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
