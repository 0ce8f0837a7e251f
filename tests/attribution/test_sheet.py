"""Several methods side by side."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz import objectives
from onnxviz.attribution.methods import METHODS
from onnxviz.errors import UsageError
from tests import toys
from tests.stopped import stopped


def test_every_cell_is_what_the_method_gives_alone(toy) -> None:
    pictures = [toys.photo(0), toys.photo(1)]
    methods = ["input-x-gradient", "smoothgrad", "grad-cam"]
    found = onnxviz.attributions(toy, pictures, methods, target=["red", 1], samples=3, seed=2)
    assert found.values.shape == (2, 3, 12, 12)
    assert found.methods == methods
    for row, picture, target in zip(range(2), pictures, (0, 1), strict=True):
        alone = onnxviz.saliency(toy, picture, target=target, method="smoothgrad", samples=3, seed=2)
        np.testing.assert_allclose(found.values[row, 1], alone.values, rtol=1e-6)
        cam = onnxviz.cam(toy, picture, target=target)
        np.testing.assert_allclose(found.values[row, 2], cam.values, rtol=1e-5, atol=1e-7)
        assert found.grid[row][0].target == target
    first, second = found.manifest["figures"]["pictures"]
    assert second["label"] == "green"
    assert first["methods"]["smoothgrad"]["parameters"]["samples"] == 3


def test_all_is_every_method(toy) -> None:
    found = onnxviz.attributions(toy, toys.photo(), "all", samples=2, steps=2)
    assert found.methods == list(METHODS)
    assert found.values.shape == (1, len(METHODS), 12, 12)


def test_pictures_that_are_files_keep_their_names_and_are_cut_once(net, photo_files) -> None:
    """The view of a view would be another cut, for a network that sees the middle of a picture."""
    cropped = onnxviz.load("efficientnet-lite0", provider="cpu", preprocess="efficientnet-lite")
    found = onnxviz.attributions(cropped, photo_files[:2], "saliency")
    assert found.names == ["chelsea", "coffee"]
    alone = onnxviz.saliency(cropped, photo_files[0])
    np.testing.assert_array_equal(found.grid[0][0].image, alone.image)
    assert np.corrcoef(found.values[0, 0].ravel(), alone.values.ravel())[0, 1] > 0.999


def test_a_channel_is_explained_by_every_method(toy) -> None:
    by_layer, by_objective = (
        onnxviz.attributions(toy, toys.photo(), ["saliency", "grad-cam"], **options)
        for options in ({"layer": "features", "channel": 1}, {"objective": objectives.channel("features", 1)})
    )
    assert [one.target for one in by_layer.grid[0]] == [None, None]
    np.testing.assert_allclose(by_layer.values, by_objective.values)


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        (["saliencey"], {}, "did you mean 'saliency'"),
        ([], {}, "got none"),
        (["guided", "guided"], {}, "each once; got guided, guided"),
        (["guided"], {"steps": 3}, "takes 'steps'"),
    ],
)
def test_wrong_usage_is_a_typed_error(toy, methods, options, words) -> None:
    with pytest.raises(UsageError, match=words):
        onnxviz.attributions(toy, toys.photo(), methods, **options)


def test_ctrl_c_keeps_the_methods_that_are_done(toy) -> None:
    given = toy, [toys.photo()] * 9, ["guided", "smoothgrad"]
    partial = stopped(onnxviz.attributions, *given, batch=1, when=lambda _, __, what: what == "samples")
    assert partial.methods == ["guided"]
    assert partial.values.shape == (9, 1, 12, 12)
