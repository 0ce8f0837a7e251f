"""The largest value of each channel and its place, made inside the graph, against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.reduce import FEATURES, Reduced, clipping, peaks, pooled
from onnxviz.programs import compile as compile_model
from tests.features.patch_toys import load, photos
from tests.networks import written

OPSETS = [7, 9, 10, 11, 12, 13, 17, 18, 20, 22, 24]
ECHO = "layer = Identity(x) end = Neg(layer)"
HALF = TensorProto.FLOAT16


def model(text: str, shape, weights=None, dtype=TensorProto.FLOAT, opset=13) -> ir.Model:
    made = written(text, {"x": shape}, {"end": None}, weights, opset=opset, dtype=dtype)
    return ir.from_proto(onnx.shape_inference.infer_shapes(made))


def echo(*shape, **options) -> ir.Model:
    return model(ECHO, ["N", *shape], **options)


def found(graph: ir.Model, wanted: list[Reduced], x: np.ndarray) -> list[list[np.ndarray]]:
    """Peak, drive, row and column of each value, from ONNX Runtime; the graph passes the full check."""
    reduced, names = peaks(graph, wanted)
    onnx.checker.check_model(ir.to_proto(reduced), full_check=True)
    arrays = compile_model(reduced, provider="cpu")({"x": x})
    assert list(arrays) == [name for one in names for name in (one.peak, one.drive, one.row, one.column)]
    return [[arrays[name] for name in (one.peak, one.drive, one.row, one.column)] for one in names]


def hold(one: list[np.ndarray], maps: np.ndarray, most: float = np.inf) -> None:
    """Against the same for (N, C, H, W), a loop over channels; `most`: where the layer is cut off."""
    peak, drive, row, column = one
    n, c, _, w = maps.shape
    place = np.array([int(np.argmax(maps[i, j])) for i in range(n) for j in range(c)]).reshape(n, c)
    best = maps.max(axis=(2, 3)).astype(np.float32)
    np.testing.assert_array_equal(drive, best)
    np.testing.assert_array_equal(peak, np.clip(best, 0, most) if most < np.inf else best)
    np.testing.assert_array_equal(np.stack([row, column]), np.stack([place // w, place % w]))
    assert (peak.dtype, row.dtype) == (np.float32, np.int64)


MAPS = np.random.default_rng(3).normal(size=(4, 5, 6, 9)).astype(np.float32)
LAYER = [Reduced("layer", 4)]


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_gives_the_maximum_and_its_place(opset):
    [one] = found(echo(5, 6, 9, opset=opset), LAYER, MAPS)
    hold(one, MAPS)


def test_channels_last_half_precision_and_a_static_batch():
    last = [Reduced("layer", 4, channels_last=True)]
    hold(*found(echo(6, 9, 5), last, MAPS.transpose(0, 2, 3, 1)), MAPS)
    hold(*found(echo(5, 6, 9, dtype=HALF), LAYER, MAPS.astype(np.float16)), MAPS.astype(np.float16))
    hold(*found(model(ECHO, [4, 5, 6, 9]), LAYER, MAPS), MAPS)


def test_dynamic_height_and_width():
    graph = echo(5, "H", "W")
    for cut in (MAPS, MAPS[:, :, :4, :7], MAPS[:1, :, 1:, 2:]):
        hold(*found(graph, LAYER, np.ascontiguousarray(cut)), cut)


def test_rank_two_is_its_own_maximum_at_one_place():
    x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    x[0, 0] = np.nan  # the place stays 0, whatever the value
    [one] = found(echo(7), [Reduced("layer", 2)], x)
    hold(one, x[..., None, None])


@pytest.mark.parametrize("channels_last", [False, True])
def test_rank_three_counts_places_along_its_row(channels_last):
    x = np.random.default_rng(0).normal(size=(2, 4, 11)).astype(np.float32)
    turned = x.transpose(0, 2, 1) if channels_last else x
    [one] = found(echo(*turned.shape[1:]), [Reduced("layer", 3, channels_last)], turned)
    hold(one, x[:, :, None])


def test_the_first_of_equal_places_is_taken():
    ones = np.ones((1, 2, 3, 3), np.float32)
    hold(*found(echo(2, 3, 3), LAYER, ones), ones)


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 24])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, HALF])
def test_a_cut_layer_is_searched_before_the_cut(opset, dtype):
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    clip = "Clip <min = 0.0, max = 0.5> (pre)" if opset < 11 else "Clip(pre, low, high)"
    weights = {"low": np.array(0, kind), "high": np.array(0.5, kind)}
    graph = model(f"pre = Neg(x) layer = {clip} end = Neg(layer)", ["N", 5, 6, 9], weights, dtype, opset)
    [one] = found(graph, LAYER, MAPS.astype(kind))
    hold(one, -MAPS.astype(kind), most=0.5)
    assert (one[0] == 0.5).sum() > 10  # without the search before it these would all tie


def test_a_clip_without_an_upper_end_cuts_nothing_off():
    weights = {"low": np.float32(0), "top": np.finfo(np.float32).max}
    graph = model("a = Clip(x, low) end = Clip(a, low, top)", ["N", 2, 3, 3], weights)
    assert clipping(next(n.outputs[0] for n in graph.graph)) == clipping(graph.graph.outputs[0]) == []


def test_several_layers_in_one_graph_and_outputs_of_the_model():
    first, second = found(echo(5, 6, 9), [Reduced("end", 4), *LAYER], MAPS)
    hold(first, -MAPS)
    hold(second, MAPS)


def test_nothing_behind_the_layer_is_kept_and_the_model_is_untouched():
    graph = echo(5, 6, 9)
    before = ir.to_proto(graph).SerializeToString()
    reduced, _ = peaks(graph, LAYER)
    assert "Neg" not in {node.op_type for node in reduced.graph}
    assert ir.to_proto(graph).SerializeToString() == before


@pytest.mark.parametrize("zero", [0, 128])
def test_quantised_values_come_in_real_units(zero):
    text = """q = QuantizeLinear(x, scale, zero) layer = MaxPool <kernel_shape = [2, 2]> (q)
        end = DequantizeLinear(layer, scale, zero)"""
    graph = model(text, ["N", 3, 5, 5], {"scale": np.float32(0.05), "zero": np.uint8(zero)})
    x = np.random.default_rng(0).uniform(-3, 3, (2, 3, 5, 5)).astype(np.float32)
    real, whole = found(graph, [Reduced("end", 4), *LAYER], x)
    np.testing.assert_allclose(whole[0], real[0], rtol=1e-6)
    np.testing.assert_array_equal(whole[2], real[2])


def test_names_that_the_model_uses_already_are_left_alone():
    taken = "onnxviz.peaks0.0"
    graph = model(ECHO.replace("layer", f'"{taken}"'), ["N", 5, 6, 9])
    hold(*found(graph, [Reduced(taken, 4)], MAPS), MAPS)


def test_what_cannot_be_reduced_is_refused():
    graph = echo(2, 3, 3)
    with pytest.raises(ModelUnsuitable, match="5 dimensions"):
        peaks(graph, [Reduced("layer", 5)])
    with pytest.raises(UnknownLayer, match="did you mean 'layer'"):
        peaks(graph, [Reduced("layr", 4)])


# --- features, against means over whole feature maps -----------------------------------------------

FORMS = {
    "opset 7": ({"opset": 7}, "maps", 1e-5, 1e-3),
    "newest opset": ({"opset": 24}, "maps", 1e-5, 1e-3),
    "fp16": ({"dtype": HALF}, "maps", 2e-3, 1e-3),
    "NHWC": ({"layout": "NHWC"}, "maps", 1e-5, 1e-3),
    "channels last": ({}, "turned", 1e-5, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_map_is_averaged_over_its_places(form):
    options, layer, rtol, atol = FORMS[form]
    net, images, last = load(**options), photos(3), layer == "turned"
    made = pooled(net.model, layer, 4, channels_last=last)
    got = compile_model(made, provider="cpu")({net.input.name: net.prepare(images)})
    maps = net.activations(images, layer)[layer]
    assert list(got) == [FEATURES]
    assert got[FEATURES].dtype == np.float32
    np.testing.assert_allclose(
        got[FEATURES], maps.mean(axis=(1, 2) if last else (2, 3)), rtol=rtol, atol=atol
    )


def test_a_vector_stays_as_it_is_and_outputs_are_kept():
    net, images = load(), photos(3)
    made = pooled(net.model, "end", 2, keep=["end"])
    got = compile_model(made, provider="cpu")({net.input.name: net.prepare(images)})
    np.testing.assert_array_equal(got[next(iter(got))], got["end"])


def test_the_graph_is_valid_and_holds_nothing_behind_the_layer():
    net = load()
    proto = ir.serde.serialize_model(pooled(net.model, "active", 4))
    onnx.checker.check_model(proto, full_check=True)
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds == {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Identity"}
    assert [value.name for value in net.model.graph.outputs] == ["end"]  # the model itself is as it was


def test_what_has_no_features_is_refused():
    net = load()
    with pytest.raises(ModelUnsuitable, match="3 dimensions"):
        pooled(net.model, "maps", 3)
    with pytest.raises(UnknownLayer):
        pooled(net.model, "nowhere", 4)
