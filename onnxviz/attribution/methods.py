"""Attribution methods: each is one function and one row, and everything else reads the row.

The techniques (`saliency`, `cam`), the command line, sheets, explainers, the demo, docs/methods.md and the tests know a
method by its row alone. To add one: a function under `@method(...)`, in any file that is imported.

A method of one pass is a function on the graph builder, and the names of its parameters say what it is given:

    gradient                               of the score by the input: (N, C, H, W)
    guided_gradient, deconvnet_gradient    the same under other rules of backpropagation
    input                                  the network's input: (N, C, H, W)
    activations, gradients                 a layer, and the gradient of the score by it: (N, C, h, w)
    the name of another method             its map: (N, H, W)

It gives (N, C, H, W), whose colours the row tells how to join, or a layer's map (N, h, w). An explainer has the
function in its file; a technique runs it on what the network gave. A method of many passes is a function of a job,
whose keyword-only parameters are its options.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from onnxviz.errors import UsageError, near
from onnxviz.figures.captions import SIGNED, Caption

if TYPE_CHECKING:
    import onnx_ir as ir

_F = TypeVar("_F", bound=Callable[..., Any])

#: What a function on the graph builder may be given beside the maps of other methods; the last two are a layer's.
LAYER: Final = ("activations", "gradients")
GIVEN: Final = ("gradient", "guided_gradient", "deconvnet_gradient", "input", *LAYER)
_PAPER: Final = re.compile(r"^ *(\S.*? \d{4}, (?:arXiv:[\d.]*\d|doi:\S*\w))", re.M)


class Stage(Protocol):
    """Where a function on the graph builder is appended: in a whole network, or to what one gave.

    op       appends operators (`Tape`)
    signed   whether a layer's map keeps what speaks against the score, and guided Grad-CAM the sign
    """

    op: Any
    signed: bool

    def given(self, name: str) -> list[ir.Value]:
        """What GIVEN calls so: one value, or for LAYER one for each layer."""

    def placed(self, maps: list[ir.Value]) -> ir.Value:
        """Maps of layers, (N, h, w) each, as one over the picture, (N, H, W)."""


@dataclass(frozen=True)
class Method:
    """A method.

    name       as `saliency` and `cam` take it
    function   on the graph builder, (op, what its parameters name) -> a value; or of a job, with options. Of those in
               this room that need NumPy only the file and the name stand here: a listing of methods imports none of it
    colours    how (N, C, H, W) becomes (N, H, W). 'largest': the largest magnitude over the colours; 'sum': shares of
               the score, which add up; 'none': it has no colours
    caption    its name and meaning in pictures
    layered    whether it is made from a layer: a method of `cam`
    """

    name: str
    function: Callable[..., Any] | str
    colours: str
    caption: Caption
    layered: bool = False

    @cached_property
    def run(self) -> Callable[..., Any]:
        """The function."""
        if not isinstance(self.function, str):
            return self.function
        file, _, name = self.function.partition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(f"onnxviz.attribution.{file}"), name)
        return found

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The method's own options with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        own = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        return {p.name: p.default for p in own if p.default is not inspect.Parameter.empty}

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What a function on the graph builder is given; nothing for one of many passes."""
        if isinstance(self.function, str):
            return ()
        first, *others = inspect.signature(self.function).parameters
        return tuple(others) if first == "op" else ()

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of GIVEN that it needs, by itself or for the methods that it is made of."""
        return frozenset().union(*({n} if n in GIVEN else named(n).takes for n in self.needs))

    @property
    def one_pass(self) -> bool:
        """Whether it is a function on the graph builder, which an explainer can hold."""
        return bool(self.needs)

    @property
    def signed(self) -> bool:
        """Whether negative values mean something."""
        return self.colours == "sum"

    @property
    def summary(self) -> str:
        """What it is: the first line of its description."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def paper(self) -> str:
        """Authors, year, and where it is found; empty where there is none."""
        found = _PAPER.search(inspect.getdoc(self.run) or "")
        return found[1] if found else ""

    def append(self, stage: Stage) -> ir.Value:
        """The map over the picture, (N, H, W), of a function on the graph builder."""
        parts = [stage.given(n) if n in GIVEN else [named(n).append(stage)] for n in self.needs]
        count = max(map(len, parts))  # of layers
        parts = [one * count if len(one) < count else one for one in parts]
        maps = [self.run(stage.op, *one) for one in zip(*parts, strict=True)]
        if set(LAYER) & set(self.needs):
            return stage.placed(maps)
        colours = "sum" if stage.signed and self.colours == "largest" else self.colours
        return joined(stage.op, maps[0], colours)


