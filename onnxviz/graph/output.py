"""What an output of a file was found to be, in words and by names of values; and what the graph tells about its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir

from onnxviz.errors import COMMAND, ways
from onnxviz.graph.analysis.dataflow import FLOATS, dependent, flat, image_input, measured, subgraphs
from onnxviz.graph.analysis.probe import BATCHES, Facts, Prober
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.naming import real_name
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
from onnxviz.text import printable

CLASSES: Final = "classes"
BINARY: Final = "binary"
SEQUENCE: Final = "sequence"
NUMBERS: Final = "numbers"
DETECTIONS: Final = "detections"
MAP: Final = "map"
OTHER: Final = "other"


@dataclass(frozen=True)
class Head:
    """What one output is, by names of values."""

    scores: str
    """The value that probabilities are read from: the output; or `logits`, where the file writes its softmax so that it
    overflows."""
    logits: str
    """The value in front of the final activation; the output itself where there is none."""
    activation: str | None
    """'softmax', 'sigmoid', 'log_softmax' and 'log_sigmoid' (scores are then logarithms of probabilities), or None."""
    classes: int | None
    """How many classes (or numbers); of one score that stands for two classes, 2. None where the file does not tell."""
    features: str
    """What the last weight layer reads: (N, D), or feature maps (N, C, H, W) where `pooled`."""
    pooled: bool = False
    """The features are maps: their mean over places is the feature vector (a 1x1 convolution as classifier)."""
    output: str = field(default="", compare=False)
    """The output's name."""
    kind: str = field(default=CLASSES, compare=False)
    """CLASSES: a score for each class. BINARY: one score that tells two classes apart. SEQUENCE: classes for each step.
    NUMBERS: quantities (a regression, an embedding). DETECTIONS: as many rows as were found. MAP: places. OTHER."""
    batch: int | None = field(default=0, compare=False)
    """The axis of the pictures; None where the output has none."""
    shape: tuple[int | str, ...] = field(default=(), compare=False)
    """Of the output; 'N' for the pictures, '?' for what cannot be told."""
    steps: int | None = field(default=None, compare=False)
    """Of a sequence: how many; None where that hangs on the picture's size."""
    axis: int = field(default=1, compare=False)
    """The axis of the classes, when the pictures are brought to axis 0."""
    logits_axis: int = field(default=1, compare=False)
    """The same of the logits of a sequence."""
    told: bool = field(default=True, compare=False)
    """Whether the file tells that these are classes; else they are taken for that."""
    open: bool = field(default=False, compare=False)
    """The output ends in operators that say nothing here: only its values can tell whether they are probabilities."""
    reason: str = field(default="", compare=False)
    """What the conclusion rests on, in words."""
    example: str = field(default="", compare=False)
    """An objective text that explains a part of it."""

    def __repr__(self) -> str:
        return f"<Head {printable(self.describe(), 300)}>"

    @property
    def scored(self) -> bool:
        """Whether there is one score a class for each picture."""
        return self.kind in (CLASSES, BINARY)

    @property
    def spelled(self) -> str:
        """'prob' (N, 10)."""
        return f"{self.output!r} ({', '.join(map(str, self.shape))})" if self.shape else repr(self.output)

    def describe(self) -> str:
        """What it is, in one line."""
        count = "?" if self.classes is None else self.classes
        what = {
            CLASSES: f"{count} classes",
            BINARY: "one score for two classes",
            SEQUENCE: f"a sequence of {self.steps or '?'} steps, {count} classes each",
            NUMBERS: "one number" if self.classes == 1 else f"{count} numbers",
            DETECTIONS: "detections",
            MAP: "maps",
        }.get(self.kind, "no scores")
        assumed = "" if self.told or not self.scored else "taken for "
        axis = f", pictures on axis {self.batch}" if self.batch not in (0, None) else ""
        return f"{self.spelled}: {assumed}{what}{axis} ({self.reason})"

    def to_dict(self) -> dict[str, object]:
        """For manifests and JSON."""
        return {
            "name": self.output,
            "shape": list(self.shape),
            "kind": self.kind,
            "classes": self.classes,
            "steps": self.steps,
            "activation": self.activation,
            "logits": self.logits,
            "batch_axis": self.batch,
            "told": self.told,
            "reason": self.reason,
        }

    def refusal(self) -> str:
        """Why this is no row of class scores, and what can be explained instead, with an example from this file."""
        if self.kind == SEQUENCE:
            step = (self.steps or 2) // 2
            return (
                f"output {self.describe().replace(': ', ' is ', 1)}; say which step is explained"
                + explained(
                    [self.example],
                    f"for class 0 of step {step}",
                    f"--neuron {step} for the best class of that step",
                )
            )
        others = []
        if self.kind == NUMBERS:
            others = [f"--labels FILE with {self.classes or 'their'} names, if they are scores of classes"]
        elif self.kind == MAP and (len(self.shape) == 4 or not self.example):
            layer = self.output if self.example else self.features
            others = [f'--layer "{layer}" --channel 0 for one of its maps']
        text = f"output {self.spelled} holds no class scores of a picture: {self.reason}"
        return text + explained([self.example] if self.example else [], "for one of its numbers", *others)


