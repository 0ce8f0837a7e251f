"""What there is to look at in a network: its layers, with shape, parameters, work and receptive field."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from onnxviz.errors import UnknownLayer, UsageError, near
from onnxviz.graph.analysis.dataflow import (
    FLOATS,
    QUANTISED,
    dependent,
    flat,
    image_input,
    is_tensor,
    measured,
    reads,
)
from onnxviz.graph.analysis.probe import UNKNOWN_RANK, Prober, Symbolic, probes, symbolic
from onnxviz.graph.naming import ALSO, CALLED, LISTED_AS, STANDS_FOR, real_name
from onnxviz.graph.open.signatures import LONGEST
from onnxviz.graph.operators import INTEGER_SUMS
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.graph.analysis.receptive_field import Field, Intervals
    from onnxviz.graph.dequantised import Quantised

Path = tuple[str, ...]

# Parts of a path: beyond, a node has none.
_DEEPEST: Final = 64
# A list of texts as Python writes it, without escapes: `ast` would take five hundred times the memory.
_TEXT: Final = r"""'([^'\\\n]*)'|"([^"\\\n]*)\""""
_TEXTS: Final = re.compile(rf"\s*[\[(]\s*(?:(?:{_TEXT.replace('(', '(?:')})\s*(?:,\s*)?)*[\])]\s*")
_ONE: Final = re.compile(_TEXT)


def module_path(node: ir.Node, weights: list[ir.Value]) -> Path:
    """The module that the node was exported from; () where nothing tells.

    torch.onnx.export(dynamo=True) writes `pkg.torch.onnx.name_scopes` (or `namespace`) on every node. A
    convolution with a batch norm folded into it bears the norm's path; its weight still has the
    convolution's name, which is then taken. Older exporters put the path into the node's name:
    '/layer1/layer1.0/conv1/Conv', 'model/conv1/Conv2D' or 'layer1.0.conv1'.
    """
    found = _from_metadata(node)
    if found is None:
        found = _from_name(node.name or "", node.op_type)
        return found if len(found) <= _DEEPEST else ()
    if len(found) > _DEEPEST:
        return ()
    for weight in weights:
        owner = tuple((weight.name or "").split(".")[:-1])
        if len(owner) == len(found) and owner[:-1] == found[:-1]:
            return owner
    return found


def _from_metadata(node: ir.Node) -> Path | None:
    scopes: list[str] = []
    listed = node.metadata_props.get("pkg.torch.onnx.name_scopes") or node.metadata_props.get(
        "pkg.onnxscript.name_scopes"
    )
    if listed and len(listed) <= LONGEST and _TEXTS.fullmatch(listed):
        scopes = [found[1] or found[2] or "" for found in _ONE.finditer(listed)]
    namespace = node.metadata_props.get("namespace", "")
    if not scopes and 0 < len(namespace) <= LONGEST:
        scopes = [part.split(":", 1)[0].strip() for part in namespace.split("/")]
    if not scopes:
        return None
    # The last scope is the operation itself; each of the others is the whole dotted path of a module.
    modules = [scope for scope in scopes[:-1] if scope]
    return tuple(modules[-1].split(".")) if modules else ()


def _from_name(name: str, op: str) -> Path:
    if len(name) > LONGEST:
        return ()
    if "/" not in name:
        parts = tuple(part for part in name.split(".") if part)
        return parts if len(parts) > 1 and op not in parts else ()  # 'p2o.Conv.0' is a count, no module
    path: list[str] = []
    previous = ""
    for part in [p for p in name.split("/") if p][:-1]:
        # '/layer1/layer1.0': the second names child 0 of the first, not a module within it.
        if previous and part.startswith(previous + "."):
            path.extend(part[len(previous) + 1 :].split("."))
        else:
            path.extend(part.split("."))
        previous = part
    return tuple(path)


# --- layers ---------------------------------------------------------------------------------------


Pair = tuple[int, int]
# So many layers are shown at once.
_SHOWN = 24
# How the value behind a layer's rectifier is named after the layer itself.
_RECTIFIER = r"[./_:](?i:re_?lu_?6?|clip|act(ivation)?|hard_?tanh)(_output(_0)?)?"


