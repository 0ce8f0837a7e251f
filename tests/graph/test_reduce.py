"""The largest value of each channel and its place, made inside the graph, against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.reduce import FEATURES, Reduced, clipping, peaks, pooled
from onnxviz.programs import compile as compile_model
from tests.features.patch_toys import load, photos

OPSETS = [7, 9, 10, 11, 12, 13, 17, 18, 20, 22, 24]


def model(nodes, shape, weights=(), dtype=TensorProto.FLOAT, opset=13, extra=()) -> ir.Model:
    graph = helper.make_graph(
        list(nodes),
        "toy",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("end", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in weights],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in extra)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


def echo(shape, **options) -> ir.Model:
    nodes = [helper.make_node("Identity", ["x"], ["layer"]), helper.make_node("Neg", ["layer"], ["end"])]
    return model(nodes, shape, **options)


def found(graph: ir.Model, wanted: list[Reduced], x: np.ndarray) -> list[list[np.ndarray]]:
    """Peak, drive, row and column of each value, from ONNX Runtime; the graph passes the full check."""
    reduced, names = peaks(graph, wanted)
    onnx.checker.check_model(ir.to_proto(reduced), full_check=True)
    arrays = compile_model(reduced, provider="cpu")({"x": x})
    assert list(arrays) == [name for one in names for name in (one.peak, one.drive, one.row, one.column)]
    return [[arrays[name] for name in (one.peak, one.drive, one.row, one.column)] for one in names]


def by_hand(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same for (N, C, H, W), a loop over channels."""
    n, c, _, w = maps.shape
    best = [[int(np.argmax(maps[i, j])) for j in range(c)] for i in range(n)]
    place = np.array(best).reshape(n, c)
    return maps.max(axis=(2, 3)), place // w, place % w


@pytest.fixture
def maps() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(4, 5, 6, 9)).astype(np.float32)


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_maximum_and_its_place(opset, maps):
    [(peak, drive, row, column)] = found(echo(["N", 5, 6, 9], opset=opset), [Reduced("layer", 4)], maps)
    best, y, x = by_hand(maps)
    np.testing.assert_array_equal(peak, best)
    np.testing.assert_array_equal(drive, best)
    np.testing.assert_array_equal(row, y)
    np.testing.assert_array_equal(column, x)
    assert peak.dtype == np.float32
    assert row.dtype == np.int64


def test_channels_last(maps):
    graph = echo(["N", 6, 9, 5])
    [(peak, _, row, column)] = found(
        graph, [Reduced("layer", 4, channels_last=True)], maps.transpose(0, 2, 3, 1)
    )
    best, y, x = by_hand(maps)
    np.testing.assert_array_equal(peak, best)
    np.testing.assert_array_equal(np.stack([row, column]), np.stack([y, x]))


def test_dynamic_height_and_width(maps):
    graph = echo(["N", 5, "H", "W"])
    for cut in (maps, maps[:, :, :4, :7], maps[:1, :, 1:, 2:]):
        [(peak, _, row, column)] = found(graph, [Reduced("layer", 4)], np.ascontiguousarray(cut))
        best, y, x = by_hand(cut)
        np.testing.assert_array_equal(peak, best)
        np.testing.assert_array_equal(np.stack([row, column]), np.stack([y, x]))


def test_half_precision_becomes_float32(maps):
    half = maps.astype(np.float16)
    [(peak, _, row, column)] = found(
        echo(["N", 5, 6, 9], dtype=TensorProto.FLOAT16), [Reduced("layer", 4)], half
    )
    best, y, x = by_hand(half)
    np.testing.assert_array_equal(peak, best.astype(np.float32))
    np.testing.assert_array_equal(np.stack([row, column]), np.stack([y, x]))