#: Every method, in the order of listings and sheets.
METHODS: dict[str, Method] = {}


def method(
    name: str, caption: Caption, *, colours: str = "none", layered: bool = False
) -> Callable[[_F | str], _F | str]:
    """Add a method: a decorator of its function (see above), which stays as it is.

    raises   ValueError where there is one of this name, or its parameters are not what a method is given
    """

    def add(function: _F | str) -> _F | str:
        row = Method(name, function, colours, caption, layered)
        if name in METHODS:
            raise ValueError(f"there is a method {name!r} already")
        for given in row.needs:
            if given not in GIVEN and given.replace("_", "-") not in METHODS:
                raise ValueError(
                    f"{name} takes {given!r}, which is neither of {', '.join(GIVEN)} nor a method"
                )
        if row.needs and layered != bool(row.takes & set(LAYER)):
            raise ValueError(f"{name} is layered={layered}, and takes {', '.join(sorted(row.takes))}")
        METHODS[name] = row
        return function

    return add


def of(technique: str) -> dict[str, Method]:
    """The methods of 'saliency' or of 'cam'."""
    return {name: one for name, one in METHODS.items() if one.layered == (technique == "cam")}


def chosen(name: str, among: Mapping[str, Method]) -> Method:
    """One of these methods; raises UsageError naming those that there are."""
    if isinstance(name, (list, tuple)):
        raise UsageError(f"one method here, got {name!r}; several make a sheet: `onnxviz.attributions`")
    if name not in among:
        meant = near(str(name), among)
        if among != METHODS and (exact := near(str(name), METHODS)) != meant and exact.count("'") == 2:
            other = METHODS[exact.split("'")[1]]
            meant = f"; {other.name!r} is one of `{'cam' if other.layered else 'saliency'}`"
        raise UsageError(f"no method is called {name!r}{meant}; there are {', '.join(among)}")
    return among[name]


def each_once(what: str, names: list[str]) -> list[str]:
    """The names; raises UsageError where there is none, or one twice."""
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"expected at least one {what}, each once; got {', '.join(map(str, names)) or 'none'}"
        )
    return names


def check_percentile(percentile: float) -> None:
    """raises   UsageError where it is no part of a hundred."""
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile is over 0 and at most 100, got {percentile}")


def named(parameter: str) -> Method:
    """The method that a parameter of another names: 'grad_cam' is 'grad-cam'."""
    return METHODS[parameter.replace("_", "-")]


def joined(op: Any, value: ir.Value, colours: str) -> ir.Value:
    """(N, C, H, W) as (N, H, W), see `Method`."""
    if colours == "none":
        return value
    if colours == "largest":
        return op.ReduceMax(op.Abs(value), [1], keepdims=0)
    return op.ReduceSum(value, [1], keepdims=0)


# --- by the gradient at the input -----------------------------------------------------------------

_BRIGHT: Final = "the brighter, the more the score moves with the pixel"
_BACK: Final = "the brighter, the stronger what passes back to it"


@method("saliency", Caption("saliency", _BRIGHT, fine=True), colours="largest")
def saliency(op: Any, gradient: ir.Value) -> ir.Value:
    """How far the score moves with each pixel: the largest magnitude of the gradient's colours.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034.
    """
    return gradient


@method(
    "gradient",
    Caption("gradient, signed", "red: more light there raises the score; blue: lowers it", fine=True),
    colours="sum",
)
def gradient(op: Any, gradient: ir.Value) -> ir.Value:
    """The gradient itself, summed over the colours: its sign says whether more light raises the score.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034.
    """
    return gradient


@method("input-x-gradient", Caption("input × gradient", SIGNED, fine=True), colours="sum")
def input_x_gradient(op: Any, gradient: ir.Value, input: ir.Value) -> ir.Value:
    """The gradient times the input: for a network of straight pieces without biases, exact shares of the score.

    Shrikumar, Greenside, Shcherbina & Kundaje 2016, arXiv:1605.01713.
    """
    return op.Mul(gradient, input)


