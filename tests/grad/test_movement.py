"""Operators that move, select, gather or scatter elements: linear, so the adjoint identity is exact."""

from __future__ import annotations

import numpy as np
import pytest

from tests.grad.oracle import Case, apart, check, ints, normal

LINEAR = {"oracle": "ort", "step": 1.0}
X = normal(2, 3, 4, 5)


def case(op: str, inputs, constant=None, label="", opset=18, **attributes) -> Case:
    found = {k: v if v is None else np.asarray(v) for k, v in inputs.items()}
    if constant is None:
        constant = tuple(k for k, v in found.items() if v is not None and v.dtype == np.int64)
    return Case(op, found, attributes, constant=constant, label=label, opset=opset, **LINEAR)


MOVES = [
    case("Concat", {"a": normal(2, 3), "b": normal(2, 1), "c": normal(2, 4)}, axis=1),
    case("Concat", {"a": normal(2, 3), "b": normal(1, 3)}, axis=-2),
    case("Concat", {"a": normal(2, 3)}, axis=0),
    case("Reshape", {"x": X, "s": ints(6, -1)}),
    case("Reshape", {"x": X, "s": ints(0, 0, -1)}, label="zeros"),
    case("Reshape", {"x": X, "s": ints(4, 30)}, constant=(), label="moving"),
    case("Reshape", {"x": X, "s": ints(120)}, allowzero=1),
    case("Flatten", {"x": X}),
    case("Flatten", {"x": X}, axis=0),
    case("Flatten", {"x": X}, axis=-2),
    case("Flatten", {"x": X}, axis=4),
    case("Transpose", {"x": X}),
    case("Transpose", {"x": X}, perm=[2, 0, 3, 1]),
    case("Squeeze", {"x": normal(2, 1, 3, 1), "axes": ints(1, -1)}),
    case("Squeeze", {"x": normal(2, 1, 3, 1)}),
    case("Squeeze", {"x": normal(2, 1, 3, 1)}, opset=11, axes=[1]),
    case("Unsqueeze", {"x": normal(2, 3), "axes": ints(0, -1)}),
    case("Unsqueeze", {"x": normal(2, 3)}, opset=11, axes=[1, 2]),
    case("Expand", {"x": normal(3, 1), "s": ints(2, 1, 4)}),
    case("Expand", {"x": normal(3, 1), "s": ints(2, 3, 1)}, constant=(), label="moving"),
    case("Tile", {"x": normal(2, 3), "r": ints(2, 3)}),
    case("Tile", {"x": normal(2, 3), "r": ints(1, 4)}, constant=(), label="moving"),
    case("Slice", {"x": X, "s": ints(0, 1), "e": ints(2, 3)}),
    case("Slice", {"x": X, "s": ints(1, -3), "e": ints(2**40, -1), "a": ints(2, -1)}),
    case("Slice", {"x": X, "s": ints(-1, 0), "e": ints(-(2**40), 9), "a": ints(2, 3), "t": ints(-1, 2)}),
    case("Slice", {"x": X, "s": ints(0, 1), "e": ints(2, 3)}, constant=(), label="moving"),
    case("Slice", {"x": X}, opset=9, starts=[0, 1], ends=[1, 3], axes=[0, 2]),
    case("Slice", {"x": X}, opset=7, starts=[1], ends=[-1]),
    case("Pad", {"x": X, "p": ints(0, 1, 2, 0, 1, 0, 1, 3)}),
    case("Pad", {"x": X, "p": ints(0, 1, 2, 0, 1, 0, 1, 3), "v": np.float32(2)}, constant=("p", "v")),
    case("Pad", {"x": X, "p": ints(0, 0, -1, 2, 0, 0, 1, -2)}, label="cut"),
    case(
        "Pad", {"x": X, "p": ints(0, 1, 2, 0, 1, 0, 1, 3), "v": np.float32(2)}, constant=("p",), label="value"
    ),
    case("Pad", {"x": X, "p": ints(1, 2, 0, 1), "v": None, "a": ints(2, -1)}),
    case("Pad", {"x": X, "p": ints(0, 1, 2, 0, 1, 0, 1, 3)}, constant=(), label="moving"),
    *(case("Pad", {"x": X, "p": ints(1, 0, 2, 3, 0, 1, 1, 0)}, mode=m) for m in ("edge", "reflect")),
    case("Pad", {"x": X, "p": ints(1, 0, 2, 3, 0, 1, 1, 0)}, mode="wrap", opset=19),
    case("Pad", {"x": X, "p": ints(1, 2, 0, 1), "v": None, "a": ints(2, 3)}, mode="reflect"),
    *(
        case("Pad", {"x": X}, opset=9, pads=[0, 0, 1, 2, 0, 0, 0, 1], mode=m)
        for m in ("constant", "reflect", "edge")
    ),
    *(case("DepthToSpace", {"x": normal(2, 8, 2, 3)}, blocksize=2, mode=m) for m in ("DCR", "CRD")),
    case("DepthToSpace", {"x": normal(2, 9, 2, 3)}, blocksize=3, opset=9),
    case("SpaceToDepth", {"x": normal(2, 3, 4, 6)}, blocksize=2),
    case("ReverseSequence", {"x": normal(4, 3, 2), "l": ints(4, 2, 1)}),
    case("ReverseSequence", {"x": normal(3, 4, 2), "l": ints(4, 2, 1)}, batch_axis=0, time_axis=1),
    case("Gather", {"x": X, "i": ints([0, 2, 2])}, axis=1),
    case("Gather", {"x": X, "i": ints([[0, -1], [3, 0]])}, axis=2),
    case("Gather", {"x": X, "i": np.int64(1)}, axis=1, label="scalar"),
    case("Gather", {"x": X, "i": np.int64(-1)}, axis=-1, label="last"),
    case("Gather", {"x": X, "i": ints([1])}, label="one"),
    case("Gather", {"x": X, "i": ints([[1]])}, axis=1, label="square"),
    case("Gather", {"x": X, "i": ints([0, 1])}, constant=(), label="moving"),
    *(
        case("GatherElements", {"x": normal(3, 4), "i": ints([[0, 2, 2, 1], [1, 0, 0, -1]])}, axis=a)
        for a in (0,)
    ),
    case("GatherElements", {"x": normal(3, 4), "i": ints([[0, 3], [1, 1], [2, -4]])}, axis=1),
    case("GatherND", {"x": X, "i": ints([[0, 1], [1, 2], [0, 1]])}),
    case("GatherND", {"x": X, "i": ints([[[1, 0]], [[2, 3]]])}, batch_dims=1),
    case("GatherND", {"x": X, "i": ints([[[0], [-1]], [[1], [1]]])}, batch_dims=1, label="negative"),
    case("ScatterElements", {"x": normal(3, 4), "i": ints([[1, 0, 2, 1]]), "u": normal(1, 4)}),
    case(
        "ScatterElements", {"x": normal(3, 4), "i": ints([[1, 3], [0, 2], [3, 0]]), "u": normal(3, 2)}, axis=1
    ),
    case(
        "ScatterElements",
        {"x": normal(3, 4), "i": ints([[1, 1], [0, 0], [3, 0]]), "u": normal(3, 2)},
        axis=1,
        reduction="add",
    ),
    case(
        "ScatterElements",
        {"x": normal(3, 4), "i": ints([[1, 3], [0, 2], [3, 0]]), "u": normal(3, 2)},
        constant=("i", "u"),
        axis=1,
        reduction="mul",
    ),
    case("Scatter", {"x": normal(3, 4), "i": ints([[1, 0, 2, 1]]), "u": normal(1, 4)}, opset=9),
    case("ScatterND", {"x": normal(4, 3), "i": ints([[2], [0]]), "u": normal(2, 3)}),
    case("ScatterND", {"x": normal(4, 3), "i": ints([[2], [2]]), "u": normal(2, 3)}, reduction="add"),
    case("Compress", {"x": X, "c": np.array([True, False, True])}, constant=("c",), axis=1),
    case("Compress", {"x": normal(2, 3), "c": np.array([True, False, True, True])}, constant=("c",)),
    *(
        case("CenterCropPad", {"x": normal(5, 4, 7), "s": ints(s)})
        for s in ([3, 3, 4], [6, 7, 10], [8, 3, 7])
    ),
    case("CenterCropPad", {"x": normal(5, 4, 7), "s": ints(2, 8)}, axes=[-1, 1]),
]
for moved in MOVES:
    if moved.op == "CenterCropPad":
        moved.dynamic = False  # refused there, see test_refusals