def explained(examples: list[str], what: str, *others: str) -> str:
    """The end of a message: objectives that explain a part of an output, then other ways on."""
    options = COMMAND.get()
    if examples and options is not None and "--objective" not in options:
        command = f'`onnxviz saliency MODEL IMAGE --objective "{examples[0]}"`'
        return f"; {command} explains it {what}" + (ways(*others) if others else "")
    given = " or ".join(f'--objective "{one}"' for one in examples)
    return ways(*([f"give {given} {what}"] if examples else []), *others)


# --- how it ends: the last layer, the batch axis, what picks and what bounds ----------------------


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
BEST: Final = ("ArgMax",)
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
            inside = (inner for graph in subgraphs(node) for inner in graph.all_nodes())
            picks = next((inner for inner in inside if inner.op_type in SELECTIONS), None)
            if picks is not None:
                return picks
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
        shape = None if layer is None else self.facts.shape(layer.outputs[0])
        if layer is None or shape is None:
            return None
        return shape[1] if family(view(layer).op) == "convolution" and len(shape) > 2 else shape[-1]

    def boxes(self, value: ir.Value, rows: int | None) -> bool:
        """Whether it holds four numbers for each of so many rows."""
        shape = self.facts.shape(value)
        return shape is not None and len(shape) == 3 and shape[1] == rows and shape[2] == 4

    def best_told_by(self, value: ir.Value) -> str | None:
        """The output that tells where the largest of these numbers is."""
        for one in self.graph.outputs:
            source = ranked(one, BEST)
            if source is not None and real_name(source) == real_name(value):
                return one.name or ""
        return None

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
        found = [one for one in view(node).inputs if one in self.moved and one not in self._measured]
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
            forms = op in FORM | computing("quantize_measured")
            if node is None or not forms or self._elements(value) != elements:
                return
            value = view(node).inputs[0]

    def _elements(self, value: ir.Value | None) -> int | None:
        shape = self.facts.full_shape(value)
        return math.prod(shape[1:]) if shape is not None else None


def _rescaled(ops: list[str], *, biased: bool) -> bool:
    """Whether a factor and then a summand follow the last layer and its bias: quantities brought to their units."""
    rest = ops[1:] if biased and ops and computes(ops[0]) == "add" else ops
    return [computes(op) in ("multiply", "divide") for op in rest] == [True, False]


def ranked(output: ir.Value, by: tuple[str, ...] = (*BEST, "TopK")) -> ir.Value | None:
    """The numbers of which an output only tells the largest: what such an operator reads, through changes of form.

    by   of these operators
    """
    value: ir.Value | None = output
    while value is not None and (node := value.producer()) is not None:
        source = node.inputs[0] if node.inputs else None
        if node.op_type in by and node.domain == "":
            return source
        value = source if node.op_type in FORM else None
    return None


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
