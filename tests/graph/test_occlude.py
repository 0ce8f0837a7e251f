"""The occluded and masked batches, made inside the graph, against loops over NumPy arrays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from onnxviz.graph.occlude import (
    CELLS,
    FILL,
    IMAGE,
    SHIFTS,
    WINDOWS,
    cell_size,
    hat,
    masked,
    occluded,
    shown,
)
from onnxviz.graph.reduce import pooled
from onnxviz.programs import compile as compile_model
from tests.networks import written

BOXES = np.array([[0, 0, 0, 0], [0, 0, 4, 4], [2, 3, 5, 9], [5, 6, 7, 9], [0, 0, 7, 9]])
H, W = 7, 9
FLOAT = TensorProto.FLOAT


def echo(layout: str = "NCHW", dtype: int = FLOAT, batch: int | str = "N", opset: int = 20) -> ir.Model:
    """A network whose output is its input, so that tests see the batch that was made."""
    shape = (batch, 3, H, W) if layout == "NCHW" else (batch, H, W, 3)
    return ir.from_proto(
        written("y = Identity(x)", {"x": shape}, {"y": shape}, None, opset=opset, dtype=dtype)
    )


def run(model: ir.Model, **feeds: np.ndarray) -> np.ndarray:
    """The output of a model that passes the full check; feeds by the names of the constants of their names."""
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    names = {"image": IMAGE, "fill": FILL, "windows": WINDOWS, "cells": CELLS, "shifts": SHIFTS}
    (found,) = compile_model(model)({names[key]: array for key, array in feeds.items()}).values()
    return found


def picture(layout: str = "NCHW", seed: int = 0) -> np.ndarray:
    shape = (1, 3, H, W) if layout == "NCHW" else (1, H, W, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def covered(x: np.ndarray, fill: np.ndarray, layout: str = "NCHW") -> np.ndarray:
    batch = np.repeat(x, len(BOXES), axis=0)
    for entry, (top, left, bottom, right) in zip(batch, BOXES, strict=True):
        place = np.s_[:, top:bottom, left:right] if layout == "NCHW" else np.s_[top:bottom, left:right, :]
        entry[place] = fill[0][place]
    return batch


def hidden(model: ir.Model, layout: str = "NCHW", x: np.ndarray | None = None, **feeds) -> np.ndarray:
    """What `occluded` gives of it: of a picture, 0 for a fill, and BOXES, where nothing else is given."""
    x = picture(layout) if x is None else x
    made = occluded(model, input="x", layout=layout, shape=x.shape)
    return run(made, **{"image": x, "fill": x * 0, "windows": BOXES.astype(np.float32), **feeds})


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("opset", "dtype"),
    [(7, FLOAT), (9, FLOAT), (13, FLOAT), (20, FLOAT), (24, FLOAT)]
    + [(20, dtype) for dtype in (TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.DOUBLE)],
)
def test_windows_are_covered_and_nothing_else(layout: str, opset: int, dtype: int) -> None:
    """In every opset, and in the network's own type."""
    x, fill = picture(layout, 0), picture(layout, 1)
    got = hidden(echo(layout, dtype, opset=opset), layout, fill=fill)
    np.testing.assert_array_equal(got.astype(np.float32), covered(x, fill, layout))


def test_the_model_given_is_left_as_it_is_and_a_fixed_batch_stays() -> None:
    model = echo(batch=5)
    before = ir.to_proto(model).SerializeToString()
    made = occluded(model, input="x", layout="NCHW", shape=(1, 3, H, W))
    assert ir.to_proto(model).SerializeToString() == before
    assert [tuple(value.shape) for value in made.graph.inputs] == [(1, 3, H, W), (1, 3, H, W), (5, 4)]
    np.testing.assert_array_equal(hidden(model), covered(picture(), picture() * 0))


def test_an_empty_window_keeps_the_image_to_the_last_bit() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, H, W)).astype(np.float32)
    got = hidden(echo(), x=x, fill=x + 1.1, windows=np.zeros((1, 4), np.float32))
    np.testing.assert_array_equal(got, x)


def test_a_reader_inside_a_subgraph_sees_the_occluded_batch() -> None:
    branch = f"g () => (float[N, 3, {H}, {W}] inner) {{ inner = Identity(x) }}"
    text = f"y = If <then_branch = {branch}, else_branch = {branch}> (yes)"
    proto = written(text, {"x": ("N", 3, H, W)}, {"y": ("N", 3, H, W)}, {"yes": np.array(True)})
    np.testing.assert_array_equal(hidden(ir.from_proto(proto)), covered(picture(), picture() * 0))


def test_pieces_can_be_put_on_one_another() -> None:
    got = hidden(pooled(echo(), "y", 4))
    np.testing.assert_allclose(got, covered(picture(), picture() * 0).mean(axis=(2, 3)), rtol=1e-5)


# --- RISE -----------------------------------------------------------------------------------------