@method("guided", Caption("guided backprop", _BACK, fine=True), colours="largest")
def guided(op: Any, guided_gradient: ir.Value) -> ir.Value:
    """Backpropagation that lets only positive cotangents through units that are on.

    Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806. Sharp, but nearly blind to the weights above
    (Adebayo et al. 2018): an edge detector for what the lower layers respond to.
    """
    return guided_gradient


@method("deconvnet", Caption("deconvnet", _BACK, fine=True), colours="largest")
def deconvnet(op: Any, deconvnet_gradient: ir.Value) -> ir.Value:
    """Backpropagation that lets only positive cotangents through, whether a unit is on or off.

    Zeiler & Fergus 2014, arXiv:1311.2901.
    """
    return deconvnet_gradient


# --- by many gradients ----------------------------------------------------------------------------

for _name, _title, _meaning in (
    ("smoothgrad", "SmoothGrad", "the brighter, the more the score moves, on average over noise"),
    (
        "smoothgrad-squared",
        "SmoothGrad, squared",
        "the brighter, the larger the mean squared gradient over noise",
    ),
    ("vargrad", "VarGrad", "the brighter, the more the gradient changes with noise"),
    ("integrated-gradients", "integrated gradients", SIGNED),
    ("expected-gradients", "expected gradients", SIGNED),
):
    _caption, _colours = Caption(_title, _meaning, fine=True), "sum" if _meaning == SIGNED else "largest"
    method(_name, _caption, colours=_colours)(f"sampled.{_name.replace('-', '_')}")
_SHARES: Final = "the deeper the colour, the larger the shares of the input and of all biases"
method("full-gradient", Caption("full gradient", _SHARES, zero=False))("full_gradient.full_gradient")


# --- class activation maps ------------------------------------------------------------------------

_FOR_IT: Final = "the deeper the colour, the more the place speaks for it"
# The first component outweighs the next by their ratio to the power of 2^12: a ratio of 0.99 leaves 1e-18.
_SQUARINGS: Final = 12
_TINY: Final = 1.1754943508222875e-38  # the smallest normal float32


def _cam(name: str, title: str, by: str) -> Callable[[_F | str], _F | str]:
    return method(name, Caption(title, f"{_FOR_IT}: {by}", either=True), layered=True)


@_cam("grad-cam", "Grad-CAM", "channels weighted by their mean gradient")
def grad_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by the mean of their gradient over all places.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    return _summed(op, activations, op.ReduceMean(gradients, [2, 3], keepdims=1))


