"""Maximally activating patches against loops over all images, one channel at a time."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.errors import ImageRejected, ModelUnsuitable, UnknownLayer, UsageError
from onnxviz.features.patch_boxes import INDEX, NOBODY, Ranking
from onnxviz.features.patch_pictures import MOST_BLOCKS
from onnxviz.features.patches import patches
from onnxviz.graph.layers import field
from onnxviz.image.preprocessing import Preprocessing
from tests.features.patch_toys import SIDE, load, network, photos
from tests.toys import FORMS


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
    model = onnx.load_from_string(network())
    model.graph.node.append(helper.make_node("Transpose", ["mean"], ["last"], perm=[0, 2, 3, 1]))
    model.graph.output.append(helper.make_tensor_value_info("last", TensorProto.FLOAT, ["N", 1, 1, 4]))
    net = onnxviz.load(model, preprocess="raw", provider="cpu")
    turned, plain, last, end = (patches(net, photos(), one) for one in ("turned", "pooled", "last", "end"))
    for name in ("scores", "positions", "boxes"):
        np.testing.assert_array_equal(getattr(turned, name), getattr(plain, name))
    np.testing.assert_array_equal(last.scores, end.scores)


def test_the_box_is_all_that_the_unit_sees():
    """Whatever happens outside the box does not reach the unit; every pixel inside does."""
    net, images = load(), photos()

    def best(layer: str, channel: int):
        """The unit that answers most in any image, as a function of a picture, and its box."""
        result = patches(net, images, layer, top=2)
        y, x = result.positions[channel, 0]

        def unit(picture):
            tensor = np.ascontiguousarray(picture.astype(np.float32).transpose(2, 0, 1)[None])
            return net.run(tensor, [layer])[layer][0, channel, y, x]

        return unit, np.clip(result.boxes[channel, 0], 0, SIDE), result

    unit, (top, left, bottom, right), result = best("pooled", 1)
    picture = images[result.index[1, 0]]
    hidden = np.full_like(picture, 255)
    hidden[top:bottom, left:right] = picture[top:bottom, left:right]
    assert unit(hidden) == unit(picture) == result.scores[1, 0]
    unit, (top, left, bottom, right), _ = best("maps", 0)
    linear = photos(1)[0].astype(np.float32)  # `maps` is linear: there every pixel counts
    for row, column in itertools.product((top, bottom - 1), (left, right - 1)):
        moved = linear.copy()
        moved[row, column] += 50
        assert unit(moved) != unit(linear)


def test_boxes_are_those_of_the_layer():
    net = load()
    result, layer = patches(net, photos(), "pooled", top=3), net.layer("pooled")
    for place in np.ndindex(4, 3):
        assert tuple(result.boxes[place]) == field(layer, *result.positions[place].tolist())
    assert (patches(net, photos(), "end", top=1).boxes == [0, 0, SIDE, SIDE]).all()


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


def test_channels_and_layers_in_one_pass():
    net, images = load(), photos()
    both = patches(net, images, ["maps", "end", "maps"], channel=[3, 1], top=2)
    assert [one.name for one in both.layers] == ["maps", "end"]
    for name in ("maps", "end"):
        alone = patches(net, images, name, top=2)
        np.testing.assert_array_equal(both[name].scores, alone.scores[[3, 1]])
        np.testing.assert_array_equal(both[name].index, alone.index[[3, 1]])
        assert both[name].channels.tolist() == [3, 1]
    assert both.values.shape == (4, 2)
    for ask, words in (
        (lambda: both.scores, "several layers"),
        (lambda: both["pooled"], "'maps', 'end'"),
        (lambda: both.sheet(2, layer="maps"), "has 3, 1"),
    ):
        with pytest.raises(UsageError, match=words):
            ask()


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
    recipe = Preprocessing(mean=(0,) * 3, std=(1 / 255,) * 3).override(size="own")
    net = load(recipe, size="S")
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (20 + 4 * (i % 3), 30, 3), dtype=np.uint8) for i in range(9)]
    result = patches(net, images, "maps", top=9)
    for place in np.ndindex(4, 9):
        image = images[result.index[place]]
        tensor = np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32))
        maps = net.run(tensor, ["maps"])["maps"][0, place[0]]
        assert maps.max() == pytest.approx(result.scores[place], rel=1e-5)
        assert maps[tuple(result.positions[place])] == maps.max()
        np.testing.assert_array_equal(result.layers[0].sizes[place], image.shape[:2])


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


@pytest.mark.parametrize(
    ("layers", "options", "error", "words"),
    [
        ("mops", {}, UnknownLayer, "maps"),
        ("maps", {"channel": [2, 4]}, UsageError, "channels are 0 to 3"),
        ("end", {"channel": -1}, UsageError, "channels are 0 to 3"),
        ("maps", {"top": 0}, UsageError, "top"),
        ([], {}, UsageError, "no layer"),
    ],
)
def test_wrong_usage(layers, options, error, words):
    with pytest.raises(error, match=words):
        patches(load(), photos(1), layers, **options)


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


# --- the best k of a stream, against sorting everything ---------------------------------------


def fed(keys: np.ndarray, k: int, order=None, size: int = 3) -> Ranking:
    """A ranking that was given the rows of `keys` in chunks."""
    best = Ranking(keys.shape[1], k)
    order = np.arange(len(keys)) if order is None else order
    for start in range(0, len(keys), size):
        part = order[start : start + size]
        facts = np.zeros((len(part), keys.shape[1], 6), np.int64)
        facts[:, :, INDEX] = part[:, None]
        best.add(keys[part], keys[part] * 2, facts)
    return best


@pytest.mark.parametrize("size", [1, 4, 100])
def test_it_is_what_sorting_everything_gives(size):
    keys = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    best = fed(keys, 5, size=size)
    order = np.argsort(-keys, axis=0, kind="stable")[:5].T
    np.testing.assert_array_equal(best.facts[:, :, INDEX], order)
    np.testing.assert_array_equal(best.keys, np.sort(keys, axis=0)[::-1][:5].T)
    np.testing.assert_array_equal(best.scores, 2 * best.keys)


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_earlier_image_in_whatever_order_they_come(seed):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 3, (40, 4)).astype(np.float32)
    best = fed(keys, 6, order=random.permutation(40))
    np.testing.assert_array_equal(best.facts[:, :, INDEX], np.argsort(-keys, axis=0, kind="stable")[:6].T)


def test_fewer_images_than_places():
    best = fed(np.ones((2, 3), np.float32), 4)
    assert best.filled.tolist() == [[True, True, False, False]] * 3
    assert (best.facts[:, 2:] == NOBODY).all()
    assert np.isnan(best.scores[:, 2:]).all()


def test_nan_is_counted_and_never_ranked():
    keys = np.array([[np.nan, 1], [np.nan, 2], [-5, np.nan]], np.float32)
    best = fed(keys, 2)
    assert best.undefined.tolist() == [2, 1]
    assert best.facts[:, :, INDEX].tolist() == [[2, NOBODY], [1, 0]]
    assert np.isfinite(best.mean).all()


def test_mean_and_deviation_are_those_of_all_images():
    keys = (np.random.default_rng(1).normal(size=(1000, 3)) * 2 + 1e4).astype(np.float32)
    best = fed(keys, 2, size=7)
    np.testing.assert_allclose(best.mean, keys.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(best.deviation, keys.astype(np.float64).std(axis=0), rtol=1e-9)
    z = (keys.max(axis=0) - best.mean) / best.deviation
    np.testing.assert_allclose(best.standing_out(), z, rtol=1e-6)


def test_a_channel_that_never_changes_stands_out_nowhere():
    assert fed(np.zeros((9, 1), np.float32), 2).standing_out().tolist() == [0.0]
