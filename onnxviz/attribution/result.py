"""What the gradient and class activation methods give: their maps, results with manifests, and a sheet of several."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.attribution.methods import LAYER, METHODS, Method
from onnxviz.attribution.targets import Target
from onnxviz.features.pictures import Given
from onnxviz.graph.tape import Tape
from onnxviz.network import Network
from onnxviz.progress import Interrupted
from onnxviz.results import Result, Results
from onnxviz.runtime.providers import CPU

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.figures.captions import Caption

_ON_A_PAGE = 8  # pictures of one sheet: more is a strip that no program shows
_OPSET = 18
_AT_ONCE = 32  # pictures: more gain nothing, and what lies between is as large as the layers
#: Upsampling of a map, for each layer: rows (H, h) and columns (W, w)
Places = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass
class Attribution(Result):
    """A map over the input that says how much each place matters to one objective.

    values   (H, W) float32; larger is more important, negative speaks against the objective
    image    (H, W, 3) uint8, the picture as the network sees it
    target   the class index, or None for another objective
    label    what `target` is called
    method   the technique's name
    score    the objective's value on the whole image (a probability for a class)
    signed   whether negative values mean something: drawn in a diverging colour map
    percentile   of the magnitudes that is drawn in the deepest colour, with all that lies above; None: the method's own
    caption  how the map is to be read, in pictures; None: plainly
    view     what the network sees, (H, W, C), where that is no picture and `image` only shows it; else None
    """

    image: np.ndarray = field(repr=False)
    target: int | None
    label: str
    method: str
    score: float | None = None
    signed: bool = False
    percentile: float | None = None
    caption: Caption | None = field(default=None, repr=False)
    view: np.ndarray | None = field(default=None, repr=False)

    def picture(self) -> Image.Image:
        """The map over the photo, deeper where it matters more, with a scale."""
        from onnxviz.figures.draw import draw

        return draw(self)


@dataclass
class Attributions(Result):
    """Attributions of several pictures by several methods.

    values   (N, M, H, W) float32: pictures, methods, the map
    grid     the attributions themselves, one list a picture
    names    what each picture is called
    """

    grid: list[list[Attribution]] = field(repr=False)
    names: list[str] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the columns."""
        return [one.method for one in self.grid[0]]

    def picture(self) -> Image.Image:
        """The maps in one sheet, beside their photos; of many pictures the first page of `pages`."""
        return self._page(0)

    def pages(self) -> list[Image.Image]:
        """The sheets of so many pictures at a time as can be looked at."""
        return [self._page(start) for start in range(0, len(self.grid), _ON_A_PAGE)]

    def _page(self, start: int) -> Image.Image:
        from onnxviz.figures.draw import draw_sheet

        end = start + _ON_A_PAGE
        return draw_sheet(self.grid[start:end], names=self.names[start:end])

    def table(self) -> dict[str, list[Any]]:
        """A row for each picture and method: picture, method, target, label, score, and the map's sum and range."""
        maps = [one for row in self.grid for one in row]
        named = itertools.zip_longest(self.grid, self.names[: len(self.grid)], fillvalue="")
        values = [np.nan_to_num(np.asarray(one.values, np.float64)) for one in maps]
        return {
            "picture": [name for row, name in named for _ in row],
            **{key: [getattr(one, key) for one in maps] for key in ("method", "target", "label", "score")},
            "sum": [float(value.sum()) for value in values],
            "smallest": [float(value.min()) for value in values],
            "largest": [float(value.max()) for value in values],
        }


@dataclass
class Found:
    """What a method found for N pictures.

    raw          of x's shape; or (N, H, W) where it has no colours; of Score-CAM each layer's weights, (N, C)
    scores       the objective on each picture, (N,); None where none was computed
    parameters   what it ran with, for the manifest
    figures      what was measured, for each picture
    warnings     what looks odd, for each picture
    incomplete   whether Ctrl-C ended it
    """

    raw: Any
    scores: np.ndarray | None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    figures: Sequence[Mapping[str, Any]] | None = None
    warnings: Sequence[Sequence[str]] | None = None
    incomplete: bool = False


