"""The numerics of preprocessing, against formulas written down here from torchvision's and timm's sources."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxviz.errors import ImageRejected, PreprocessingRejected, UsageError
from onnxviz.image.preprocessing import PRESETS, Preprocessing, preset
from onnxviz.image.recipe import Geometry

RNG = np.random.default_rng(11)
SIDE = st.integers(1, 90)
IMAGENET = PRESETS["imagenet"]


def photo(height: int, width: int) -> np.ndarray:
    """Something smooth with edges and noise: what resampling errors show on."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (5 + c) + c) * np.cos(y / (7 + c)) for c in range(3)]
    noise = RNG.integers(-30, 30, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)


# --- where the view lies ----------------------------------------------------------------------


def torchvision(height: int, width: int, resize: int, crop: int) -> Geometry:
    """transforms.Resize(resize) and CenterCrop(crop), as torchvision.transforms.functional computes them."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_w, new_h = (new_short, new_long) if width <= height else (new_long, new_short)
    return Geometry(new_h, new_w, int(round((new_h - crop) / 2.0)), int(round((new_w - crop) / 2.0)))  # noqa: RUF046


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_crop_is_torchvisions(height, width):
    assert IMAGENET.geometry(height, width) == torchvision(height, width, 256, 224)


@pytest.mark.parametrize(
    ("size", "fraction"), [(224, 0.9), (240, 0.904), (299, 0.875), (380, 0.922), (96, 1.0)]
)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000))
@settings(max_examples=30)
def test_crop_is_timms(size, fraction, height, width):
    recipe = Preprocessing((size, size), crop_fraction=fraction)
    assert recipe.geometry(height, width) == torchvision(height, width, math.floor(size / fraction), size)


@given(st.integers(1, 600), st.integers(1, 600))
def test_a_fraction_that_stands_for_two_whole_sizes_gives_them(a, b):
    kept, full = sorted((a, b))
    if kept / full >= 0.1:
        recipe = Preprocessing((kept, kept), crop_fraction=kept / full)
        assert min(recipe.geometry(999, 777)[:2]) == full
        assert replace(recipe, resize="squash").geometry(9, 7)[:2] == (full, full)


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["crop", "squash", "pad"]), st.sampled_from([1.0, 0.875, 0.5]))
@settings(max_examples=150, deadline=None)
def test_any_picture_fits_any_size(height, width, h, w, resize, fraction):
    recipe = Preprocessing((h, w), resize=resize, crop_fraction=fraction)
    g = recipe.geometry(height, width)
    assert recipe.view(np.zeros((height, width, 3), np.uint8)).shape == (h, w, 3)
    if resize == "pad":
        assert (g.height <= h and g.width <= w) and (g.height == h or g.width == w)
        assert 0 <= -g.top <= h - g.height
        assert 0 <= -g.left <= w - g.width
    else:
        assert 0 <= g.top <= g.height - h
        assert 0 <= g.left <= g.width - w


def test_a_size_that_is_not_square_and_halves_are_rounded_to_even_as_torchvision_does():
    wide = Preprocessing((100, 200))
    assert wide.geometry(300, 300) == Geometry(200, 200, 50, 0)
    assert wide.geometry(100, 900) == Geometry(100, 900, 0, 350)
    assert [Preprocessing((4, 4)).geometry(4, 4 + odd).left for odd in (1, 3, 5, 7)] == [0, 2, 2, 4]


@pytest.mark.parametrize(("resize", "fraction"), [("crop", 0.8), ("squash", 0.8), ("pad", 1.0)])
def test_the_view_lies_where_the_geometry_says(resize, fraction):
    """A dot in the picture appears at the pixel that the documented formula gives."""
    recipe = Preprocessing((60, 80), resize=resize, crop_fraction=fraction)
    image = np.zeros((300, 500, 3), np.uint8)
    image[140:160, 240:260] = 255
    g = recipe.geometry(300, 500)
    y, x = np.argwhere(recipe.view(image)[..., 0] > 100).mean(axis=0)
    assert abs((y + g.top + 0.5) * 300 / g.height - 150) < 2
    assert abs((x + g.left + 0.5) * 500 / g.width - 250) < 2


# --- the pixels -------------------------------------------------------------------------------


def filtered(plane: np.ndarray, size: int, kernel, support: float) -> np.ndarray:
    """One pass of antialiased resampling along the last axis, in float64: weights by the distance of centres."""
    length = plane.shape[-1]
    ratio = length / size
    stretch = max(ratio, 1.0)
    result = np.empty((*plane.shape[:-1], size))
    for i in range(size):
        centre = (i + 0.5) * ratio
        first = max(0, int(centre - support * stretch + 0.5))
        last = min(length, int(centre + support * stretch + 0.5))
        weights = kernel((np.arange(first, last) - centre + 0.5) / stretch)
        result[..., i] = plane[..., first:last] @ (weights / weights.sum())
    return result


def triangle(x):
    return np.maximum(0, 1 - np.abs(x))


def cubic(x, a=-0.5):
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@pytest.mark.parametrize(
    ("interpolation", "kernel", "support"), [("bilinear", triangle, 1), ("bicubic", cubic, 2)]
)
@pytest.mark.parametrize("shape", [(75, 110), (300, 211), (23, 31)])
def test_resizing_is_antialiased(interpolation, kernel, support, shape):
    image = photo(*shape)
    recipe = Preprocessing((40, 40), crop_fraction=0.8, interpolation=interpolation)
    g = recipe.geometry(*shape)
    expected = np.empty((40, 40, 3))
    for c in range(3):
        rows = filtered(image[..., c].astype(float), g.width, kernel, support)
        rows = np.clip(np.rint(rows), 0, 255)  # Pillow keeps 8 bits between its two passes
        whole = filtered(rows.T, g.height, kernel, support).T
        expected[..., c] = np.clip(np.rint(whole), 0, 255)[g.top : g.top + 40, g.left : g.left + 40]
    difference = np.abs(recipe.view(image) - expected)
    assert difference.max() <= 1  # ties fall to either side: Pillow's weights are 22-bit integers
    assert difference.mean() < 0.05


@pytest.mark.parametrize(
    ("recipe", "shape", "resized", "kept"),
    [
        (IMAGENET, (180, 260), (369, 256), np.s_[16:240, 72:296]),
        (Preprocessing((30, 40), resize="squash"), (50, 90), (40, 30), np.s_[:]),
        (Preprocessing((32, 40), resize="squash", crop_fraction=0.8), (50, 90), (50, 40), np.s_[4:36, 5:45]),
        (Preprocessing((224, 224)), (224, 224), (224, 224), np.s_[:]),  # not touched
    ],
)
def test_the_view_is_pillows_resize_then_the_centre(recipe, shape, resized, kept):
    image = photo(*shape)
    whole = np.asarray(Image.fromarray(image).resize(resized, Image.Resampling.BILINEAR))
    assert np.array_equal(recipe.view(image), whole[kept])


@pytest.mark.parametrize(("channels", "expected"), [("RGB", [26, 51, 76]), ("BGR", [76, 51, 26])])
def test_padding_is_the_mean_colour_of_the_picture(channels, expected):
    recipe = Preprocessing((8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), channels=channels, resize="pad")
    view = recipe.view(np.full((4, 8, 3), 200, np.uint8))
    assert (view[2:6] == 200).all()
    assert (view[[0, 1, 6, 7]] == expected).all()
    assert np.abs(recipe.normalise(view[None])[0, :, 0]).max() < 0.01  # neutral for the network


@given(SIDE, SIDE)
@settings(max_examples=20, deadline=None)
def test_without_a_size_each_picture_keeps_its_own(height, width):
    image = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    recipe = Preprocessing(crop_fraction=0.5)
    assert np.array_equal(recipe.view(image), image)
    assert recipe.apply(image).shape == (3, height, width)


@pytest.mark.parametrize(
    "options", [{}, {"size": (30, 30)}, {"size": (10, 10)}, {"size": (30, 40), "resize": "pad"}]
)
def test_a_view_is_a_new_array(options):
    image = photo(30, 30)
    view = Preprocessing(**options).view(image)
    assert view.flags.writeable
    assert view.flags.c_contiguous
    assert not np.shares_memory(view, image)


def test_a_strip_is_not_made_whole():
    """1×60 000 to 256 high would be 256 × 15 million pixels."""
    strip = RNG.integers(0, 256, (1, 60_000, 3)).astype(np.uint8)
    start = time.perf_counter()
    view = IMAGENET.view(strip)
    assert view.shape == (224, 224, 3)
    assert time.perf_counter() - start < 5
    assert IMAGENET.view(strip.transpose(1, 0, 2).copy()).shape == (224, 224, 3)


def test_what_is_kept_of_a_strip_is_what_the_whole_would_give(monkeypatch):
    image = photo(40, 90)
    recipe = Preprocessing((64, 64), crop_fraction=0.8)
    whole = recipe.view(image).astype(int)
    monkeypatch.setattr("onnxviz.image.preprocessing._WHOLE", 0)
    assert np.abs(recipe.view(image) - whole).max() <= 1


# --- scaling ----------------------------------------------------------------------------------

RECIPES = {
    **PRESETS,
    "grey": IMAGENET.override(channels="L"),
    "rgba": IMAGENET.override(channels="RGBA"),
    "nhwc": PRESETS["efficientnet-lite"].override(layout="NHWC"),
    "padded": IMAGENET.override(resize="pad"),
    "grey padded": PRESETS["tensorflow"].override(resize="pad", channels="L", layout="NHWC"),
    "half": IMAGENET.override(dtype="float16"),
    "double": IMAGENET.override(dtype="float64"),
    "uint8 nhwc": PRESETS["uint8"].override(layout="NHWC", size=48),
    "own size": IMAGENET.override(size="own"),
}


def expected_tensor(recipe: Preprocessing, view: np.ndarray) -> np.ndarray:
    """((pixel/255) − mean)/std in float64, one channel after the other, in the order of the name."""
    colours = {"L": view @ np.array([0.299, 0.587, 0.114]), "A": np.full(view.shape[:2], 255.0)}
    colours |= dict(zip("RGB", np.moveaxis(view.astype(float), 2, 0), strict=True))
    planes = [
        (colours[letter] / 255 - mean) / std
        for letter, mean, std in zip(recipe.channels, recipe.mean, recipe.std, strict=True)
    ]
    return np.stack(planes, axis=0 if recipe.layout == "NCHW" else 2)


every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@every_recipe
def test_the_tensor(recipe):
    image = photo(70, 90)
    view, tensor = recipe.view(image), recipe.apply(image)
    expected = expected_tensor(recipe, view)
    assert tensor.shape == expected.shape
    assert tensor.dtype == recipe.dtype
    tolerance = {"float16": 2e-3, "uint8": 0}.get(recipe.dtype, 1e-6 * max(1, np.abs(expected).max()))
    assert np.abs(tensor - expected).max() <= tolerance


@every_recipe
def test_view_and_normalise_are_apply(recipe):
    images = [photo(50, 90), photo(50, 90)]
    together = recipe.normalise(np.stack([recipe.view(image) for image in images]))
    assert together.dtype == recipe.dtype
    assert together.flags.c_contiguous
    for image, one in zip(images, together, strict=True):
        image.flags.writeable = False
        before = image.copy()
        assert np.array_equal(recipe.apply(image), one)
        assert np.array_equal(image, before)


@every_recipe
def test_float_pictures_are_scaled_like_whole_ones(recipe):
    views = recipe.view(photo(40, 40))[None]
    for dtype in (np.float32, np.float64, np.int32):
        assert np.array_equal(recipe.normalise(views.astype(dtype)), recipe.normalise(views))
    if recipe.dtype != "uint8":  # out of range is the caller's business
        above = recipe.normalise(np.full((1, 2, 2, 3), 300.5, np.float32))
        colours = (300.5 / 255 - np.array(recipe.mean)) / np.array(recipe.std)
        got = above[0, :, 0, 0] if recipe.layout == "NCHW" else above[0, 0, 0]
        assert np.allclose(got[:3], colours[:3], rtol=2e-3)


@every_recipe
def test_inverting_gives_every_pixel_back(recipe):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    colours = (ramp, ramp, ramp) if recipe.channels == "L" else (ramp, 255 - ramp, ramp // 2)
    pictures = np.concatenate(colours, 3)
    back = recipe.invert(recipe.normalise(pictures))
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - pictures).max() <= (1 if recipe.dtype == "float16" else 0)


def test_inverting_clips_and_survives_nan():
    tensor = np.array([np.nan, np.inf, -np.inf, 9.0, -9.0, 0.25], np.float32).reshape(1, 1, 1, 6).repeat(3, 1)
    assert PRESETS["unit"].invert(tensor)[0, 0, :, 0].tolist() == [0, 255, 0, 255, 0, 64]


def test_grey_is_itu_601_and_exact_on_grey():
    recipe = Preprocessing(mean=(0.0,), std=(1 / 255,), channels="L")
    image = photo(20, 20)
    assert np.array_equal(recipe.view(image)[..., 0], np.asarray(Image.fromarray(image).convert("L")))
    ramp = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 256, 1), 3, 2)
    assert np.array_equal(recipe.apply(ramp)[0, 0], np.arange(256))


@pytest.mark.parametrize(
    ("name", "pixel", "value"),
    [
        ("efficientnet-lite", (127, 255, 0), (0.0, 1.0, -127 / 128)),
        ("imagenet", (255, 255, 255), ((1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225)),
        ("tensorflow", (0, 255, 51), (-1.0, 1.0, -0.6)),
        ("caffe", (10, 20, 30), (30 - 103.939, 20 - 116.779, 10 - 123.68)),
        ("unit", (0, 255, 51), (0.0, 1.0, 0.2)),
        ("raw", (0, 255, 51), (0.0, 255.0, 51.0)),
        ("uint8", (0, 255, 51), (0, 255, 51)),
    ],
)
def test_presets_by_hand(name, pixel, value):
    recipe = PRESETS[name]
    tensor = recipe.apply(np.full((300, 300, 3), pixel, np.uint8))
    assert tensor.dtype == ("uint8" if name == "uint8" else "float32")
    assert tensor.shape[1:] == ((300, 300) if recipe.size is None else (224, 224))
    assert np.allclose(tensor[:, 5, 5], value, rtol=1e-6, atol=1e-6)
    assert preset(name) is recipe


def test_the_lite_preset_is_exact():
    """What the bundled network was trained on: (RGB − 127)/128 has no rounding at all in float32."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    expected = (ramp[..., 0].astype(np.float32) - 127) / 128
    assert np.abs(PRESETS["efficientnet-lite"].override(size="own").apply(ramp)[0] - expected).max() <= 1.2e-7