@dataclass(frozen=True)
class Layer:
    """A named value of the graph that depends on the image."""

    name: str
    """Name of the value."""
    op: str
    """Operator that makes it, as the file spells it."""
    node: str
    """Name of the node that makes it; may be ''."""
    path: tuple[str, ...]
    """Module path, () where the exporter left none."""
    shape: tuple[int | str, ...]
    """Sizes; 'N' for an open batch, 'H/4' and the like for an open image size, '?' where it cannot be told."""
    parameters: int
    """Learned numbers that this layer is the first to read."""
    macs: int
    """Multiply-accumulates for one image; 0 for operators that are not counted, and where sizes are open."""
    receptive_field: Pair | None
    """Height and width, in pixels, of all that a unit depends on; None where it hangs on an open image size."""
    stride: tuple[int | Fraction, int | Fraction] | None
    """Pixels from one unit to the next (y, x); a fraction after upsampling, 0 along a direction that the layer
    does not tell apart; None where it tells no places apart at all."""
    offset: Pair | None
    """Topmost row and leftmost column of the field of unit (0, 0); negative where it lies in the padding."""
    inputs: tuple[str, ...]
    """Names of the layers that it reads."""
    local_field: Pair | None = None
    """Like `receptive_field`, without what comes in as context only: a squeeze-and-excite gate, the statistics of an
    instance norm, an attention. Equal to it in plain networks. Clip both to the image before comparing them: neither
    stops at its border."""
    also: tuple[str, ...] = ()
    """Other names of it: what a quantised file calls its integers, and its values in front of QuantizeLinear; where
    layers are called as in another file (`onnxviz.like`), what this file calls it."""
    quantised: Quantised | None = None
    """Of a layer that the file holds as integers: their name, scale and zero point."""
    trace: Field | None = dataclasses.field(default=None, repr=False, compare=False)
    """The exact map from units to pixels, for `field`."""
    channel_axis: int | None = None
    """Which axis holds the channels, followed from the convolutions; None where it cannot be."""

    def __repr__(self) -> str:
        return printable(f"<Layer {self.name} {self.op} {'×'.join(map(str, self.shape))}>", 200)

    @property
    def channels_last(self) -> bool:
        """Whether the channels are the last axis of three or more: (N, H, W, C), (N, places, C)."""
        if self.channel_axis is not None:
            return self.channel_axis == len(self.shape) - 1 > 1
        # Where they cannot be followed: the axes that follow the image stand before them; of (N, 1, 1, C), where none
        # does, only the last can be them.
        axes = [axis for axis in self.trace.axes if axis is not None] if self.trace is not None else []
        if not axes:
            return len(self.shape) > 2 and set(self.shape[1:-1]) == {1} and self.shape[-1] != 1
        return max(axes) < len(self.shape) - 1


class Layers(tuple[Layer, ...]):
    """Layers in the order of computation: a tuple that shows them one a line, of many the first and the last."""

    def __repr__(self) -> str:
        half = _SHOWN // 2
        lines = [repr(one) for one in self]
        if len(lines) > _SHOWN:
            lines = [*lines[:half], f"… {len(lines) - 2 * half} more …", *lines[-half:]]
        return "\n".join(lines) or "()"