def attributions(
    net: Network,
    technique: str,
    row: Method,
    taken: Given,
    aim: Target,
    maps: np.ndarray,
    found: Found,
    *,
    signed: bool,
    percentile: float,
) -> Attribution | Results[Attribution]:
    """What a technique gives: an attribution with its manifest, or a list where several pictures were given.

    A map that is zero everywhere is said in its warnings.

    maps     (N, H, W)
    found    what else there is; a class's probability is used before its scores
    signed   whether negative values mean something
    raises   Interrupted with what there is, where Ctrl-C ended it
    """
    results: Results[Attribution] = Results()
    for number, (values, picture) in enumerate(zip(maps, taken.pictures, strict=True)):
        target, label = aim.classes[number], aim.labels[number]
        objective = None if found.scores is None else float(found.scores[number])
        score = objective if aim.probabilities is None else float(aim.probabilities[number])
        manifest = net.manifest(
            technique,
            method=row.name,
            target=target,
            label=label,
            objective=str(aim.objective),
            percentile=percentile,
            **found.parameters,
        )
        figures = found.figures[number] if found.figures else {}
        manifest["figures"] = {"score": score, "objective": objective, **figures}
        manifest["warnings"] += found.warnings[number] if found.warnings else []
        if not np.any(values):
            manifest["warnings"].append(
                f"the {row.name} map is zero everywhere: nothing of the picture moves {label!r} here "
                "(units that are off, or a saturated output); another target, layer or method may tell more"
            )
        if found.incomplete:
            manifest["incomplete"] = True
        results.append(
            Attribution(
                values=np.ascontiguousarray(values, dtype=np.float32),
                manifest=manifest,
                image=net.preprocessing.shown(picture),
                target=target,
                label=label,
                method=row.name,
                score=score,
                signed=signed,
                percentile=percentile,
                caption=row.caption,
                view=None if picture.shape[2] == 3 and net.preprocessing.pictorial else picture,
            )
        )
    if found.incomplete:
        raise Interrupted(results[0] if len(results) == 1 else sheet(net, [[one] for one in results]))
    return results if taken.several else results[0]


def sheet(
    net: Network, grid: list[list[Attribution]], names: Sequence[str] = (), *, incomplete: bool = False
) -> Attributions:
    """Attributions that were computed already, as one result. One row a picture, one column a method."""
    manifest = net.manifest("attributions", methods=[one.method for one in grid[0]])
    manifest["figures"] = {
        "pictures": [
            {
                "name": names[number] if number < len(names) else None,
                "target": row[0].target,
                "label": row[0].label,
                "score": row[0].score,
                "methods": {
                    one.method: {
                        "parameters": one.manifest["parameters"],
                        "figures": one.manifest["figures"],
                        "warnings": [text for text in one.manifest["warnings"] if text not in net.warnings],
                    }
                    for one in row
                },
            }
            for number, row in enumerate(grid)
        ]
    }
    if incomplete or any("incomplete" in one.manifest for row in grid for one in row):
        manifest["incomplete"] = True
    from onnxviz.figures.heat import fit

    values = np.stack([np.stack([fit(one.values, *one.image.shape[:2]) for one in row]) for row in grid])
    return Attributions(values=values, manifest=manifest, grid=grid, names=list(names))


# --- a method of one pass, on what the network gave -----------------------------------------------