@_cam("grad-cam++", "Grad-CAM++", "channels weighted by their positive gradients")
def grad_cam_plus_plus(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by their positive gradient, the less a place has in common with others: for several objects.

    Chattopadhay et al. 2018, arXiv:1710.11063, equations 10, 11 and 19. The paper differentiates exp(score), whose
    higher derivatives are powers of the first; the common factor exp(score) is left out, since it overflows and
    scales the whole map only.
    """
    squares = op.Mul(gradients, gradients)
    cubes = op.Mul(squares, gradients)
    total = op.ReduceSum(activations, [2, 3], keepdims=1)
    share = _ratio(op, squares, op.Add(op.Mul(squares, 2.0), op.Mul(cubes, total)))
    weights = op.ReduceSum(op.Mul(share, op.Relu(gradients)), [2, 3], keepdims=1)
    return _summed(op, activations, weights)


@_cam("layercam", "LayerCAM", "each place weighted by its positive gradient")
def layer_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Each place of each channel weighted by its own positive gradient: works in shallow layers too.

    Jiang et al. 2021, doi:10.1109/TIP.2021.3089943.
    """
    return _summed(op, activations, op.Relu(gradients))


@_cam("hirescam", "HiResCAM", "each place weighted by its gradient")
def hires_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Each place of each channel weighted by its own gradient, whatever its sign.

    Draelos & Carin 2020, arXiv:2011.08891. Equal to Grad-CAM where a global average pool and one linear layer follow;
    elsewhere the map shows what the network really used there.
    """
    return _summed(op, activations, gradients)


@_cam("xgrad-cam", "XGrad-CAM", "channels weighted by gradient × activation")
def xgrad_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by the mean of their gradient, each place counted by its share of the channel's activation.

    Fu et al. 2020, arXiv:2008.02312, equation 8. The map sums to Σ activation × gradient (the axiom of conservation).
    """
    above = op.ReduceSum(op.Mul(gradients, activations), [2, 3], keepdims=1)
    weights = _ratio(op, above, op.ReduceSum(activations, [2, 3], keepdims=1))
    return _summed(op, activations, weights)


@method(
    "eigencam",
    Caption("EigenCAM", "the deeper the colour, the more the layer answers, whatever the class"),
    layered=True,
)
def eigen_cam(op: Any, activations: ir.Value) -> ir.Value:
    """What most of the layer answers to, whatever the class: the places along the first principal component.

    Muhammad & Yeasin 2020, arXiv:2008.00299: the (places × channels) matrix times its first right singular vector, not
    centred. A singular vector has no sign of its own: the one taken makes the map's sum positive, which for
    activations of one sign makes the whole map positive.

    The standard has no singular value decomposition. Squaring the Gram matrix again and again, divided by its trace,
    leaves the projector on its first eigenvector; any column of it that is not zero is that vector. The smaller of the
    two Gram matrices has the same component: places are few where channels are many.
    """
    rows = op.Reshape(activations, [0, 0, -1])  # (N, C, hw)
    across = op.Transpose(rows, perm=[0, 2, 1])
    sizes: Any = tuple(activations.shape or ())[1:]  # (C, h, w)
    known = len(sizes) == 3 and all(isinstance(size, int) for size in sizes)
    by_place = known and sizes[1] * sizes[2] <= sizes[0]
    gram = op.MatMul(across, rows) if by_place else op.MatMul(rows, across)
    vector = _first(op, gram)  # (N, n, 1)
    if by_place:
        length = op.ReduceSum(op.Mul(vector, op.MatMul(gram, vector)), [1], keepdims=1)
        maps = op.Mul(vector, op.Sqrt(length))
    else:
        maps = op.MatMul(across, vector)
    total = op.ReduceSum(maps, [1], keepdims=1)
    maps = op.Where(op.Less(total, 0.0), op.Neg(maps), maps)
    return op.Reshape(maps, op.Concat(op.shape(activations, 0, 1), op.shape(activations, 2), axis=0))


_cam("score-cam", "Score-CAM", "channels weighted by the score when only they show")("cam.score_cam")


@method(
    "guided-grad-cam",
    Caption(
        "guided Grad-CAM",
        "guided backprop where Grad-CAM is high: the brighter, the stronger",
        fine=True,
        either=True,
    ),
    layered=True,
)
def guided_grad_cam(op: Any, guided: ir.Value, grad_cam: ir.Value) -> ir.Value:
    """Guided backpropagation within the Grad-CAM map, at the picture's own resolution.

    Selvaraju et al. 2017, arXiv:1610.02391.
    """
    return op.Mul(guided, op.Relu(grad_cam))


def _first(op: Any, gram: ir.Value) -> ir.Value:
    """The unit eigenvector of the largest eigenvalue of positive matrices (N, n, n): (N, n, 1)."""
    side = op.Shape(gram, start=1, end=2)
    eye = op.EyeLike(op.Expand(0.0, op.Concat(side, side, axis=0)), dtype=int(gram.dtype or 1))
    power = gram
    for _ in range(_SQUARINGS):
        trace = op.ReduceSum(op.Mul(power, eye), [1, 2], keepdims=1)
        power = op.Div(power, op.Max(trace, _TINY))  # a layer of zeros stays zero
        power = op.MatMul(power, power)
    strongest = op.ArgMax(op.ReduceSum(op.Mul(power, eye), [1], keepdims=1), axis=2, keepdims=1)  # (N, 1, 1)
    column = op.GatherElements(
        power, op.Expand(strongest, op.Concat(op.Shape(power, end=2), [1], axis=0)), axis=2
    )
    length = op.Sqrt(op.ReduceSum(op.Mul(column, column), [1], keepdims=1))
    return op.Div(column, op.Max(length, _TINY))


def _summed(op: Any, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """The channels, each times its weight (of every place, or of all), added up: (N, h, w)."""
    return op.ReduceSum(op.Mul(activations, weights), [1], keepdims=0)


def _ratio(op: Any, above: ir.Value, below: ir.Value) -> ir.Value:
    """above / below, 0 where below is 0 or as good as."""
    fit = op.Greater(op.Abs(below), _TINY)
    return op.Where(fit, op.Div(above, op.Where(fit, below, 1.0)), 0.0)