SEPARATED = {"oracle": "ort", "step": 0.05, "tolerance": 5e-4}
KINKED = [
    *(
        Case(
            "ScatterElements",
            {"x": apart(3, 4), "i": ints([[1, 1], [0, 2], [3, 0]]), "u": apart(3, 2, seed=1, gap=0.7)},
            {"axis": 1, "reduction": r},
            constant=("i",),
            **SEPARATED,
        )
        for r in ("max", "min")
    ),
    *(
        Case(
            "ScatterND",
            {"x": apart(4, 3), "i": ints([[2], [2]]), "u": apart(2, 3, seed=1, gap=0.7)},
            {"reduction": r},
            constant=("i",),
            **SEPARATED,
        )
        for r in ("max", "min")
    ),
    *(
        Case(
            "TopK",
            {"x": apart(3, 5), "k": ints([2])},
            a,
            constant=("k",),
            outputs=("y", "indices"),
            **SEPARATED,
        )
        for a in ({}, {"largest": 0}, {"axis": 0}, {"sorted": 0})
    ),
    Case("TopK", {"x": apart(3, 5)}, {"k": 2, "axis": 1}, outputs=("y", "indices"), opset=9, **SEPARATED),
]


@pytest.mark.parametrize("case", MOVES + KINKED, ids=lambda case: case.id)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_rule(case: Case, dynamic: bool) -> None:
    check(case, dynamic=dynamic and case.dynamic)


SPLITS = [
    ({"x": X, "s": ints([1, 2])}, {"axis": 1}, 18),
    ({"x": X, "s": ints([2, 2])}, {"axis": -2}, 18),
    ({"x": X}, {"axis": 2, "num_outputs": 2}, 18),
    ({"x": X}, {"axis": 2, "split": [1, 3]}, 11),
    ({"x": X}, {"axis": 2}, 7),
]


@pytest.mark.parametrize(("inputs", "attributes", "opset"), SPLITS, ids=lambda v: str(v)[:30])
@pytest.mark.parametrize("part", ["y", "z"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_split(inputs, attributes, opset, part, dynamic) -> None:
    constant = ("s",) if "s" in inputs else ()
    found = Case(
        "Split", inputs, attributes, constant=constant, outputs=("y", "z"), of=part, opset=opset, **LINEAR
    )
    check(found, dynamic=dynamic)