def test_pillow_resizes_once_and_nothing_else_touches_the_whole_picture(monkeypatch):
    """Resizing is most of the time (measured: 4.4 of 5.0 ms): it happens once, and before the rest."""
    calls = []
    for name, real in [(name, getattr(Image.Image, name)) for name in ("resize", "convert", "crop")]:

        def noted(self, *args, name=name, real=real, **options):
            calls.append((name, self.size))
            return real(self, *args, **options)

        monkeypatch.setattr(Image.Image, name, noted)
    IMAGENET.apply(photo(868, 1152))
    assert calls == [("resize", (1152, 868)), ("crop", (339, 256))]


# --- what is no picture -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("view", np.zeros((4, 4), np.uint8), "uint8"),
        ("view", np.zeros((4, 4, 4), np.uint8), "uint8"),
        ("view", np.zeros((4, 4, 3), np.float32), "uint8"),
        ("view", np.zeros((0, 4, 3), np.uint8), "empty"),
        ("view", np.zeros((1, 4, 4, 3), np.uint8), "uint8"),
        ("view", None, "uint8"),
        ("normalise", np.zeros((4, 4, 3)), r"\(N, h, w, 3\)"),
        ("normalise", np.zeros((1, 3, 4, 4)), r"\(N, h, w, 3\)"),
        ("normalise", np.zeros((1, 4, 4, 3), complex), r"\(N, h, w, 3\)"),
        ("invert", np.zeros((1, 4, 4, 3), np.float32), "N3HW"),
    ],
)
def test_something_else_is_refused(method, given, words):
    with pytest.raises(ImageRejected, match=words):
        getattr(IMAGENET, method)(given)


