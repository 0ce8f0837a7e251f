"""The pieces of `fool`: objectives, the way between pixels and input, bounds after rounding, the picture's frame."""

from __future__ import annotations

import numpy as np
import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz.image.preprocessing import PRESETS, Preprocessing
from onnxviz.synthesis.fool import frame
from onnxviz.synthesis.fool_attack import Budget, by_pixels, log_probability, margin, to_pictures, to_planes

RECIPES = {
    "crop": PRESETS["imagenet"].override(size=32),
    "bgr": PRESETS["caffe"].override(size=(24, 40)),
    "nhwc": PRESETS["tensorflow"].override(size=32, layout="NHWC"),
    "pad": PRESETS["imagenet"].override(size=32, resize="pad"),
    "squash": Preprocessing((20, 30), resize="squash", crop_fraction=0.8, interpolation="bicubic"),
    "grey": PRESETS["unit"].override(size=28, channels="L"),
    "rgba": PRESETS["unit"].override(size=28, channels="RGBA"),
    "own": PRESETS["unit"],
}


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(tiny_cnn(), preprocess="unit", provider="cpu")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).random((3, 3, 32, 32), np.float32)


def test_the_objectives_are_what_they_are_called(small, x):
    """The margin's gradient is that of two logits: the target's, and the best of the others."""
    target, name = np.array([4, 0, 9]), f"{small.input.name}.gradient"
    logits = small.run(x, ["logits"])["logits"].astype(np.float64)
    picked, total = logits[np.arange(3), target], np.log(np.exp(logits).sum(axis=1))
    logits[np.arange(3), target] = -np.inf
    by_margin = small.gradients(margin())(x, {"target": target})
    np.testing.assert_allclose(by_margin["objective"], picked - logits.max(axis=1), rtol=1e-5, atol=1e-6)
    found = small.gradients(log_probability())(x, {"target": target})["objective"]
    np.testing.assert_allclose(found, picked - total, rtol=1e-5, atol=1e-6)
    of = small.gradients(onnxviz.objectives.logit(onnxviz.objectives.FED))
    one, other = (of(x, {"target": index})[name] for index in (target, logits.argmax(axis=1)))
    np.testing.assert_allclose(by_margin[name], one - other, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", RECIPES)
def test_the_gradient_by_pixels_is_the_adjoint_of_normalising(name):
    recipe, random = RECIPES[name], np.random.default_rng(1)
    pictures = random.integers(0, 255, (2, 6, 5, 3)).astype(np.uint8)
    pictures = np.repeat(pictures[..., :1], 3, axis=3) if name == "grey" else pictures
    planes = to_planes(recipe, pictures)
    np.testing.assert_array_equal(to_pictures(planes), pictures)
    step = random.normal(size=planes.shape).astype(np.float32)
    moved, before = (recipe.normalise(to_pictures(p)).astype(np.float64) for p in (planes + step, planes))
    cotangent = random.normal(size=moved.shape).astype(np.float32)
    expected = ((moved - before) * cotangent).sum()
    assert (step * by_pixels(recipe, cotangent)).sum() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [(50, 77), (77, 50), (31, 33), (300, 20)])
def test_a_saved_picture_is_seen_as_it_was_made(name, size):
    recipe, random = RECIPES[name], np.random.default_rng(2)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    found = frame(recipe, image)
    np.testing.assert_array_equal(recipe.view(found.whole), recipe.view(image))
    np.testing.assert_array_equal(found.view, recipe.view(image))
    view = random.integers(0, 256, found.view.shape, np.uint8)
    view = np.repeat(view[..., :1], 3, axis=2) if name == "grey" else view
    if found.moves is not None:
        view = np.where(found.moves[..., None], view, found.view)
        assert found.moves.any()
        assert not found.moves.all() or size[0] == size[1]
    whole = found.with_view(view)
    np.testing.assert_array_equal(recipe.view(whole), view)
    np.testing.assert_array_equal(found.whole, frame(recipe, image).whole)  # left alone


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("bound", [1.0, 3.4, 20.0, 150.0])
def test_rounding_keeps_the_bound(bound, norm):
    random = np.random.default_rng(3)
    start = random.integers(0, 256, (4, 9, 9, 3)).astype(np.float32)
    budget = Budget(norm, bound)
    there = budget.within(start, start + random.normal(0, 40, start.shape))
    change = budget.rounded(start, there) - start
    np.testing.assert_array_equal(change, np.rint(change))
    assert 0 <= (start + change).min() < (start + change).max() <= 255
    size = np.abs(change).max() if norm == "linf" else np.sqrt((change**2).sum(axis=(1, 2, 3))).max()
    # No more is given away than rounding must: near the bound where it is large.
    assert (0.9 * bound if bound >= 20 and norm == "l2" else 0) <= size <= bound


def test_tiny_gradients_still_have_a_direction():
    gradient = np.full((1, 2, 2, 1), 1e-30, np.float32)
    np.testing.assert_allclose(Budget("l2").direction(gradient), 0.5, rtol=1e-5)
    np.testing.assert_array_equal(Budget("linf").direction(-gradient), -1)
    assert not Budget("l2").direction(np.zeros((1, 2, 2, 1), np.float32)).any()
