"""The gradient by pixels is the adjoint of normalising, for every form of input."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.image.adjoint import pixel_gradient
from onnxviz.image.preprocess import PRESETS


@pytest.mark.parametrize(
    "recipe",
    [
        PRESETS["imagenet"],
        PRESETS["caffe"],
        PRESETS["tensorflow"].override(layout="NHWC"),
        PRESETS["unit"].override(channels="L"),
        PRESETS["unit"].override(channels="RGBA"),
    ],
    ids=["RGB", "BGR", "NHWC", "L", "RGBA"],
)
def test_inner_products_agree(recipe):
    random = np.random.default_rng(0)
    pictures = random.uniform(0, 255, (2, 6, 5, 3)).astype(np.float32)
    step = random.normal(0, 5, pictures.shape).astype(np.float32)
    moved = recipe.normalise(pictures + step).astype(np.float64) - recipe.normalise(pictures)
    cotangent = random.normal(size=moved.shape).astype(np.float32)
    found = pixel_gradient(recipe, cotangent)
    assert found.shape == pictures.shape
    assert found.dtype == np.float32
    assert (found * step).sum() == pytest.approx((moved * cotangent).sum(), rel=1e-3)
