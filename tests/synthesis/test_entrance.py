"""The way from picture to network input inside the graph is the library's own preprocessing, and its adjoint one."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.image.preprocess import PRESETS, Preprocessing
from onnxviz.image.recipe import LUMA
from onnxviz.synthesis.step import centre, enter
from tests.synthesis.pieces import run

RNG = np.random.default_rng(0)
RECIPES = {
    "imagenet": PRESETS["imagenet"],
    "lite": PRESETS["efficientnet-lite"],
    "BGR": Preprocessing(mean=(0.4, 0.45, 0.48), std=(0.2, 0.21, 0.22), channels="BGR"),
    "unit": Preprocessing(),
    "grey": Preprocessing(mean=(0.5,), std=(0.25,), channels="L"),
    "alpha": Preprocessing(mean=(0.5,) * 4, std=(0.25,) * 4, channels="RGBA"),
    "NHWC": Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.3, 0.3, 0.3), layout="NHWC"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_as_the_recipe_does(name: str) -> None:
    recipe = RECIPES[name].override(size="own")
    pictures = RNG.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    colour = centre(recipe)
    x = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2) / 255 - colour[:, None, None], dtype=np.float32)
    wanted = recipe.normalise(pictures)
    if name == "grey":  # one plane is moved, and the network sees it as it is
        x = np.ascontiguousarray(np.tensordot(LUMA, x, axes=(0, 1))[:, None], dtype=np.float32)
    (found,) = run(lambda op, x: [enter(op, x, recipe)[0]], x=x)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    g = RNG.standard_normal(found.shape).astype(np.float32)
    (back,) = run(lambda op, x, g: [enter(op, x, recipe)[1](g)], x=x, g=g)
    (zero,) = run(lambda op, x: [enter(op, x, recipe)[0]], x=np.zeros_like(x))
    assert float(((found - zero) * g).sum()) == pytest.approx(float((x * back).sum()), rel=1e-3, abs=1e-3)


def test_the_centre_is_the_networks_zero_or_grey() -> None:
    np.testing.assert_allclose(centre(RECIPES["BGR"]), [0.48, 0.45, 0.4], rtol=1e-6)
    np.testing.assert_allclose(centre(RECIPES["grey"]), [0.5])
    np.testing.assert_allclose(centre(RECIPES["unit"]), [0.5] * 3)