class Activations:
    """Every named value that depends on the image and holds activations, in topological order, with its shape alone.

    model           where model-local functions are inlined
    image           its image input
    prober          what shapes are inferred by
    base, by_size   the shapes as the file stands, and at another size where that is open
    """

    def __init__(
        self, model: ir.Model, input: str | None = None, size: tuple[int, int] | None = None
    ) -> None:
        self.model = flat(model)
        self.image = image_input(self.model, input)
        self.prober = Prober(self.model, self.image)
        self.base, by_batch, self.by_size = probes(self.prober, size)
        self.moved = dependent(self.model.graph, self.image)
        self._shapes = symbolic(self.prober, self.base, by_batch, self.by_size)
        self._scales = measured(self.model.graph, self.moved)

    def shape(self, value: ir.Value) -> Symbolic:
        """The value's sizes, see `probe.symbolic`."""
        return self._shapes.get(value.name or "", UNKNOWN_RANK)

    def sizes(self) -> tuple[tuple[str, Symbolic], ...]:
        """The name and shape of each."""
        listed = [value for _, values, _ in self.nodes() for value in values]
        return tuple((value.name or "", self.shape(value)) for value in listed)

    def nodes(self) -> Iterator[tuple[ir.Node, list[ir.Value], tuple[str, ...]]]:
        """Each node on the way, the activations that it makes, and the names of those that it reads.

        Values that are none themselves (indices, masks) are looked through.
        """
        graph = self.model.graph
        named = {
            value.name: value
            for node in graph
            for value in node.outputs
            if LISTED_AS in value.meta or ALSO in value.meta
        }
        nearest: dict[ir.Value, tuple[str, ...]] = {self.image: ()}
        for node in graph:
            made = [value for value in node.outputs if value not in self._scales]
            if self.moved.isdisjoint(made):
                continue
            read = tuple(dict.fromkeys([name for value in reads(node) for name in nearest.get(value, ())]))
            listed: list[ir.Value] = []
            for value in made:
                nearest[value] = read
                if STANDS_FOR in value.meta:
                    nearest[value] = (real_name(value),)
                    if LISTED_AS not in value.meta:
                        continue
                shown = named[value.meta[LISTED_AS]] if LISTED_AS in value.meta else value
                if shown.name and self._holds_activations(shown):
                    nearest[value] = (shown.name,)
                    listed.append(shown)
            yield node, listed, read

    def _holds_activations(self, value: ir.Value) -> bool:
        if not is_tensor(value):
            return False
        dtype = self.base.dtypes.get(value.name or "", value.dtype)
        node = value.producer()
        if dtype == ir.DataType.INT32:
            return node is not None and node.op_type in INTEGER_SUMS
        return dtype in FLOATS or dtype in QUANTISED


def layers(model: ir.Model, input: str | None = None, size: Pair | None = None) -> tuple[Layer, ...]:
    """Every named value that depends on the image and holds activations, in topological order.

    Floating-point values and quantised ones are listed; constants, weights, masks, indices, measured scales and shape
    arithmetic are not. A quantised layer is listed once, where it is computed, by the name of its real values, in
    models that `graph.open.load` opened (see `graph.dequantised`). `model` is only read. Model-local functions are
    taken as inlined.

    input    the image input's name; None: the only one
    size     (height, width) to reckon with in place of what the file declares
    raises   ModelUnsuitable where no image input can be chosen
    """
    return of(Activations(model, input, size))


def of(activations: Activations) -> tuple[Layer, ...]:
    """`layers` of a graph whose shapes are known already."""
    from onnxviz.graph.analysis import receptive_field
    from onnxviz.graph.analysis.cost import Parameters, macs
    from onnxviz.graph.analysis.twins import Known, channel_axes

    graph, image, prober = activations.model.graph, activations.image, activations.prober
    base, by_size = activations.base, activations.by_size
    spans = receptive_field.fields(graph, image, prober.layout, base)
    if by_size is not None:
        # What differs at another size hangs on the size, which the file leaves open.
        other = receptive_field.fields(graph, image, prober.layout, by_size)
        spans = {name: found for name, found in spans.items() if name in other and found.same(other[name])}
    weights = Parameters(activations.moved, base)
    channels = channel_axes(graph, image, prober.layout.channel, Known(base.shape, base.value))
    listed: list[Layer] = []
    for node, values, read in activations.nodes():
        own = weights.weights(node)
        path = module_path(node, own)
        fresh, work = weights.count(own), macs(node, base) if by_size is None else 0
        for value in values:
            found = spans.get(value.name or "")
            listed.append(
                Layer(
                    name=value.name or "",
                    op=node.op_type,
                    node=node.name or "",
                    path=path,
                    shape=activations.shape(value),
                    parameters=fresh,
                    macs=work // base.batch,
                    receptive_field=_extents(found.full) if found is not None else None,
                    stride=_stride(found),
                    offset=_offset(found),
                    inputs=read,
                    local_field=_extents(found.local) if found is not None else None,
                    also=tuple(dict.fromkeys([*value.meta.get(ALSO, ()), *value.meta.get(CALLED, ())])),
                    quantised=_told(value) if ALSO in value.meta else None,
                    trace=found,
                    channel_axis=channels.get(value),
                )
            )
            fresh = work = 0  # a node with several results does its work once
    return Layers(listed)


