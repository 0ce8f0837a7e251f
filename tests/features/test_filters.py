import networks
import numpy as np
import pytest

import onnxviz
from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.features import filters
from onnxviz.figures import grids


def test_first_layer_filters_are_the_files_own_weights(net):
    """Asked for by nothing, by the convolution's name, or by its activation's."""
    weight = next(node for node in net.model.graph if node.op_type == "Conv").inputs[1].const_value.numpy()
    for name in (None, "stem", "stem.relu6"):
        result = onnxviz.filters(net, name)
        np.testing.assert_array_equal(result.values, weight)
        assert (result.order, result.layer, result.picture().mode) == ("RGB", "stem", "RGB")


def test_filters_with_batchnorm_folded_in_are_more_than_grey(net):
    """The strongest filter is 90 times the median's: on one scale most tiles are grey."""
    picture = np.asarray(onnxviz.filters(net).picture()).astype(int)
    above, below = ((np.ptp(half, axis=-1) > 60).mean() for half in np.array_split(picture, 2))
    assert above > max(0.15, 2 * below)


def test_each_filter_has_its_own_scale_where_one_drowns_the_others(monkeypatch):
    calls, plain = [], grids.tiles

    def tiles(pictures, **more):
        calls.append(([int(one[0, 0, 0]) for one in pictures], more))
        return plain(pictures, **more)

    monkeypatch.setattr(grids, "tiles", tiles)
    weights = np.zeros((3, 3, 2, 2), np.float32)
    weights[:, 0, 0, 0] = 18, -0.2, 1e-8
    filters.Filters(values=weights, manifest={}, layer="stem", order="RGB").picture()
    (together, _), (own, more) = calls
    assert (own, more["labels"]) == ([255, 0, 128], ["±18", "±0.2", "dead"])
    assert together == [255, 126, 128]
    calls.clear()
    weights[:, 0, 0, 0] = 18, -17, 16
    filters.Filters(values=weights, manifest={}, layer="stem", order="RGB").picture()
    ((_, more),) = calls
    assert "on one scale" in more["title"]


def test_deeper_filters_are_grey_tiles(net):
    result = onnxviz.filters(net, "blocks.1.expand")
    assert result.values.shape == (96, 16, 1, 1)
    assert result.order is None
    pixels = np.asarray(result.picture()).astype(int)
    assert np.ptp(pixels, axis=-1).max() < 24  # the lettering is not quite grey


def test_what_is_no_convolution_names_the_first(net):
    with pytest.raises(ModelUnsuitable, match=r"'logits' \(Gemm\).*first convolution is 'stem'"):
        onnxviz.filters(net, "logits")
    with pytest.raises(UnknownLayer):
        onnxviz.filters(net, "nowhere")
    made = onnxviz.load(networks.bare("squeezenet"), provider="cpu")  # weights that the graph makes
    assert onnxviz.filters(made).values.shape[1] == 3


@pytest.mark.parametrize("form", ["fp16", "qdq", "qoperator"])
def test_weights_are_found_however_they_are_stored(form):
    plain = networks.tiny_cnn()
    wanted = onnxviz.filters(onnxviz.load(plain, provider="cpu")).values
    found = onnxviz.filters(onnxviz.load(getattr(networks, form)(plain), provider="cpu")).values
    step = 2 * np.abs(wanted).max() / 255
    np.testing.assert_allclose(found, wanted, atol=step)


@pytest.mark.parametrize("zero", [np.uint8(200), np.array([90, 200], np.uint8)], ids=["one", "a filter"])
def test_codes_whose_scale_stands_behind_their_sums_are_real_numbers(zero):
    """As ONNX Runtime's dynamic quantiser writes a convolution; the codes themselves have other signs."""
    codes = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3)).astype(np.uint8)
    model = networks.written(
        """x, s, z = DynamicQuantizeLinear (image)
        sums = ConvInteger (x, w, z, wz)
        wide = Cast <to = 1> (sums)
        both = Mul (s, ws)
        conv = Mul (wide, both)
        pool = GlobalAveragePool (conv)
        logits = Flatten (pool)""",
        {"image": ("N", 3, 8, 8)},
        {"logits": ("N", 2)},
        {"w": codes, "wz": zero, "ws": np.float32(0.02)},
    )
    found = onnxviz.filters(onnxviz.load(model, preprocess="unit", provider="cpu")).values
    wanted = (codes.astype(np.float32) - zero.astype(np.float32).reshape(-1, 1, 1, 1)) * 0.02
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_blue_first_networks_show_true_colours():
    plain = networks.tiny_cnn()
    rgb = onnxviz.filters(onnxviz.load(plain, preprocess="imagenet", provider="cpu"))
    bgr = onnxviz.filters(onnxviz.load(plain, preprocess="caffe", provider="cpu"))
    np.testing.assert_array_equal(rgb.values, bgr.values)
    assert bgr.order == "BGR"
    assert np.asarray(rgb.picture()).tobytes() != np.asarray(bgr.picture()).tobytes()
