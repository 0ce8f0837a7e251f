"""Operators that move, select, gather or scatter elements: linear, so the adjoint identity is exact."""

from __future__ import annotations

from functools import partial

import numpy as np

from tests.grad.oracle import LINEAR, PIECEWISE, apart, case, ints, normal, rule_test

X = normal(2, 3, 4, 5)
ONCE, TWICE = ints([[1, 3], [0, 2], [3, 0]]), ints([[1, 1], [0, 0], [3, 0]])
move = partial(case, **LINEAR)
crop = partial(move, "CenterCropPad", x=normal(5, 4, 7), dynamic=False)
MOVES = [
    move("Concat", a=normal(2, 3), b=normal(2, 1), c=normal(2, 4), axis=1),
    move("Concat", a=normal(2, 3), b=normal(1, 3), axis=-2),
    move("Concat", a=normal(2, 3), axis=0),
    move("Reshape", x=X, s=ints(6, -1)),
    move("Reshape", x=X, s=ints(0, 0, -1), label="zeros"),
    move("Reshape", x=X, s=ints(4, 30), constant="", label="moving"),
    move("Reshape", x=X, s=ints(120), allowzero=1),
    move("Flatten", x=X),
    move("Flatten", x=X, axis=0),
    move("Flatten", x=X, axis=-2),
    move("Flatten", x=X, axis=4),
    move("Transpose", x=X),
    move("Transpose", x=X, perm=[2, 0, 3, 1]),
    move("Squeeze", x=normal(2, 1, 3, 1), axes=ints(1, -1)),
    move("Squeeze", x=normal(2, 1, 3, 1)),
    move("Squeeze", x=normal(2, 1, 3, 1), opset=11, axes=[1]),
    move("Unsqueeze", x=normal(2, 3), axes=ints(0, -1)),
    move("Unsqueeze", x=normal(2, 3), opset=11, axes=[1, 2]),
    move("Expand", x=normal(3, 1), s=ints(2, 1, 4)),
    move("Expand", x=normal(3, 1), s=ints(2, 3, 1), constant="", label="moving"),
    move("Tile", x=normal(2, 3), r=ints(2, 3)),
    move("Tile", x=normal(2, 3), r=ints(1, 4), constant="", label="moving"),
    move("Slice", x=X, s=ints(0, 1), e=ints(2, 3)),
    move("Slice", x=X, s=ints(1, -3), e=ints(2**40, -1), a=ints(2, -1)),
    move("Slice", x=X, s=ints(-1, 0), e=ints(-(2**40), 9), a=ints(2, 3), t=ints(-1, 2)),
    move("Slice", x=X, s=ints(0, 1), e=ints(2, 3), constant="", label="moving"),
    move("Slice", x=X, opset=9, starts=[0, 1], ends=[1, 3], axes=[0, 2]),
    move("Slice", x=X, opset=7, starts=[1], ends=[-1]),
    move("Pad", x=X, p=ints(0, 1, 2, 0, 1, 0, 1, 3)),
    move("Pad", x=X, p=ints(0, 1, 2, 0, 1, 0, 1, 3), v=np.float32(2), constant="p v"),
    move("Pad", x=X, p=ints(0, 0, -1, 2, 0, 0, 1, -2), label="cut"),
    move("Pad", x=X, p=ints(0, 1, 2, 0, 1, 0, 1, 3), v=np.float32(2), label="value"),
    move("Pad", x=X, p=ints(1, 2, 0, 1), v=None, a=ints(2, -1)),
    move("Pad", x=X, p=ints(0, 1, 2, 0, 1, 0, 1, 3), constant="", label="moving"),
    *(move("Pad", x=X, p=ints(1, 0, 2, 3, 0, 1, 1, 0), mode=m) for m in ("edge", "reflect")),
    move("Pad", x=X, p=ints(1, 0, 2, 3, 0, 1, 1, 0), mode="wrap", opset=19),
    move("Pad", x=X, p=ints(1, 2, 0, 1), v=None, a=ints(2, 3), mode="reflect"),
    *(
        move("Pad", x=X, opset=9, pads=[0, 0, 1, 2, 0, 0, 0, 1], mode=m)
        for m in ("constant", "reflect", "edge")
    ),
    *(move("DepthToSpace", x=normal(2, 8, 2, 3), blocksize=2, mode=m) for m in ("DCR", "CRD")),
    move("DepthToSpace", x=normal(2, 9, 2, 3), blocksize=3, opset=9),
    move("SpaceToDepth", x=normal(2, 3, 4, 6), blocksize=2),
    move("ReverseSequence", x=normal(4, 3, 2), l=ints(4, 2, 1)),
    move("ReverseSequence", x=normal(3, 4, 2), l=ints(4, 2, 1), batch_axis=0, time_axis=1),
    move("Gather", x=X, i=ints([0, 2, 2]), axis=1),
    move("Gather", x=X, i=ints([[0, -1], [3, 0]]), axis=2),
    move("Gather", x=X, i=np.int64(1), axis=1, label="scalar"),
    move("Gather", x=X, i=np.int64(-1), axis=-1, label="last"),
    move("Gather", x=X, i=ints([1]), label="one"),
    move("Gather", x=X, i=ints([[1]]), axis=1, label="square"),
    move("Gather", x=X, i=ints([0, 1]), constant="", label="moving"),
    move("GatherElements", x=normal(3, 4), i=ints([[0, 2, 2, 1], [1, 0, 0, -1]]), axis=0),
    move("GatherElements", x=normal(3, 4), i=ints([[0, 3], [1, 1], [2, -4]]), axis=1),
    move("GatherND", x=X, i=ints([[0, 1], [1, 2], [0, 1]])),
    move("GatherND", x=X, i=ints([[[1, 0]], [[2, 3]]]), batch_dims=1),
    move("GatherND", x=X, i=ints([[[0], [-1]], [[1], [1]]]), batch_dims=1, label="negative"),
    move("ScatterElements", x=normal(3, 4), i=ints([[1, 0, 2, 1]]), u=normal(1, 4)),
    move("ScatterElements", x=normal(3, 4), i=ONCE, u=normal(3, 2), axis=1),
    move("ScatterElements", x=normal(3, 4), i=TWICE, u=normal(3, 2), axis=1, reduction="add"),
    move("ScatterElements", x=normal(3, 4), i=ONCE, u=normal(3, 2), constant="i u", axis=1, reduction="mul"),
    move("Scatter", x=normal(3, 4), i=ints([[1, 0, 2, 1]]), u=normal(1, 4), opset=9),
    move("ScatterND", x=normal(4, 3), i=ints([[2], [0]]), u=normal(2, 3)),
    move("ScatterND", x=normal(4, 3), i=ints([[2], [2]]), u=normal(2, 3), reduction="add"),
    move("Compress", x=X, c=np.array([True, False, True]), constant="c", axis=1),
    move("Compress", x=normal(2, 3), c=np.array([True, False, True, True]), constant="c"),
    # Refused with open lengths.
    *(crop(s=ints(s)) for s in ([3, 3, 4], [6, 7, 10], [8, 3, 7])),
    crop(s=ints(2, 8), axes=[-1, 1]),
]
kinked = partial(case, **PIECEWISE)
UPDATES = {"x": apart(3, 4), "i": ints([[1, 1], [0, 2], [3, 0]]), "u": apart(3, 2, seed=1, gap=0.7)}
BLOCKS = {"x": apart(4, 3), "i": ints([[2], [2]]), "u": apart(2, 3, seed=1, gap=0.7)}
KINKED = [
    *(kinked("ScatterElements", axis=1, reduction=r, **UPDATES) for r in ("max", "min")),
    *(kinked("ScatterND", reduction=r, **BLOCKS) for r in ("max", "min")),
    *(
        kinked("TopK", x=apart(3, 5), k=ints([2]), outputs="y indices", **a)
        for a in ({}, {"largest": 0}, {"axis": 0}, {"sorted": 0})
    ),
    kinked("TopK", x=apart(3, 5), outputs="y indices", k=2, axis=1, opset=9),
]
SPLITS = [
    move("Split", x=X, outputs="y z", of=part, **more)
    for part in ("y", "z")
    for more in (
        {"s": ints([1, 2]), "axis": 1},
        {"s": ints([2, 2]), "axis": -2},
        {"axis": 2, "num_outputs": 2},
        {"axis": 2, "split": [1, 3], "opset": 11},
        {"axis": 2, "opset": 7},
    )
]
test_rule = rule_test(MOVES + KINKED + SPLITS)
