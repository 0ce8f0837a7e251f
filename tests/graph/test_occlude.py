"""The occluded and masked batches, made inside the graph, against loops over NumPy arrays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

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
from onnxviz.graph.reduce import FEATURES, pooled
from onnxviz.programs import compile as compile_model

BOXES = np.array([[0, 0, 0, 0], [0, 0, 4, 4], [2, 3, 5, 9], [5, 6, 7, 9], [0, 0, 7, 9]])
H, W = 7, 9


def echo(
    layout: str = "NCHW", dtype: int = TensorProto.FLOAT, batch: int | str = "N", opset: int = 20
) -> ir.Model:
    """A network whose output is its input, so that tests see the batch that was made."""
    shape = [batch, 3, H, W] if layout == "NCHW" else [batch, H, W, 3]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    return ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    )


def check(model: ir.Model) -> None:
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def picture(layout: str, seed: int) -> np.ndarray:
    shape = (1, 3, H, W) if layout == "NCHW" else (1, H, W, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def covered(x: np.ndarray, fill: np.ndarray, layout: str) -> np.ndarray:
    batch = np.repeat(x, len(BOXES), axis=0)
    for entry, (top, left, bottom, right) in zip(batch, BOXES, strict=True):
        place = np.s_[:, top:bottom, left:right] if layout == "NCHW" else np.s_[top:bottom, left:right, :]
        entry[place] = fill[0][place]
    return batch


@pytest.mark.parametrize("opset", [7, 9, 13, 20, 24])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_windows_are_covered_and_nothing_else(layout: str, opset: int) -> None:
    x, fill = picture(layout, 0), picture(layout, 1)
    model = occluded(echo(layout, opset=opset), input="x", layout=layout, shape=x.shape)
    check(model)
    got = compile_model(model)({IMAGE: x, FILL: fill, WINDOWS: BOXES.astype(np.float32)})["y"]
    np.testing.assert_array_equal(got, covered(x, fill, layout))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.DOUBLE])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_windows_in_the_networks_own_type(layout: str, dtype: int) -> None:
    x, fill = picture(layout, 0), picture(layout, 1)
    model = occluded(echo(layout, dtype), input="x", layout=layout, shape=x.shape)
    check(model)
    got = compile_model(model)({IMAGE: x, FILL: fill, WINDOWS: BOXES.astype(np.float32)})["y"]
    np.testing.assert_array_equal(got.astype(np.float32), covered(x, fill, layout))


def test_the_model_given_is_left_as_it_is_and_a_fixed_batch_stays() -> None:
    model = echo(batch=5)
    before = ir.to_proto(model).SerializeToString()
    made = occluded(model, input="x", layout="NCHW", shape=(1, 3, H, W))
    check(made)
    assert ir.to_proto(model).SerializeToString() == before
    assert [tuple(value.shape) for value in made.graph.inputs] == [(1, 3, H, W), (1, 3, H, W), (5, 4)]
    x = picture("NCHW", 0)
    got = compile_model(made)({IMAGE: x, FILL: x * 0, WINDOWS: BOXES.astype(np.float32)})["y"]
    np.testing.assert_array_equal(got, covered(x, x * 0, "NCHW"))


def test_an_empty_window_keeps_the_image_to_the_last_bit() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, H, W)).astype(np.float32)
    model = occluded(echo(), input="x", layout="NCHW", shape=x.shape)
    got = compile_model(model)({IMAGE: x, FILL: x + 1.1, WINDOWS: np.zeros((1, 4), np.float32)})["y"]
    np.testing.assert_array_equal(got, x)


def test_a_reader_inside_a_subgraph_sees_the_occluded_batch() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)],
        "nested",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, H, W])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = picture("NCHW", 0)
    model = occluded(ir.from_proto(proto), input="x", layout="NCHW", shape=x.shape)
    got = compile_model(model)({IMAGE: x, FILL: x * 0, WINDOWS: BOXES.astype(np.float32)})["y"]
    np.testing.assert_array_equal(got, covered(x, x * 0, "NCHW"))


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
    x = picture(layout, 0) / np.float32(7)
    model = masked(echo(layout, opset=opset), input="x", layout=layout, shape=x.shape, grid=grid)
    check(model)
    got = compile_model(model)({IMAGE: x, FILL: x * 0, CELLS: cells, SHIFTS: shifts})["y"]
    masks = numpy_masks(cells, shifts)
    assert np.array_equal(masks, masks.astype(np.float32))  # multiples of 2^-24: exact in float32
    soft = masks.astype(np.float32)
    soft = soft[:, None] if layout == "NCHW" else soft[..., None]
    np.testing.assert_array_equal(got, x * soft)
    bare = masked(echo(layout, opset=opset), input="x", layout=layout, shape=x.shape, grid=grid, filled=False)
    check(bare)
    assert FILL not in [value.name for value in bare.graph.inputs]
    got = compile_model(bare)({IMAGE: x, CELLS: cells, SHIFTS: shifts})["y"]
    np.testing.assert_array_equal(got, x * soft)


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
    x, fill = picture("NCHW", 0), picture("NCHW", 1)
    model = masked(echo(dtype=TensorProto.UINT8), input="x", layout="NCHW", shape=x.shape, grid=3)
    check(model)
    got = compile_model(model)({IMAGE: x, FILL: fill, CELLS: cells, SHIFTS: shifts})["y"]
    soft = numpy_masks(cells, shifts)[:, None]
    assert got.dtype == np.uint8
    wanted = x.astype(np.float64) * soft + fill.astype(np.float64) * (1 - soft)
    assert np.abs(got - wanted).max() <= 0.5 + 1e-4


# --- layers ---------------------------------------------------------------------------------------


def test_pieces_can_be_put_on_one_another() -> None:
    x = picture("NCHW", 0)
    model = occluded(pooled(echo(), "y", 4), input="x", layout="NCHW", shape=x.shape)
    check(model)
    got = compile_model(model)({IMAGE: x, FILL: x * 0, WINDOWS: BOXES.astype(np.float32)})[FEATURES]
    np.testing.assert_allclose(got, covered(x, x * 0, "NCHW").mean(axis=(2, 3)), rtol=1e-5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.UINT8], ids=["float32", "uint8"])
@pytest.mark.parametrize("opset", [7, 20])
def test_images_show_through_upsampled_maps(layout, dtype, opset):
    rng = np.random.default_rng(0)
    rows, columns = (rng.dirichlet(np.ones(3), size) for size in (H, W))  # each row sums to 1
    model = shown(
        echo(layout, dtype, opset=opset), input="x", layout=layout, shape=(1, *echo(layout).graph.inputs[0].shape[1:]),
        rows=rows, columns=columns,
    )  # fmt: skip
    check(model)
    x = picture(layout, 0)
    cells = np.concatenate([np.ones((1, 3, 3)), rng.random((3, 3, 3))]).astype(np.float32)
    found = compile_model(model, provider="cpu")({IMAGE: x, CELLS: cells})["y"]
    masks = np.einsum("hi,nij,wj->nhw", rows, cells, columns)
    wanted = x * (masks[:, None] if layout == "NCHW" else masks[..., None])
    if dtype == TensorProto.UINT8:
        np.testing.assert_allclose(found, wanted, atol=0.51)
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(found[0], x[0], rtol=1e-5)