def one_pass(
    net: Network,
    method: Method,
    arrays: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    *,
    places: Places = (),
    signed: bool = False,
) -> np.ndarray:
    """The maps of a method of one pass, (N, H, W) float32: its function is a graph of its own, behind the network's.

    The gradient of a network is compiled once for all of them, by whichever backend; what a method does with it is a
    graph of a few nodes, made in a millisecond, that runs on the CPU, where the arrays are.

    arrays   what the method takes, by its name in `methods.GIVEN`: (N, C, H, W); of LAYER one array for each layer
    places   upsampling of the layers' maps
    signed   keep what speaks against the score
    """
    feeds: dict[str, np.ndarray] = {}
    for name, given in arrays.items():
        for number, array in enumerate([given] if isinstance(given, np.ndarray) else given):
            feeds[f"{name}.{number}"] = array
    still = {
        f"{side}.{number}": matrix
        for number, pair in enumerate(places)
        for side, matrix in zip(("rows", "columns"), pair, strict=True)
    }
    # What a method does to a layer may depend on its size (EigenCAM); nothing else does.
    shapes = {
        name: array.shape[1:] if name.partition(".")[0] in LAYER else array.shape[1:2]
        for name, array in feeds.items()
    }
    types = {name: ir.DataType.from_numpy(array.dtype) for name, array in (feeds | still).items()}

    def build() -> ir.Model:
        stage = _Arrays(types, shapes, signed)
        return stage.model(method.append(stage))

    key = ("method", method.name, signed, *((name, types[name], shapes.get(name)) for name in types))
    program = net.compile(build, key=key, provider=CPU)
    count = len(next(iter(feeds.values())))
    parts = [
        program(
            {**still, **{name: array[start : start + _AT_ONCE] for name, array in feeds.items()}}, ["map"]
        )
        for start in range(0, count, _AT_ONCE)
    ]
    return np.concatenate([part["map"] for part in parts])


def joined(net: Network, raw: np.ndarray, colours: str) -> np.ndarray:
    """What a method of many passes found for each colour, (N, C, H, W), as (N, H, W) float32."""
    return one_pass(net, METHODS["gradient" if colours == "sum" else "saliency"], {"gradient": raw})


class _Arrays:
    """A `methods.Stage` whose values are inputs of a graph of their own."""

    def __init__(
        self, types: Mapping[str, ir.DataType], shapes: Mapping[str, tuple[int, ...]], signed: bool
    ) -> None:
        self.signed = signed
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET}, name="method")
        self.op: Any = Tape(self._graph)
        self._inputs: dict[str, ir.Value] = {}
        for name, dtype in types.items():
            known = shapes.get(name)  # of a matrix none
            shape = [None, None] if known is None else ["N", *known, *[None] * (3 - len(known))]
            self._inputs[name] = self.op.input(name, dtype, shape)

    def given(self, name: str) -> list[ir.Value]:
        return [value for key, value in self._inputs.items() if key.partition(".")[0] == name]

    def placed(self, maps: list[ir.Value]) -> ir.Value:
        """Bilinear; of several layers the mean of their maps, each divided by its largest magnitude."""
        op = self.op
        found = []
        for number, one in enumerate(maps):
            rows, columns = (self._inputs[f"{side}.{number}"] for side in ("rows", "columns"))
            kept = op.Cast(one if self.signed else op.Relu(one), to=int(ir.DataType.DOUBLE))
            whole = op.MatMul(rows, op.MatMul(kept, op.Transpose(columns, perm=[1, 0])))
            found.append(op.Cast(whole, to=int(ir.DataType.FLOAT)))
        if len(found) == 1:
            return found[0]
        scaled = []
        for one in found:
            limit = op.ReduceMax(op.Abs(one), [1, 2], keepdims=1)
            zero = op.Equal(limit, 0.0)
            scaled.append(op.Div(one, op.Where(zero, 1.0, limit)))
        return op.Div(op.Sum(*scaled), float(len(scaled)))

    def model(self, result: ir.Value) -> ir.Model:
        """The graph, with `result` as its output `map`."""
        named = self.op.Cast(result, to=int(ir.DataType.FLOAT))
        named.name = "map"
        named.shape = ir.Shape(["N", None, None])
        self._graph.outputs.append(named)
        return ir.Model(self._graph, ir_version=8)
