"""Whether pictures of a size may enter a graph, by arithmetic on shapes before it runs; see `graph.open.fits`.

A network of open size has a smallest picture: below, a pool's window is larger than the map that it looks at. One pass
over the graph tells for each size that was not asked before, a few ms; whether a loop or a branch runs that hangs on
the picture's values, nobody knows beforehand.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import onnx

from onnxviz.errors import ImageRejected, LimitExceeded, ways
from onnxviz.graph.open.known import MOST_ELEMENTS
from onnxviz.graph.open.sizes import Empty, empties
from onnxviz.limits import Limits

Shapes = Mapping[str, Sequence[int]]
_LARGE: Final = 2048  # pixels: what does not go through at these sides is not told a smallest size


class Admission:
    """The sizes that a graph has been asked for, and what it said.

    model   the graph, or its bytes; of large weights it needs the shapes alone
    """

    def __init__(self, model: onnx.ModelProto | bytes) -> None:
        self._given = model
        self._asked: dict[tuple[tuple[str, tuple[int, ...]], ...], str | None] = {}
        self._least: dict[str, tuple[int, int] | None] = {}

    @cached_property
    def _model(self) -> onnx.ModelProto:
        return onnx.load_from_string(self._given) if isinstance(self._given, bytes) else self._given

    @cached_property
    def _sides(self) -> dict[str, list[int]]:
        """The sides of a picture: the two that are open in an input of four dimensions, but for the batch."""
        found: dict[str, list[int]] = {}
        for value in self._model.graph.input:
            dims = value.type.tensor_type.shape.dim
            sides = [i for i, dim in enumerate(dims) if i and not dim.HasField("dim_value")]
            if len(dims) == 4 and len(sides) == 2:
                found[value.name] = sides
        return found

    def check(self, shapes: Shapes) -> None:
        """Let inputs of these shapes enter.

        raises   ImageRejected, naming the node, and the smallest size where one is found
        """
        # One batch is as good as another, unless there is nothing in it.
        key = tuple(
            (name, tuple(shape[:1] if 0 in shape[:1] else ()) + tuple(shape[1:]))
            for name, shape in shapes.items()
        )
        if key not in self._asked:
            self._asked[key] = self._refusal(shapes)
        refusal = self._asked[key]
        if refusal is not None:
            raise ImageRejected(refusal)

    def _refusal(self, shapes: Shapes) -> str | None:
        reason = self._empty(shapes)
        if reason is None:
            return None
        larger = "take a larger --size", "take a larger picture", "take an earlier --layer"
        name = next((name for name in shapes if name in self._sides), None)
        if name is None:
            return f"the picture has too few pixels for this network: {reason}" + ways(*larger)
        sides = self._sides[name]
        height, width = (shapes[name][side] for side in sides)
        if name not in self._least:
            self._least[name] = self._smallest(shapes, name, sides)
        least = self._least[name]
        told = f"{width}×{height} pixels are too few for this network: {reason}"
        if least is None:
            return told + ways(*larger)
        size = f"{least[1]}x{least[0]}"
        return f"{told}; the smallest picture that goes through has {least[1]}×{least[0]}" + ways(
            f"take --size {size} or more", *larger[1:]
        )

    def _empty(self, shapes: Shapes) -> str | None:
        try:
            empties(self._model, shapes, _elements, Limits())
        except Empty as found:
            return str(found)
        except LimitExceeded:  # so many calls of functions: what the run itself says
            return None
        return None

    def _smallest(self, shapes: Shapes, name: str, axes: Sequence[int]) -> tuple[int, int] | None:
        """(height, width) of the smallest picture that goes through; None where it is not found."""
        y, x = axes

        def fits(height: int, width: int) -> bool:
            shape = list(shapes[name])
            shape[y], shape[x] = height, width
            return self._empty({**shapes, name: shape}) is None

        if not fits(_LARGE, _LARGE):
            return None
        sides = range(1, _LARGE)  # where one fits, all larger ones do
        height = 1 + bisect_left(sides, True, key=lambda side: fits(side, _LARGE))
        return height, 1 + bisect_left(sides, True, key=lambda side: fits(height, side))


def _elements(tensor: onnx.TensorProto) -> np.ndarray | None:
    """The elements of a small tensor that lies in the message itself."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or np.prod(tensor.dims) > MOST_ELEMENTS:
        return None
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    return onnx.numpy_helper.to_array(tensor)
