"""Receptive fields where values are rearranged, branch, or see the whole image (oracle: `fields.py`)."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from fields import check, finish, seen
from networks import Maker, bare, light

from onnxviz.errors import UsageError
from onnxviz.graph.layers import field, layers
from onnxviz.graph.open.load import load
from onnxviz.graph.surgery import expose
from tests.graph.running import session


def told(proto):
    """The layers by name."""
    return {layer.name: layer for layer in layers(ir.from_proto(proto))}


# --- moving pixels --------------------------------------------------------------------------------


def _conv(m, x, channels, out, **attributes):
    return m("Conv", x, m.random(out, channels, 3, 3, positive=True), pads=[1] * 4, **attributes)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_and_back(mode):
    m = Maker()
    x = _conv(m, "image", 1, 8, strides=[2, 2])
    x = _conv(m, m("DepthToSpace", x, blocksize=2, mode=mode), 2, 2)
    x = _conv(m, m("SpaceToDepth", x, blocksize=4), 32, 2)
    assert check(finish(m, x))[x].stride == (4, 4)


def test_pixel_shuffle_written_out():
    m = Maker()
    x = _conv(m, "image", 1, 8, strides=[2, 2])  # (8, 12, 10)
    x = m("Reshape", x, m.constant([0, 2, 2, 2, 12, 10]))
    x = m("Transpose", x, perm=[0, 1, 4, 2, 5, 3])
    x = m("Reshape", x, m.constant([0, 2, 24, 20]))
    last = _conv(m, x, 2, 1)
    found = check(finish(m, last), [x, last])
    # A shuffled pixel sees what its coarse unit sees; nine fine neighbours see two coarse units each way.
    assert found[x].receptive_field == (3, 3)
    assert found[last].receptive_field == (5, 5)


def test_patch_merging_by_strided_slices():
    m = Maker()
    pieces = []
    for y in (0, 1):
        for x in (0, 1):
            bounds = [m.constant(v) for v in ([y, x], [1 << 40, 1 << 40], [2, 3], [2, 2])]
            pieces.append(m("Slice", "image", *bounds))
    x = _conv(m, m("Concat", *pieces, axis=1), 4, 2)
    assert check(finish(m, x))[x].receptive_field == (6, 6)


def test_pads_and_crops():
    m = Maker()
    x = m("Pad", "image", m.constant([0, 0, 3, 1, 0, 0, 0, 2]))
    x = m("Conv", x, m.random(2, 1, 3, 3, positive=True), strides=[2, 2])
    x = m("Slice", x, m.constant([1, -6]), m.constant([-1, 100]), m.constant([2, 3]))
    x = m("Pad", x, m.constant([0, 0, -1, 0, 0, 0, 0, -2]))
    last = check(finish(m, x))[x]
    assert last.offset == (-3 + 2 * 2, -1 + 2 * (11 - 6))


def test_a_flip_and_a_split():
    m = Maker()
    x = _conv(m, "image", 1, 2)
    x = m("Slice", x, m.constant([-1]), m.constant([-100]), m.constant([3]), m.constant([-1]))
    x = m("Split", x, m.constant([5, 19]), axis=2, outputs=2)[1]
    last = check(finish(m, m("Conv", x, m.random(1, 2, 3, 3, positive=True))))
    flipped = next(layer for layer in last.values() if layer.op == "Slice")
    assert flipped.stride == (1, -1)
    assert field(flipped, 0, 0) == (-1, 18, 2, 21)


def test_transposed_to_nhwc_and_back():
    m = Maker()
    x = _conv(m, "image", 1, 4, strides=[2, 1])
    x = m("Transpose", x, perm=[0, 2, 3, 1])
    turned = m("Add", m("MatMul", x, m.random(4, 3, positive=True)), m.random(3, positive=True))
    x = _conv(m, m("Transpose", turned, perm=[0, 3, 1, 2]), 3, 2)
    found = told(finish(m, x))
    assert found[turned].stride == (2, 1)
    assert found[turned].receptive_field == (3, 3)
    check(finish(m, x), [x])


def test_gather_of_rows_and_of_one_place():
    m = Maker()
    x = _conv(m, "image", 1, 2)
    rows = m("Gather", x, m.constant([3, 4, 11]), axis=2)
    one = m("Gather", m("Gather", rows, m.constant(np.int64(1)), axis=2), m.constant(np.int64(-1)), axis=2)
    found = told(finish(m, one))
    assert [field(found[rows], y, 0)[0] for y in range(3)] == [2, 3, 10]
    assert field(found[one], 0, 0) == (3, 18, 6, 21)


def test_channel_shuffle_keeps_places():
    m = Maker()
    x = _conv(m, "image", 1, 6, strides=[2, 2])
    x = m("Reshape", x, m.constant([0, 2, 3, 12, 10]))
    x = m("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = m("Reshape", x, m.constant([0, 6, 12, 10]))
    check(finish(m, x), [x], border=True)


def test_einsum():
    m = Maker(opset=13)
    x = _conv(m, "image", 1, 3)
    x = m("Einsum", x, m.random(4, 3, positive=True), equation="bchw,oc->bohw")
    rows = m("Einsum", x, m.random(20, 2, positive=True), equation="bohw,wk->bohk")
    found = check(finish(m, rows), [x])
    assert found[x].receptive_field == (3, 3)
    last = layers(ir.from_proto(finish(m, rows)))[-1]
    assert last.stride == (1, 0)
    assert field(last, 5, 0) == (4, -1, 7, 21)


# --- branches -------------------------------------------------------------------------------------


def test_branches_with_unlike_windows():
    m = Maker()
    one = m("Conv", "image", m.random(1, 1, 1, 5, positive=True), pads=[0, 2, 0, 2], strides=[2, 2])
    two = m("Conv", "image", m.random(1, 1, 3, 3, positive=True), pads=[0, 1, 2, 1], strides=[2, 2])
    joined = m("Concat", one, two, axis=1)
    x = m("Conv", joined, m.random(1, 2, 1, 1, positive=True))
    short = m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2])
    last = check(finish(m, m("Add", x, short)))
    assert last[joined].receptive_field == (3, 5)
    assert last[joined].offset == (0, -2)


def test_feature_pyramid():
    m = Maker()
    fine = _conv(m, "image", 1, 2, strides=[2, 2])  # (12, 10)
    coarse = _conv(m, fine, 2, 2, strides=[2, 2])  # (6, 5)
    up = m("Resize", coarse, "", m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest", nearest_mode="floor",
           coordinate_transformation_mode="asymmetric")  # fmt: skip
    x = _conv(m, m("Add", fine, up), 2, 1)
    check(finish(m, x))


def test_branches_that_drift_apart():
    """13 places stretched to 24 beside a map of stride 1: no common period, yet every unit is told exactly."""
    m = Maker(opset=18)
    x = m("Conv", "image", m.random(1, 1, 2, 2, positive=True), pads=[1, 1, 1, 1], strides=[2, 2])  # (13, 11)
    x = m("Resize", x, "", "", m.constant([24, 20]), axes=[2, 3], mode="nearest", nearest_mode="floor",
          coordinate_transformation_mode="asymmetric")  # fmt: skip
    check(finish(m, m("Add", x, "image")))


# --- wholes and contexts --------------------------------------------------------------------------


def whole_but_local(proto, name, local, size=(24, 20)):
    """The layer sees the whole image, and told locally, a box of this size."""
    height, width = size
    found = told(proto)[name]
    changed = seen(proto, [name], height, width)[name]
    assert changed.reshape(height * width, -1).all(axis=1).all(), "some pixel changes nothing"
    top, left, bottom, right = field(found, 3, 2)
    assert top <= 0 and left <= 0 and bottom >= height and right >= width
    assert found.local_field == local
    box = field(found, 3, 2, local=True)
    assert (box[2] - box[0], box[3] - box[1]) == local
    return found


def test_global_pool_then_linear_see_the_whole_map():
    m = Maker()
    x = _conv(m, "image", 1, 3, strides=[2, 2])
    pooled = m("GlobalAveragePool", x)
    x = m("Gemm", m("Flatten", pooled), m.random(3, 4, positive=True), m.random(4))
    found = check(finish(m, x), border=True)
    assert found[pooled].stride is None
    assert (
        found[pooled].receptive_field == found[x].receptive_field == (25, 21)
    )  # 1 row and column of padding
    assert found[x].offset == (-1, -1)


def test_flatten_and_linear_see_the_whole_map():
    m = Maker()
    x = _conv(m, "image", 1, 2, strides=[4, 4])
    x = m("Gemm", m("Flatten", x), m.random(2 * 6 * 5, 3, positive=True), m.random(3))
    last = check(finish(m, x), border=False, exact=False)[x]
    assert last.receptive_field == (4 * 5 + 3, 4 * 4 + 3)


def test_squeeze_and_excite_keeps_a_local_field():
    m = Maker()
    x = _conv(m, "image", 1, 3)
    gate = m(
        "Sigmoid", m("Conv", m("GlobalAveragePool", x), m.constant(np.full((3, 3, 1, 1), 1e-3, np.float32)))
    )
    x = _conv(m, m("Mul", x, gate), 3, 1, strides=[2, 2])
    last = whole_but_local(finish(m, x), x, (5, 5))
    assert last.stride == (2, 2)
    assert field(last, 3, 2, local=True) == (4, 2, 9, 7)


@pytest.mark.parametrize(
    "norm", ["InstanceNormalization", "MeanVarianceNormalization", "Softmax", "LayerNormalization"]
)
def test_norms_over_the_map_are_context(norm):
    m = Maker()
    x = m("Mul", _conv(m, "image", 1, 2), m.constant(np.float32(1e-3)))
    if norm == "InstanceNormalization":
        x = m(norm, x, m.random(2, positive=True), m.random(2))
    elif norm == "LayerNormalization":
        x = m(norm, x, m.random(2, 24, 20, positive=True), axis=1)
    else:
        x = m(norm, x, **({"axis": 3} if norm == "Softmax" else {"axes": [2, 3]}))
    x = m("Softmax", x, axis=2) if norm == "Softmax" else x
    whole_but_local(finish(m, x), x, (3, 3))


@pytest.mark.parametrize("norm", ["LRN", "BatchNormalization", "LayerNormalization", "Softmax"])
def test_norms_over_channels_stay_in_place(norm):
    m = Maker()
    x = m("Mul", _conv(m, "image", 1, 4), m.constant(np.float32(1e-2)))
    if norm == "LRN":
        x = m(norm, x, size=3)
    elif norm == "BatchNormalization":
        x = m(norm, x, *[m.random(4, positive=True) for _ in range(4)])
    elif norm == "Softmax":
        x = m(norm, x, axis=1)
    else:
        x = m("Transpose", x, perm=[0, 2, 3, 1])
        x = m(norm, x, m.random(4, positive=True), axis=-1)
        x = m("Transpose", x, perm=[0, 3, 1, 2])
    assert check(finish(m, x), [x])[x].receptive_field == (3, 3)


def test_softmax_of_old_opsets_runs_over_all_that_follows():
    m = Maker(opset=11)
    x = m("Softmax", m("Mul", _conv(m, "image", 1, 2), m.constant(np.float32(1e-3))))
    whole_but_local(finish(m, x), x, (3, 3))


def test_attention_sees_everything_and_keeps_its_own_place():
    m = Maker()
    x = m("Mul", _conv(m, "image", 1, 4), m.constant(np.float32(1e-2)))
    tokens = m("Transpose", m("Reshape", x, m.constant([0, 4, 480])), perm=[0, 2, 1])
    q, k, v = (m("MatMul", tokens, m.constant(np.full((4, 4), 0.1, np.float32))) for _ in range(3))
    weights = m("Softmax", m("MatMul", q, m("Transpose", k, perm=[0, 2, 1])))
    out = m("Reshape", m("Transpose", m("MatMul", weights, v), perm=[0, 2, 1]), m.constant([0, 4, 24, 20]))
    x = m("Add", x, out)
    last = whole_but_local(finish(m, x), x, (3, 3))
    assert last.stride == (1, 1)


def test_attention_in_windows_sees_its_window():
    """Windows of 4x5, as Swin cuts them: split, attend within, put back."""
    m = Maker()
    x = m("Mul", m("Conv", "image", m.random(3, 1, 1, 1, positive=True)), m.constant(np.float32(1e-2)))
    w = m("Reshape", x, m.constant([0, 3, 6, 4, 4, 5]))
    w = m("Reshape", m("Transpose", w, perm=[0, 2, 4, 3, 5, 1]), m.constant([-1, 20, 3]))
    weights = m("Softmax", m("MatMul", w, m("Transpose", w, perm=[0, 2, 1])))
    w = m("Reshape", m("MatMul", weights, w), m.constant([-1, 6, 4, 4, 5, 3]))
    out = m("Reshape", m("Transpose", w, perm=[0, 5, 1, 3, 2, 4]), m.constant([-1, 3, 24, 20]))
    x = m("Add", x, out)
    last = check(finish(m, x), [x], border=True)[x]
    assert field(last, 5, 12) == (4, 10, 8, 15)
    assert field(last, 5, 12, local=True) == (5, 12, 6, 13)


def test_an_unknown_operator_sees_everything():
    m = Maker(opset=16)
    x = m("Trilu", _conv(m, "image", 1, 1))
    found = told(finish(m, x))
    assert field(found[x], 0, 0) == (-1, -1, 25, 21)


def test_what_reads_all_of_its_own_entry():
    """GridSample reads its own picture, wherever the grid points; entries of axis 0 that are rows stay apart."""
    m = Maker(opset=16)
    grid = m("Expand", m.constant(np.zeros((1, 24, 20, 2), np.float32)), m.constant([24, 24, 20, 2]))
    rows = m("Transpose", _conv(m, "image", 1, 1), perm=[2, 1, 0, 3])  # (24, 1, 1, 20)
    x = m("GridSample", rows, grid)
    found = told(m.model({"image": (1, 1, 24, 20)}, {x: None}))
    assert field(found[x], 5, 0) == (4, -1, 7, 21)


def test_a_row_of_a_sequence():
    """An LSTM over the columns of each row, as ReNet has it: a row sees itself, and all columns."""
    m = Maker()
    x = m("Transpose", _conv(m, "image", 1, 4), perm=[3, 0, 2, 1])  # (columns, 1, rows, channels)
    x = m("Squeeze", x, m.constant([1]))
    y = m("LSTM", x, m.random(1, 12, 4), m.random(1, 12, 3), hidden_size=3, outputs=3)[1]
    found = told(m.model({"image": (1, 1, 24, 20)}, {y: None}))
    assert field(found[y], 5, 0) == (4, -1, 7, 21)


def test_picked_elements_see_the_axis_that_they_are_picked_from():
    m = Maker()
    indices = np.random.default_rng(0).integers(0, 20, (1, 1, 24, 7))
    x = m("GatherElements", _conv(m, "image", 1, 1), m.constant(indices), axis=3)
    found = told(m.model({"image": (1, 1, 24, 20)}, {x: None}))
    assert field(found[x], 5, 0) == (4, -1, 7, 21)


def test_a_table_looked_up_by_places():
    m = Maker()
    codes = m("ArgMax", _conv(m, "image", 1, 4), axis=1, keepdims=0)
    x = m("Gather", m.random(4, 3, positive=True), codes)
    found = told(m.model({"image": (1, 1, 24, 20)}, {x: None}))
    assert field(found[x], 5, 7) == (4, 6, 7, 9)


def test_a_measured_scale_counts_as_a_constant():
    """As in gradients, and as in a file that has it as a constant: the field is that of the data, which is what a
    reader of `inspect` compares with the float file's. (That a rounding depends on the whole image is told otherwise:
    such files run one picture at a time.)"""
    m = Maker()
    q, scale, zero = m("DynamicQuantizeLinear", _conv(m, "image", 1, 1), outputs=3)
    x = m("Cast", m("ConvInteger", q, m.constant(np.ones((1, 1, 3, 3), np.uint8)), zero), to=1)
    x = m("Mul", x, scale)
    found = told(finish(m, x))
    assert field(found[x], 5, 5) == field(found[x], 5, 5, local=True) == (4, 4, 9, 9)
    assert scale not in found and zero not in found  # they are no layers


def test_absurd_geometry_ends_at_once():
    """Files of strangers: a stride, a kernel and a map for which no table could be held."""
    m = Maker()
    x = m("ConvTranspose", "image", m.random(1, 1, 3, 3), strides=[1 << 29, 2], pads=[1, 1, 1, 1])
    y = m(
        "GlobalAveragePool",
        m("Add", m("MaxPool", x, kernel_shape=[1 << 30, 1], strides=[1 << 20, 1]), "image"),
    )
    z = m("DepthToSpace", m("Tile", x, m.constant([1, 1 << 20, 1, 1])), blocksize=1 << 10)
    proto = finish(m, m("Add", y, z))
    start = time.process_time()
    found = layers(ir.from_proto(proto))
    assert time.process_time() - start < 1
    assert found[0].op == "ConvTranspose"


# --- sizes that are open --------------------------------------------------------------------------


def test_an_open_size_leaves_open_only_what_hangs_on_it():
    m = Maker()
    x = _conv(m, "image", 1, 2, strides=[2, 2])
    pooled = m("GlobalAveragePool", x)
    gated = m("Mul", x, pooled)
    model = ir.from_proto(m.model({"image": ("N", 1, "H", "W")}, {gated: None}))
    found = {layer.name: layer for layer in layers(model)}
    assert found[x].receptive_field == (3, 3)
    assert found[x].shape == ("N", 2, "H/2", "W/2")
    assert found[pooled].receptive_field is None
    with pytest.raises(UsageError, match="give a size"):
        field(found[pooled], 0, 0)
    sized = {layer.name: layer for layer in layers(model, size=(16, 20))}
    assert sized[pooled].receptive_field == (17, 21)


# --- a classic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "extent", "stride"),
    [("squeezenet", "r19", 31, 8), ("bvlc_alexnet", "r7", 67, 16), ("inception_v1", "r9", 27, 8)],
)
def test_known_figures(name, value, extent, stride):
    """Worked out by hand from the papers' tables: r = r + (k - 1)·j, j = j·s."""
    layer = {layer.name: layer for layer in layers(load(bare(name)).model)}[value]
    assert layer.receptive_field == (extent, extent)
    assert layer.stride == (stride, stride)


def test_squeezenet_against_the_oracle():
    """Single pixels of a real photo-sized input against the fields of a layer deep inside."""
    proto = light("squeezenet")
    for tensor in proto.graph.initializer:  # no dead units: everything positive
        array = np.abs(np.frombuffer(tensor.raw_data, np.float32)) if tensor.data_type == 1 else None
        if array is not None:
            tensor.raw_data = array.tobytes()
    loaded = load(proto).model
    layer = {layer.name: layer for layer in layers(loaded)}["r34"]
    model = expose(loaded, ["r34"])
    engine = session(model)
    base = np.random.default_rng(0).uniform(1, 2, (1, 3, 224, 224)).astype(np.float32)
    before = engine.run(["r34"], {"data_0": base})[0]
    for y, x in [(0, 0), (100, 37), (101, 60), (150, 200)]:
        bumped = base.copy()
        bumped[..., y, x] += 1e4
        changed = (engine.run(["r34"], {"data_0": bumped})[0] != before).any(axis=(0, 1))
        told = np.zeros_like(changed)
        for i in range(told.shape[0]):
            for j in range(told.shape[1]):
                top, left, bottom, right = field(layer, i, j)
                told[i, j] = top <= y < bottom and left <= x < right
        assert np.array_equal(changed, told)
