"""How far explanations move, against maps of the techniques themselves and scipy's rank correlation."""

from __future__ import annotations

import json

import numpy as np
import onnx_ir as ir
import pytest
import scipy.stats
from skimage import data

import onnxviz
from onnxviz.comparing.drift import BELOW_FLOOR, drift
from onnxviz.errors import UsageError
from onnxviz.files import json_bytes
from onnxviz.graph.randomise import randomise
from tests.networks import edited

PHOTOS = ("chelsea", "coffee", "rocket")


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [getattr(data, name)() for name in PHOTOS]


@pytest.fixture(scope="module")
def coarse(files):
    """The bundled network with one scale for all weights of a layer."""
    return onnxviz.load(files("QDQ", per_channel=False), provider="cpu")


def _map(values: np.ndarray) -> np.ndarray:
    return values.reshape(28, 8, 28, 8).mean(axis=(1, 3))


def test_the_same_file_twice_does_not_drift(net, photos):
    found = drift(net, net, photos[:2], draws=4)
    one = found.methods["grad-cam"]
    assert one.r == pytest.approx(1.0)
    assert one.overlap == 1.0
    assert one.drifted.count == 0
    assert 0.5 < one.floor <= one.own < 1
    assert found.pictures == 2


def test_figures_are_those_of_the_maps(net, coarse, photos):
    found = drift(net, coarse, photos, draws=4)
    table = found.table
    assert len(table["picture"]) == found.pictures > 0
    for row, name in enumerate(table["picture"]):
        picture = photos[int(name.split()[1])]
        target = table["class"][row]
        assert target == net.predict(picture)[0][0].index == coarse.predict(picture)[0][0].index
        maps = [_map(onnxviz.cam(one, picture, target=target).values) for one in (net, coarse)]
        wanted = scipy.stats.spearmanr(maps[0].ravel(), maps[1].ravel()).statistic
        assert table["r"][row] == pytest.approx(wanted, abs=0.01)  # sums in another order break ties
        assert table["drifted"][row] == (table["r"][row] < table["floor"][row] - BELOW_FLOOR)
    one = found.methods["grad-cam"]
    assert one.r == pytest.approx(np.median(table["r"]))
    assert one.drifted.count == sum(table["drifted"])
    assert one.r < one.own
    json.loads(json_bytes(found.to_dict()))


def test_the_worst_come_first_with_both_maps(net, coarse, photos):
    found = drift(net, coarse, photos, methods=("grad-cam", "gradient"), draws=2)
    for method in ("grad-cam", "gradient"):
        rows = [i for i, one in enumerate(found.table["method"]) if one == method]
        gaps = [found.table["floor"][i] - found.table["r"][i] for i in rows]
        order = [found.table["picture"][rows[i]] for i in np.argsort(gaps)[::-1]]
        assert list(found.names[method]) == order
        for ours, theirs in found.worst[method]:
            assert ours.method == theirs.method == method
            assert not np.array_equal(ours.values, theirs.values)
        sheet = found.sheet(method)
        assert sheet is not None
        assert sheet.width > 400
    assert found.sheet("saliency") is None


def test_maps_are_taken_at_the_layer_that_was_matched(net, photos):
    default = onnxviz.cam(net, photos[0]).manifest["parameters"]["layers"]
    other = next(
        layer.name
        for layer in reversed(net.layers)
        if len(layer.shape) == 4 and layer.shape[2] != 1 and layer.name != default[0]
    )
    moved = drift(net, net, photos[:1], layers={default[0]: other}, draws=2)
    (pair,) = moved.worst["grad-cam"]
    assert pair[0].manifest["parameters"]["layers"] == default
    assert pair[1].manifest["parameters"]["layers"] == [other]


def test_pictures_that_change_their_class_count_too(net, photos):
    other = onnxviz.load(ir.to_proto(randomise(net.model)), preprocess=net.preprocessing, provider="cpu")
    found = drift(net, other, photos[:1], draws=2)
    assert (found.pictures, found.others) == (1, 0)
    assert found.table["class"] == [int(net.predict(photos[:1])[0][0].index)]
    assert found.methods["grad-cam"].drifted.count == 1


def test_pictures_without_scores_are_left_out(net, photos):
    model = ir.to_proto(net.model)
    bias = next(one.name for one in model.graph.initializer if list(one.dims) == [1000])
    broken = edited(model, **{bias: lambda b: np.full_like(b, np.nan)})
    found = drift(
        net, onnxviz.load(broken, preprocess=net.preprocessing, provider="cpu"), photos[:1], draws=2
    )
    assert (found.pictures, found.others) == (0, 1)
    assert "NaN" in found.reason and found.methods["grad-cam"].r is None


def test_without_classes_it_does_not_apply(files):
    one = onnxviz.load(files.small("segmenter"), preprocess="tensorflow", provider="cpu")
    found = drift(one, one, [np.zeros((64, 64, 3), np.uint8)])
    assert found.reason
    assert not found.methods
    assert "not compared" in found.sentences()[0]


def test_bad_arguments_are_told(net, photos):
    with pytest.raises(UsageError, match="grad-cam"):
        drift(net, net, photos, methods=("gradcam",))
    with pytest.raises(UsageError, match="draws=1"):
        drift(net, net, photos, draws=1)