# --- overrides --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [(64, (64, 64)), ((64, 96), (64, 96)), ([64, 96], (64, 96)), ("64", (64, 64)), ("64x96", (64, 96)),
     ("64×96", (64, 96)), ("own", None), (np.int64(5), (5, 5))],
)  # fmt: skip
def test_override_size(size, expected):
    assert IMAGENET.override(size=size).size == expected


@pytest.mark.parametrize(
    ("mean", "std", "expected_mean", "expected_std"),
    [
        (0.5, 0.25, (0.5,) * 3, (0.25,) * 3),
        ("0.1,0.2,0.3", "0.4 0.5 0.6", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        (127, 128, (127 / 255,) * 3, (128 / 255,) * 3),
        ((123.675, 116.28, 103.53), 1, (0.485, 0.456, 0.406), (1 / 255,) * 3),
        (0, 255, (0.0,) * 3, (1.0,) * 3),
        (0, 1, (0.0,) * 3, (1.0,) * 3),
        (None, 0.5, IMAGENET.mean, (0.5,) * 3),
        (128, None, (128 / 255,) * 3, IMAGENET.std),
    ],
)
def test_override_mean_and_std(mean, std, expected_mean, expected_std):
    recipe = IMAGENET.override(mean=mean, std=std)
    assert np.allclose(recipe.mean, expected_mean, rtol=1e-12)
    assert np.allclose(recipe.std, expected_std, rtol=1e-12)


def test_override_channels_moves_the_colours():
    bgr, image = IMAGENET.override(channels="BGR"), photo(30, 30)
    assert bgr.mean == IMAGENET.mean[::-1]
    assert np.array_equal(bgr.apply(image), IMAGENET.apply(image)[::-1])
    assert bgr.override(channels="RGB") == IMAGENET == IMAGENET.override(size=None, mean=None)
    assert PRESETS["caffe"].override(channels="RGB").mean == PRESETS["caffe"].mean[::-1]
    # What is given is in the input's order.
    assert IMAGENET.override(channels="BGR", mean="0.1,0.2,0.3").mean == (0.1, 0.2, 0.3)
    grey = IMAGENET.override(channels="L")
    assert grey.mean == (sum(IMAGENET.mean) / 3,)
    assert grey.override(channels="RGB").std == (sum(IMAGENET.std) / 3,) * 3
    for recipe, opaque in ((IMAGENET, 1), (PRESETS["raw"], 255), (PRESETS["uint8"], 255)):
        assert (recipe.override(channels="RGBA").apply(image)[3] == opaque).all()


def test_override_to_uint8_takes_plain_pixels():
    plain, image = IMAGENET.override(dtype="uint8"), photo(30, 30)
    assert np.array_equal(plain.apply(image), IMAGENET.view(image).transpose(2, 0, 1))
    assert PRESETS["uint8"].override(dtype="float32").apply(image).max() > 200


def test_override_resize_shows_the_whole_picture():
    assert IMAGENET.override(resize="squash").crop_fraction == 1
    assert IMAGENET.override(resize="squash", crop_fraction=0.9).crop_fraction == 0.9
    stretched = IMAGENET.override(resize="stretch", crop_fraction=0.9)
    for name in ("squash", "stretch"):  # timm's word and ours are one, whoever says it
        assert stretched.override(resize=name) == stretched
        assert Preprocessing.from_dict({**stretched.to_dict(), "resize": name}) == stretched
    assert stretched.to_dict()["resize"] == "stretch"
    assert IMAGENET.override(resize="crop").crop_fraction == 0.875


@pytest.mark.parametrize(
    "given",
    [
        {"size": 0}, {"size": -3}, {"size": (224,)}, {"size": (2.5, 3)}, {"size": "big"}, {"size": "3x4x5"},
        {"size": ""}, {"size": 10**6}, {"size": True}, {"size": "9" * 400},
        {"mean": "a,b,c"}, {"mean": (1, 2)}, {"mean": float("nan")}, {"mean": "inf"}, {"mean": 10**400}, {"mean": ""},
        {"std": 0}, {"std": (0.1, -0.1, 0.1)}, {"std": 1e-9}, {"std": None, "mean": 1e12},
        {"channels": "rgb"}, {"channels": "CMYK"}, {"layout": "NWHC"}, {"resize": "fit"}, {"crop_fraction": 0},
        {"crop_fraction": 1.5}, {"interpolation": "linear"}, {"dtype": "int16"}, {"dtype": "uint8", "mean": 0.5},
    ],
)  # fmt: skip
def test_overrides_that_make_no_sense(given):
    with pytest.raises(UsageError, match=r"expected|uint8") as caught:
        IMAGENET.override(**given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_near_miss_is_suggested():
    with pytest.raises(UsageError, match="did you mean 'bilinear'"):
        IMAGENET.override(interpolation="biliner")
    with pytest.raises(PreprocessingRejected, match="did you mean 'imagenet'"):
        preset("imagnet")


def test_a_recipe_cannot_be_changed_and_its_name_is_made_harmless():
    with pytest.raises(AttributeError):
        IMAGENET.size = (1, 1)
    assert len({IMAGENET, IMAGENET.override(), PRESETS["raw"]}) == 2
    assert Preprocessing(name="\x1b[2J").name == "\\x1b[2J"
