"""Recipes for inputs of whole numbers, against what a quantiser makes of the real ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz.errors import UsageError
from onnxviz.graph.quantisers import Quantiser
from onnxviz.image.codes import assumed, in_codes
from onnxviz.image.preprocessing import PRESETS

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def held(low: float, high: float, dtype: str = "uint8") -> Quantiser:
    """What calibration would choose for these ends."""
    first = 0 if dtype == "uint8" else -128
    scale = (high - low) / 255
    return Quantiser(ir.DataType[dtype.upper()], np.array([scale]), np.array([round(first - low / scale)]))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("name", ["imagenet", "caffe", "tensorflow", "unit"])
def test_codes_are_what_a_quantiser_makes_of_the_real_numbers(name, dtype):
    recipe = PRESETS[name].override(size=40)
    own = held(*recipe.extent, dtype)
    codes = in_codes(recipe, dtype, own).apply(PHOTO)
    assert codes.dtype == dtype
    real = recipe.apply(PHOTO).astype(np.float64) / own.scale + own.zero
    assert (
        np.abs(codes - np.clip(real, *np.iinfo(dtype).min + np.array([0, 255]))).max() < 0.501
    )  # rounded, ties either way


@pytest.mark.parametrize(("dtype", "less"), [("uint8", 0), ("int8", 128)])
def test_pixels_stay_as_they_are_where_nothing_tells_of_codes(dtype, less):
    pixels = PHOTO.transpose(2, 0, 1).astype(int) - less
    plain = PRESETS["uint8"].override(dtype=dtype)
    for recipe, own in (
        (PRESETS["unit"], None),
        (PRESETS["raw"], held(0, 1, dtype)),
        (plain, held(0, 1, dtype)),
    ):
        codes = in_codes(recipe.override(size=40), dtype, own)
        assert np.array_equal(codes.apply(PHOTO), pixels)
        assert np.array_equal(codes.invert(codes.apply(PHOTO)[None])[0], PHOTO)


def test_mean_and_std_are_for_real_numbers_where_the_file_tells_what_its_codes_are():
    own, changes = held(-1, 1, "int8"), {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert np.allclose(in_codes(PRESETS["unit"], "int8", own, **changes).extent, (-128, 127), atol=1)
    with pytest.raises(UsageError, match="uint8"):  # and for the input as it is, where it does not
        in_codes(PRESETS["unit"], "uint8", None, **changes)


def test_a_recipe_that_the_codes_do_not_hold_is_refused_with_a_way_on():
    with pytest.raises(UsageError, match=r"steps of 0.00392.* uint8 input takes 0 to 255.*preset 'uint8'"):
        in_codes(PRESETS["caffe"], "uint8", held(0, 1))


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (*PRESETS["imagenet"].extent, "imagenet"),
        (-2.64, 2.64, "imagenet"),  # symmetric
        (-2.12, 2.2, "imagenet"),  # no picture had pure blue
        (-2, 2, None), (-1, 1, None), (0, 1, None), (0, 255, None), (-128, 127, None), (-124, 151, None),
    ],
)  # fmt: skip
def test_the_range_of_the_codes_tells_a_recipe_that_scales_colours_apart(low, high, name):
    recipe, told = assumed("int8", 3, held(low, high, "int8"), scaled=False)
    assert (recipe.name if recipe else None) == name
    assert (f"assuming {name!r}" if name else "pixels less 128") in told
    recipe, told = assumed("uint8", 3, held(low, high), scaled=False)
    assert bool(told) == (name is not None)
    assert assumed("uint8", 1, held(low, high), scaled=False) == (None, "")