def test_rank_two_is_its_own_maximum_at_one_place():
    x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    x[0, 0] = np.nan  # the place stays 0, whatever the value
    [(peak, drive, row, column)] = found(echo(["N", 7]), [Reduced("layer", 2)], x)
    np.testing.assert_array_equal(peak, x)
    np.testing.assert_array_equal(drive, x)
    assert not row.any()
    assert not column.any()


@pytest.mark.parametrize("channels_last", [False, True])
def test_rank_three_counts_places_along_its_row(channels_last):
    x = np.random.default_rng(0).normal(size=(2, 4, 11)).astype(np.float32)
    turned = x.transpose(0, 2, 1) if channels_last else x
    [(peak, _, row, column)] = found(
        echo(["N", *turned.shape[1:]]), [Reduced("layer", 3, channels_last)], turned
    )
    np.testing.assert_array_equal(peak, x.max(axis=2))
    np.testing.assert_array_equal(column, x.argmax(axis=2))
    assert not row.any()


def test_the_first_of_equal_places_is_taken():
    [(peak, _, row, column)] = found(
        echo(["N", 2, 3, 3]), [Reduced("layer", 4)], np.ones((1, 2, 3, 3), np.float32)
    )
    assert (peak == 1).all()
    assert not row.any()
    assert not column.any()


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 24])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_cut_layer_is_searched_before_the_cut(opset, dtype, maps):
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    if opset < 11:
        clip = helper.make_node("Clip", ["pre"], ["layer"], min=0.0, max=0.5)
        weights = []
    else:
        clip = helper.make_node("Clip", ["pre", "low", "high"], ["layer"])
        weights = [("low", np.array(0, kind)), ("high", np.array(0.5, kind))]
    nodes = [helper.make_node("Neg", ["x"], ["pre"]), clip, helper.make_node("Neg", ["layer"], ["end"])]
    graph = model(nodes, ["N", 5, 6, 9], weights, dtype, opset)
    x = maps.astype(kind)
    [(peak, drive, row, column)] = found(graph, [Reduced("layer", 4)], x)
    best, y, x_ = by_hand(-x)
    np.testing.assert_array_equal(drive, best.astype(np.float32))
    np.testing.assert_array_equal(peak, np.clip(best.astype(np.float32), 0, 0.5))
    np.testing.assert_array_equal(np.stack([row, column]), np.stack([y, x_]))
    assert (peak == 0.5).sum() > 10  # without the search before it these would all tie


def test_a_clip_without_an_upper_end_cuts_nothing_off():
    low = [("low", np.array(0, np.float32)), ("top", np.array(np.finfo(np.float32).max))]
    nodes = [
        helper.make_node("Clip", ["x", "low"], ["a"]),
        helper.make_node("Clip", ["a", "low", "top"], ["end"]),
    ]
    graph = model(nodes, ["N", 2, 3, 3], low)
    assert clipping(next(n.outputs[0] for n in graph.graph)) == []
    assert clipping(graph.graph.outputs[0]) == []


def test_several_layers_in_one_graph_and_outputs_of_the_model(maps):
    graph = echo(["N", 5, 6, 9])
    first, second = found(graph, [Reduced("end", 4), Reduced("layer", 4)], maps)
    np.testing.assert_array_equal(first[0], (-maps).max(axis=(2, 3)))
    np.testing.assert_array_equal(second[0], maps.max(axis=(2, 3)))


def test_nothing_behind_the_layer_is_kept_and_the_model_is_untouched():
    graph = echo(["N", 5, 6, 9])
    before = ir.to_proto(graph).SerializeToString()
    reduced, _ = peaks(graph, [Reduced("layer", 4)])
    assert "Neg" not in {node.op_type for node in reduced.graph}
    assert ir.to_proto(graph).SerializeToString() == before


