"""Maximally activating patches against loops over all images, one channel at a time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.errors import ImageRejected, ModelUnsuitable, UnknownLayer, UsageError
from onnxviz.features.patch_pictures import MOST_BLOCKS
from onnxviz.features.patches import patches
from onnxviz.graph.layers import field
from onnxviz.image.preprocessing import Preprocessing
from tests.features.patch_toys import SIDE, load, network, photos


def by_hand(net, images, layer, k):
    """Scores (C, k), image (C, k) and place (C, k, 2) by looking at whole feature maps."""
    maps = net.activations(list(images), layer)[layer]
    if maps.ndim == 2:
        maps = maps[:, :, None, None]
    best = maps.max(axis=(2, 3))
    order = np.argsort(-best, axis=0, kind="stable")[:k].T
    scores = np.take_along_axis(best.T, order, axis=1)
    flat = maps.reshape(*maps.shape[:2], -1).argmax(axis=2)
    place = np.take_along_axis(flat.T, order, axis=1)
    return scores, order, np.stack(np.divmod(place, maps.shape[3]), axis=2)


FORMS = {
    "plain": {},
    "opset 7": {"opset": 7},
    "newest opset": {"opset": 24},
    "NHWC": {"layout": "NHWC"},
    "fp16": {"dtype": TensorProto.FLOAT16},
    "uint8 NHWC": {"dtype": TensorProto.UINT8, "layout": "NHWC"},
    "batch of 1": {"batch": 1},
    "batch of 4": {"batch": 4},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", ["maps", "active", "pooled", "end"])
def test_it_is_what_whole_feature_maps_give(form, layer):
    net, images = load(**FORMS[form]), photos()
    result = patches(net, images, layer, top=5, batch=None if form == "batch of 4" else 3)
    scores, index, place = by_hand(net, images, layer, 5)
    np.testing.assert_allclose(result.scores, scores, rtol=1e-3 if form == "fp16" else 1e-5)
    np.testing.assert_array_equal(result.index, index)
    np.testing.assert_array_equal(result.positions, place)
    assert result.scores.dtype == np.float32
    assert result.values.shape == (4, 5)


def test_channels_last_layers_are_read_by_channel():
    net, images = load(), photos()
    turned, plain = (patches(net, images, layer, top=3) for layer in ("turned", "pooled"))
    np.testing.assert_array_equal(turned.scores, plain.scores)
    np.testing.assert_array_equal(turned.positions, plain.positions)
    np.testing.assert_array_equal(turned.boxes, plain.boxes)


def test_pooled_features_with_channels_last():
    model = onnx.load_from_string(network())
    model.graph.node.append(helper.make_node("Transpose", ["mean"], ["last"], perm=[0, 2, 3, 1]))
    model.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, ["N", 1, 1, 4]))
    net = onnxviz.load(model, preprocess="raw", provider="cpu")
    images = photos()
    np.testing.assert_array_equal(patches(net, images, "last").scores, patches(net, images, "end").scores)


def test_the_box_is_all_that_the_unit_sees():
    """Whatever happens outside the box does not reach the unit; every pixel inside does."""
    net, images = load(), photos()
    result = patches(net, images, "pooled", top=2)
    y, x = result.positions[1, 0]
    picture = images[result.index[1, 0]].astype(np.float32)
    top, left, bottom, right = np.clip(result.boxes[1, 0], 0, SIDE)

    def unit(changed):
        tensor = np.ascontiguousarray(changed.transpose(2, 0, 1)[None])
        return net.run(tensor, ["pooled"])["pooled"][0, 1, y, x]

    outside = picture[..., 0].copy() * 0 + 255
    hidden = np.repeat(outside[..., None], 3, axis=2)
    hidden[top:bottom, left:right] = picture[top:bottom, left:right]
    assert unit(hidden) == unit(picture) == result.scores[1, 0]
    linear = photos(1)[0].astype(np.float32)  # `maps` is linear: there every pixel counts
    maps = patches(net, images, "maps", top=1)
    y, x = maps.positions[0, 0]
    top, left, bottom, right = np.clip(maps.boxes[0, 0], 0, SIDE)
    base = net.run(np.ascontiguousarray(linear.transpose(2, 0, 1)[None]), ["maps"])["maps"][0, 0, y, x]
    for row, column in ((top, left), (top, right - 1), (bottom - 1, left), (bottom - 1, right - 1)):
        moved = linear.copy()
        moved[row, column] += 50
        now = net.run(np.ascontiguousarray(moved.transpose(2, 0, 1)[None]), ["maps"])["maps"][0, 0, y, x]
        assert now != base


def test_boxes_are_those_of_the_layer():
    net = load()
    result = patches(net, photos(), "pooled", top=3)
    layer = net.layer("pooled")
    for row in range(4):
        for rank in range(3):
            assert tuple(result.boxes[row, rank]) == field(layer, *result.positions[row, rank].tolist())
    whole = patches(net, photos(), "end", top=1)
    assert (whole.boxes == [0, 0, SIDE, SIDE]).all()


def test_a_cut_layer_ranks_what_ties_by_what_was_before_the_cut():
    images = photos(30)
    clipped, plain = load(clip=0.01), load()
    result = patches(clipped, images, "active", top=6)
    scores, index, place = by_hand(plain, images, "maps", 6)
    assert (result.scores[:3] == np.float32(0.01)).all()  # they all tie
    np.testing.assert_allclose(result.scores, np.clip(scores, 0, 0.01), rtol=1e-5)
    np.testing.assert_array_equal(result.index, index)
    np.testing.assert_array_equal(result.positions, place)
    np.testing.assert_allclose(result.layers[0].unclipped, scores, rtol=1e-5)


def test_channels_and_layers_in_one_pass(monkeypatch):
    net, images = load(), photos()
    alone = {name: patches(net, images, name, top=2) for name in ("maps", "end")}
    both = patches(net, images, ["maps", "end", "maps"], channel=[3, 1], top=2)
    assert [one.name for one in both.layers] == ["maps", "end"]
    for name, one in alone.items():
        np.testing.assert_array_equal(both[name].scores, one.scores[[3, 1]])
        np.testing.assert_array_equal(both[name].index, one.index[[3, 1]])
        assert both[name].channels.tolist() == [3, 1]
    assert both.values.shape == (4, 2)
    with pytest.raises(UsageError, match="several layers"):
        _ = both.scores
    with pytest.raises(UsageError, match="'maps', 'end'"):
        _ = both["pooled"]
    with pytest.raises(UsageError, match="has 3, 1"):
        both.sheet(2, layer="maps")


def test_the_same_image_twice_ties_in_order():
    net, images = load(), photos(4)
    result = patches(net, images * 2, "maps", top=8)
    first, second = result.index[:, ::2], result.index[:, 1::2]
    np.testing.assert_array_equal(second, first + 4)


def test_fewer_images_than_asked():
    result = patches(load(), photos(2), "maps", top=5)
    assert (result.index[:, 2:] == -1).all()
    assert np.isnan(result.scores[:, 2:]).all()
    assert len(result.table()["score"]) == 4 * 2
    assert result.sheet(0).size[0] > 100


def test_nan_weights_are_counted():
    model = onnx.load_from_string(network())
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[2] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    result = patches(onnxviz.load(model, preprocess="raw", provider="cpu"), photos(), "maps", top=2)
    assert result.layers[0].undefined.tolist() == [0, 0, 17, 0]
    assert (result.index[2] == -1).all()
    assert result.picture()


def test_dynamic_size_each_picture_keeps_its_own():
    model = onnx.load_from_string(network())
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]
    net = onnxviz.load(model, preprocess=Preprocessing(mean=(0,) * 3, std=(1 / 255,) * 3), provider="cpu")
    net.preprocessing = net.preprocessing.override(size="own")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20 + 4 * (i % 3), 30, 3), dtype=np.uint8) for i in range(9)]
    result = patches(net, images, "maps", top=9)
    for row in range(4):
        for rank in range(9):
            image = images[result.index[row, rank]]
            tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32))
            maps = net.run(tensor, ["maps"])["maps"][0, row]
            assert maps.max() == pytest.approx(result.scores[row, rank], rel=1e-5)
            assert maps[tuple(result.positions[row, rank])] == maps.max()
            np.testing.assert_array_equal(result.layers[0].sizes[row, rank], image.shape[:2])


def test_many_channels_get_an_overview_and_the_sheets_asked_for(net, photo_files):
    name = next(layer.name for layer in net.layers if len(layer.shape) == 4 and layer.shape[1] > MOST_BLOCKS)
    everything = patches(net, photo_files, name, top=2)
    assert not everything.sheets
    assert everything.picture().size[0] > 400
    some = patches(net, photo_files, name, channel=[7, 90], top=2)
    assert some.sheets == [(name, 7), (name, 90)]
    np.testing.assert_array_equal(some.scores, everything.scores[[7, 90]])


def test_the_cat_fires_the_cat_logit(net, photo_files):
    result = patches(net, photo_files, net.head.logits, channel=285, top=4)
    assert result.name_of(result.index[0, 0]).endswith("chelsea.png")
    assert (np.diff(result.scores[0]) <= 0).all()


# --- Ctrl-C, errors, the command --------------------------------------------------------------


def test_wrong_usage():
    net = load()
    with pytest.raises(UnknownLayer):
        patches(net, photos(1), "mops")
    with pytest.raises(UsageError, match="channels are 0 to 3"):
        patches(net, photos(1), "maps", channel=[2, 4])
    with pytest.raises(UsageError, match="channels are 0 to 3"):
        patches(net, photos(1), "end", channel=-1)
    with pytest.raises(UsageError, match="top"):
        patches(net, photos(1), "maps", top=0)
    with pytest.raises(UsageError, match="no layer"):
        patches(net, photos(1), [])


def test_no_readable_image(tmp_path):
    with pytest.raises(ImageRejected, match="no picture"):
        patches(load(), tmp_path, "maps")
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(ImageRejected, match="none of the 1 images"):
        patches(load(), tmp_path, "maps")


def test_a_layer_without_channels_is_refused():
    model = onnx.load_from_string(network())
    model.graph.node.append(helper.make_node("Reshape", ["end", "five"], ["deep"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 2, 1, 1]), "five"))
    model.graph.output.append(helper.make_tensor_value_info("deep", TensorProto.FLOAT, ["N", 2, 2, 1, 1]))
    with pytest.raises(ModelUnsuitable, match="5 dimensions"):
        patches(onnxviz.load(model, preprocess="raw", provider="cpu"), photos(1), "deep")
