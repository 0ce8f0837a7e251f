"""A numerical oracle for receptive fields: change one pixel of the image and see which units change."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxviz.graph.layers import field, layers
from onnxviz.graph.surgery import expose


def seen(proto, names, height, width):
    """{value: (units_y, units_x, H, W) bool}: which pixel changes which unit, found by running the network.

    For values (N, C, units_y, units_x), and for values of another rank, which count as one unit.
    """
    model = expose(ir.from_proto(proto), names)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    batch = np.random.default_rng(1).uniform(1, 2, (1, 1, height, width)).astype(np.float32)
    batch = np.repeat(batch, height * width + 1, axis=0)
    for pixel in range(height * width):
        batch[pixel + 1, :, pixel // width, pixel % width] += 40
    found = {}
    for name, value in zip(names, session.run(list(names), {"image": batch}), strict=True):
        changed = (value[1:] != value[:1]).reshape(height, width, *value.shape[1:])
        if changed.ndim != 5:
            changed = changed.reshape(height, width, -1, 1, 1)
        found[name] = changed.any(axis=2).transpose(2, 3, 0, 1)
    return found


def hull(mask):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if len(rows) else None


def clipped(box, height, width):
    top, left, bottom, right = box
    return max(top, 0), max(left, 0), min(bottom, height), min(right, width)


def check(proto, names=None, *, size=(24, 20), border=False, exact=True):
    """Every unit of every layer (or of these): its box holds all pixels that it sees, and not a row or column more.

    border   be as exact for units whose field reaches out of the image
    exact    False: only that nothing is missing
    returns  {name: layer}
    """
    height, width = size
    found = {layer.name: layer for layer in layers(ir.from_proto(proto))}
    for name, views in seen(proto, names or list(found), height, width).items():
        compared = 0
        for y, x in np.ndindex(*views.shape[:2]):
            box = field(found[name], y, x)
            cut, true = clipped(box, height, width), hull(views[y, x])
            if true is None:  # a bias, and nothing of the image
                continue
            where = f"{name} ({found[name].op}) unit {(y, x)}: sees {true}, told {cut} of {box}"
            assert cut[0] <= true[0] and cut[1] <= true[1] and cut[2] >= true[2] and cut[3] >= true[3], where
            if exact and (border or cut == box):
                assert cut == true, where
                compared += 1
        assert compared or not exact, f"nothing to compare in {name}"
    return found


def finish(m, out, size=(24, 20)):
    return m.model({"image": ("N", 1, *size)}, {out: None})