@pytest.mark.parametrize("zero", [0, 128])
def test_quantised_values_come_in_real_units(zero):
    scale, point = np.float32(0.05), np.array(zero, np.uint8)
    weights = [("scale", scale), ("zero", point)]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("MaxPool", ["q"], ["layer"], kernel_shape=[2, 2]),
        helper.make_node("DequantizeLinear", ["layer", "scale", "zero"], ["end"]),
    ]
    graph = model(nodes, ["N", 3, 5, 5], [(n, np.asarray(a)) for n, a in weights])
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 5, 5)).astype(np.float32)
    real, whole = found(graph, [Reduced("end", 4), Reduced("layer", 4)], x)
    np.testing.assert_allclose(whole[0], real[0], rtol=1e-6)
    np.testing.assert_array_equal(whole[2], real[2])


def test_a_static_batch_is_kept(maps):
    [(peak, *_)] = found(echo([4, 5, 6, 9]), [Reduced("layer", 4)], maps)
    np.testing.assert_array_equal(peak, maps.max(axis=(2, 3)))


def test_names_that_the_model_uses_already_are_left_alone(maps):
    nodes = [
        helper.make_node("Identity", ["x"], ["onnxviz.peaks0.0"]),
        helper.make_node("Neg", ["onnxviz.peaks0.0"], ["end"]),
    ]
    graph = model(nodes, ["N", 5, 6, 9])
    [(peak, *_)] = found(graph, [Reduced("onnxviz.peaks0.0", 4)], maps)
    np.testing.assert_array_equal(peak, maps.max(axis=(2, 3)))


def test_what_cannot_be_reduced_is_refused():
    graph = echo(["N", 2, 3, 3])
    with pytest.raises(ModelUnsuitable, match="5 dimensions"):
        peaks(graph, [Reduced("layer", 5)])
    with pytest.raises(UnknownLayer, match="did you mean 'layer'"):
        peaks(graph, [Reduced("layr", 4)])


# --- features, against means over whole feature maps -----------------------------------------------

FORMS = {
    "opset 7": {"opset": 7},
    "newest opset": {"opset": 24},
    "fp16": {"dtype": TensorProto.FLOAT16},
    "NHWC": {"layout": "NHWC"},
}


def features(model, net, images):
    return compile_model(model, provider="cpu")({net.input.name: net.prepare(images)})


@pytest.mark.parametrize("form", FORMS)
def test_a_map_is_averaged_over_its_places(form):
    net, images = load(**FORMS[form]), photos(3)
    got = features(pooled(net.model, "maps", 4), net, images)
    maps = net.activations(images, "maps")["maps"]
    assert list(got) == [FEATURES]
    assert got[FEATURES].dtype == np.float32
    np.testing.assert_allclose(
        got[FEATURES], maps.mean(axis=(2, 3)), rtol=2e-3 if form == "fp16" else 1e-5, atol=1e-3
    )


def test_channels_last_maps_are_averaged_by_channel():
    net, images = load(), photos(3)
    got = features(pooled(net.model, "turned", 4, channels_last=True), net, images)[FEATURES]
    maps = net.activations(images, "turned")["turned"]
    np.testing.assert_allclose(got, maps.mean(axis=(1, 2)), rtol=1e-5)


def test_a_vector_stays_as_it_is_and_outputs_are_kept():
    net, images = load(), photos(3)
    got = features(pooled(net.model, "end", 2, keep=["end"]), net, images)
    np.testing.assert_array_equal(got[next(iter(got))], got["end"])


def test_the_graph_is_valid_and_holds_nothing_behind_the_layer():
    net = load()
    made = pooled(net.model, "active", 4)
    proto = ir.serde.serialize_model(made)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node} == {
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Identity",
    }
    assert [value.name for value in net.model.graph.outputs] == ["end"]  # the model itself is as it was


def test_what_has_no_features_is_refused():
    net = load()
    with pytest.raises(ModelUnsuitable, match="3 dimensions"):
        pooled(net.model, "maps", 3)
    with pytest.raises(UnknownLayer):
        pooled(net.model, "nowhere", 4)