def field(layer: Layer, y: int = 0, x: int = 0, *, local: bool = False) -> tuple[int, int, int, int]:
    """The exact input box that unit (y, x) of a layer depends on.

    returns  (top, left, bottom, right) in pixels of the network's input, bottom and right excluded; not
             clipped, so a box may reach outside the image into the padding
    local    leave out what comes in as context only (see `Layer.local_field`): the box to cut a patch by
    raises   UsageError where the field is not known
    """
    if layer.trace is None:
        raise UsageError(
            f"the receptive field of {layer.name!r} is not known: it hangs on the image size, which this model leaves "
            "open; give a size"
        )
    spans = layer.trace.local if local else layer.trace.full
    (top, bottom), (left, right) = (
        s.at(i if placed else 0) for s, i, placed in zip(spans, (y, x), layer.trace.placed, strict=True)
    )
    return top, left, bottom + 1, right + 1


def aliases(model: ir.Model) -> dict[str, str]:
    """The other names of the layers of a quantised file (`Layer.also`): the names of their real values by them.

    What stands in front of a quantiser keeps its own name here: it is a number of the graph too, not yet cut.
    """
    made = [value for node in model.graph for value in node.outputs]
    own = {value.name for value in made if value.dtype not in QUANTISED and value.dtype is not None}
    real = [value for value in made if ALSO in value.meta]
    return {other: str(value.name) for value in real for other in value.meta[ALSO] if other not in own}


def resolve(layers: Sequence[Layer], name: str) -> Layer:
    """The layer of this name: a value's name, a node's name, or a module path such as 'layer1.0.conv1'.

    A path names the last layer of its module, which is the module's result; so does 'layer1.0' or 'layer1'. Of a
    quantised file, whose exporter made a rectifier a part of the layer before, 'stem.relu6' names the layer 'stem'.
    Raises UnknownLayer with the names most like it.
    """
    for layer in layers:
        if layer.name == name:
            return layer
    for layer in layers:
        if name in layer.also or (layer.node and layer.node == name):
            return layer
    parts = tuple(part for part in name.replace("/", ".").split(".") if part)
    for layer in reversed(layers):
        if parts and layer.path[: len(parts)] == parts:
            return layer
    known = [layer.name for layer in layers]
    known += [layer.node for layer in layers if layer.node]
    known += [".".join(layer.path[:n]) for layer in layers for n in range(1, len(layer.path) + 1)]
    for layer in layers:
        if layer.quantised is not None and re.fullmatch(re.escape(layer.name) + _RECTIFIER, name):
            return layer
    several = [part.strip() for part in name.split(",")]
    if len(several) > 1 and set(several) <= set(known):
        raise UnknownLayer(
            f"no layer is named {name!r}, but each part between commas is one: give them one by one"
        )
    raise UnknownLayer(
        f"no layer is named {name!r}{near(name, dict.fromkeys(known))}; `onnxviz inspect` lists the layers"
    )


def _told(real: ir.Value) -> Quantised:
    from onnxviz.graph.dequantised import told

    return told(real)


def _extents(spans: tuple[Intervals, Intervals]) -> Pair:
    return spans[0].extent, spans[1].extent


def _stride(found: Field | None) -> tuple[int | Fraction, int | Fraction] | None:
    if found is None or not any(found.placed):
        return None
    steps = [s.step if placed else Fraction(0) for s, placed in zip(found.local, found.placed, strict=True)]
    y, x = (step.numerator if step.denominator == 1 else step for step in steps)
    return y, x


def _offset(found: Field | None) -> Pair | None:
    return (found.full[0].at(0)[0], found.full[1].at(0)[0]) if found is not None else None
