"""The way back from a network's input to pixels, for gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from onnxviz.image.recipe import Preprocessing

# ITU-R 601, as image/recipe.py has it.
_LUMA: Final = np.array([19595, 38470, 7471], np.float64) / 65536


def pixel_gradient(recipe: Preprocessing, gradient: np.ndarray) -> np.ndarray:
    """The gradient by a network's input as the gradient by the pixels that `recipe.normalise` was given.

    gradient   (N, C, h, w) or (N, h, w, C), as the recipe has it
    returns    (N, h, w, 3) float32, RGB, by pixels of 0 to 255
    """
    planes = np.moveaxis(gradient, 1, 3) if recipe.layout == "NCHW" else gradient
    scaled: np.ndarray = planes * recipe.scale
    if recipe.channels == "L":
        return scaled * _LUMA.astype(np.float32)
    if recipe.channels == "BGR":
        return scaled[..., ::-1]
    return scaled[..., :3]  # alpha is no colour
