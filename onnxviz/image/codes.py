"""Recipes for inputs of whole numbers: what pictures become where the file holds its input as uint8 or int8.

Converters for the edge (TFLite's, ONNX Runtime's) move the quantiser of the input out of the file: what it takes are
codes, and what these mean stands in the DequantizeLinear or QLinearConv behind it. A recipe of real numbers becomes one
of codes: real / scale + zero point, rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.errors import PreprocessingRejected, UsageError
from onnxviz.image.preprocessing import PRESETS, Preprocessing

if TYPE_CHECKING:
    from onnxviz.graph.quantisers import Quantiser

# Ends of a range are those of a recipe within this share of it: calibration sees no pure blue.
_SAME_RANGE: Final = 0.12


def assumed(
    dtype: str, channels: int | None, held: Quantiser | None, scaled: bool
) -> tuple[Preprocessing | None, str]:
    """The recipe that is guessed where nothing says how pictures become the input, and what is told of it.

    held     what the codes mean to the file
    scaled   mean or std are given, which are for real numbers
    returns  None: pixels as they are, which of uint8 go without saying
    """
    if held is not None and scaled:
        return PRESETS["imagenet" if channels in (3, None) else "unit"], ""
    if held is not None and channels in (3, None):
        # Most others scale each colour alike, so that pixels as they are are their codes.
        ends, (low, high) = np.array([held.low, held.high]).reshape(-1), PRESETS["imagenet"].extent
        if np.abs(ends - (low, high)).max() <= _SAME_RANGE * (high - low):
            return PRESETS["imagenet"], (
                f", but its {dtype} input holds {ends[0]:.3g} to {ends[1]:.3g}: assuming 'imagenet'"
            )
    return None, "" if dtype == "uint8" else f", which is {dtype}: assuming pixels less 128"


def in_codes(recipe: Preprocessing, dtype: str, held: Quantiser | None, **changes: Any) -> Preprocessing:
    """What a recipe is for an input of this type, with these changes (`Recipe.override`).

    held     None: of a recipe of real numbers pixels as they are is all there is, and mean and std are for the input
    raises   UsageError where the codes hold too little of what the recipe gives
    """
    if held is None or held.scale is None or held.zero is None:
        return (recipe if recipe.codes is not None else recipe.override(dtype=dtype)).override(**changes)
    real = recipe.override(**changes)
    if real.codes is not None:
        return real
    if not any(real.bias) and np.allclose(real.scale, 1):
        return real.override(dtype=dtype)
    scale, zero = float(held.scale[0]), int(held.zero[0])
    pairs = list(zip(real.mean, real.std, strict=True))
    try:
        return replace(
            real,
            mean=tuple(mean - zero * scale * std for mean, std in pairs),
            std=tuple(scale * std for _, std in pairs),
            dtype=dtype,
        )
    except PreprocessingRejected as error:
        raise UsageError(
            f"the codes of the input are real numbers in steps of {scale:.3g}: {error}"
        ) from error