def random_masks(grid: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    cells = (random.random((count, grid, grid)) < 0.5).astype(np.float32)
    return cells, random.integers(0, [cell_size(H, grid), cell_size(W, grid)], (count, 2))


def numpy_masks(cells: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """The masks by plain bilinear interpolation at the same positions: (count, H, W) float64."""
    grid = cells.shape[1]
    masks = np.zeros((len(cells), H, W))
    for mask, coarse, shift in zip(masks, cells, shifts, strict=True):
        for y in range(H):
            for x in range(W):
                v, u = (
                    centre(place + offset, length, grid)
                    for place, offset, length in zip((y, x), shift, (H, W), strict=True)
                )
                top, left = min(int(v), max(grid - 2, 0)), min(int(u), max(grid - 2, 0))
                below, beside = min(top + 1, grid - 1), min(left + 1, grid - 1)
                b, a = v - top, u - left
                mask[y, x] = (1 - b) * ((1 - a) * coarse[top, left] + a * coarse[top, beside]) + b * (
                    (1 - a) * coarse[below, left] + a * coarse[below, beside]
                )
    return masks


def centre(pixel: int, length: int, grid: int) -> float:
    """Where a pixel of the upsampled grid lies among the cells, mirrored at the ends, to 1/4096."""
    pixels = (grid + 1) * cell_size(length, grid)
    at = abs((pixel + 0.5) * grid / pixels - 0.5)
    last = grid - 1
    return round((last - abs(last - at)) * 4096) / 4096 if last else 0.0


@pytest.mark.parametrize("opset", [7, 13, 24])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("grid", [1, 3, 7])
def test_rise_masks_are_exactly_those_of_numpy(layout: str, grid: int, opset: int) -> None:
    cells, shifts = random_masks(grid)
    x = picture(layout) / np.float32(7)
    masks = numpy_masks(cells, shifts)
    assert np.array_equal(masks, masks.astype(np.float32))  # multiples of 2^-24: exact in float32
    soft = np.expand_dims(masks.astype(np.float32), 1 if layout == "NCHW" else 3)
    for filled in (True, False):
        model = masked(
            echo(layout, opset=opset), input="x", layout=layout, shape=x.shape, grid=grid, filled=filled
        )
        assert (FILL in [value.name for value in model.graph.inputs]) is filled
        fill = {"fill": x * 0} if filled else {}
        np.testing.assert_array_equal(run(model, image=x, cells=cells, shifts=shifts, **fill), x * soft)


def test_rise_masks_are_those_of_the_authors_upsampling() -> None:
    from skimage import transform

    grid, length = 8, 224
    random = np.random.default_rng(0)
    cells = (random.random((grid, grid)) < 0.5).astype(np.float64)
    size = (grid + 1) * cell_size(length, grid)
    theirs = transform.resize(cells, (size, size), order=1, mode="reflect", anti_aliasing=False)
    table = hat(length, grid).astype(np.float64)
    assert table.shape == (252, 8)
    np.testing.assert_allclose(table @ cells @ table.T, theirs, atol=3e-4)


def test_hat_rows_sum_to_one_exactly() -> None:
    for length, grid in ((224, 8), (7, 3), (100, 7), (5, 5), (9, 1)):
        table = hat(length, grid)
        assert table.dtype == np.float32
        assert (table.sum(axis=1) == 1).all()
        assert (table * 4096 == np.round(table * 4096)).all()


def test_rise_with_a_fill_and_uint8() -> None:
    cells, shifts = random_masks(3)
    x, fill = picture(), picture(seed=1)
    model = masked(echo(dtype=TensorProto.UINT8), input="x", layout="NCHW", shape=x.shape, grid=3)
    got = run(model, image=x, fill=fill, cells=cells, shifts=shifts)
    soft = numpy_masks(cells, shifts)[:, None]
    assert got.dtype == np.uint8
    wanted = x.astype(np.float64) * soft + fill.astype(np.float64) * (1 - soft)
    assert np.abs(got - wanted).max() <= 0.5 + 1e-4


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [FLOAT, TensorProto.UINT8], ids=["float32", "uint8"])
@pytest.mark.parametrize("opset", [7, 20])
def test_images_show_through_upsampled_maps(layout, dtype, opset):
    rng = np.random.default_rng(0)
    rows, columns = (rng.dirichlet(np.ones(3), size) for size in (H, W))  # each row sums to 1
    x = picture(layout)
    model = shown(
        echo(layout, dtype, opset=opset), input="x", layout=layout, shape=x.shape, rows=rows, columns=columns
    )
    cells = np.concatenate([np.ones((1, 3, 3)), rng.random((3, 3, 3))]).astype(np.float32)
    found = run(model, image=x, cells=cells)
    masks = np.einsum("hi,nij,wj->nhw", rows, cells, columns)
    wanted = x * np.expand_dims(masks, 1 if layout == "NCHW" else 3)
    if dtype == TensorProto.UINT8:
        np.testing.assert_allclose(found, wanted, atol=0.51)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found[0], x[0], rtol=1e-5)
