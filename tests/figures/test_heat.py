"""Colours that mean numbers: order, evenness, and what colour-blind readers see of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxviz.errors import UsageError
from onnxviz.figures.heat import (
    MAPS,
    NOT_A_NUMBER,
    blurred,
    diverging,
    fit,
    normalise,
    overlay,
    sequential,
)

RNG = np.random.default_rng(2)

# Ottosson's OKLab, and Machado, Oliveira & Fernandes 2009 for full protanopia and deuteranopia (linear RGB).
TO_LMS = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
BLINDNESS = {
    "none": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}


def oklab(colours: np.ndarray, blindness: str = "none") -> np.ndarray:
    values = np.asarray(colours, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ BLINDNESS[blindness].T, 0, 1)
    return np.cbrt(seen @ TO_LMS.T) @ TO_LAB.T


# --- the maps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "colours"),
    [
        ("inferno", [(0, 0, 4), (87, 15, 109), (188, 55, 84), (249, 142, 9), (252, 255, 164)]),
        ("viridis", [(68, 1, 84), (58, 82, 139), (32, 144, 140), (94, 201, 97), (253, 231, 36)]),
    ],
)
def test_published_maps(name, colours):
    """The values that their authors published, at 0, 64, 128, 192 and 255."""
    assert np.abs(MAPS[name][[0, 64, 128, 192, 255]].astype(int) - colours).max() <= 3


@pytest.mark.parametrize("name", ["inferno", "viridis", "ember", "grey"])
def test_sequential(name):
    """More is always lighter, or always darker."""
    light = oklab(MAPS[name][::3])[:, 0]
    assert (np.diff(light) > 0).all() or (np.diff(light) < 0).all()
    assert abs(light[-1] - light[0]) > 0.6
    got = sequential(np.array([[0.0, 0.5, 1.0], [-3.0, 7.0, np.nan]]), name)
    assert (got.shape, got.dtype) == ((2, 3, 3), np.uint8)
    assert np.array_equal(got[[0, 0, 1, 1], [0, 2, 0, 1]], MAPS[name][[0, 255, 0, 255]])
    assert tuple(got[1, 2]) == NOT_A_NUMBER
    assert np.array_equal(sequential(np.arange(256) / 255, name), MAPS[name])


@pytest.mark.parametrize("name", ["viridis", "ember", "diverging"])
def test_equal_steps_look_equal(name):
    steps = np.linalg.norm(np.diff(oklab(MAPS[name][::5]), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.9


def test_the_two_sides_are_equally_strong():
    light = oklab(diverging(np.linspace(-1, 1, 101)))[:, 0]
    assert np.abs(light - light[::-1]).max() < 0.05
    assert light.argmax() == 50
    assert diverging(np.array(0.0)).min() >= 240


@pytest.mark.parametrize("blindness", list(BLINDNESS))
def test_the_signs_are_told_apart_by_colour_blind_readers(blindness):
    values = np.linspace(0.25, 1, 16)
    against, for_ = oklab(diverging(-values), blindness), oklab(diverging(values), blindness)
    assert np.linalg.norm(against - for_, axis=1).min() > 0.09
    assert (against[:, 2] < for_[:, 2]).all()  # bluer and yellower


@pytest.mark.parametrize("blindness", list(BLINDNESS))
@pytest.mark.parametrize("name", ["inferno", "viridis", "ember"])
def test_values_are_told_apart_by_colour_blind_readers(name, blindness):
    steps = np.linalg.norm(np.diff(oklab(MAPS[name][::16], blindness), axis=0), axis=1)
    assert steps.min() > 0.015


def test_diverging():
    got = diverging(np.array([-1, 1, -9, 9, np.nan, np.inf]))
    assert np.array_equal(got[[0, 1, 2, 3, 5]], MAPS["diverging"][[0, 255, 0, 255, 255]])
    assert tuple(got[4]) == NOT_A_NUMBER


def test_an_unknown_map():
    with pytest.raises(UsageError, match=r"jet.*viridis"):
        sequential(np.zeros(3), "jet")


def test_the_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        MAPS["ember"][0] = 1
    sequential(np.zeros(2))[0] = 1  # what is given out can


# --- scaling ----------------------------------------------------------------------------------


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=6), elements=st.floats(width=32)),
    st.booleans(),
)
def test_normalise_always_gives_values_that_can_be_drawn(heat, signed):
    before = heat.copy()
    scaled, limit = normalise(heat, signed=signed)
    assert scaled.dtype == np.float32
    assert scaled.shape == heat.shape
    assert np.isfinite(scaled).all()
    assert scaled.max(initial=0) <= 1
    assert scaled.min(initial=0) >= (-1 if signed else 0)
    assert np.isfinite(limit)
    assert limit >= 0
    assert np.array_equal(heat, before, equal_nan=True)


SPOT = np.zeros(10_000)
SPOT[3] = 7


@pytest.mark.parametrize(
    ("heat", "options", "limit", "shown"),
    [
        (np.arange(1001.0), {"percentile": 90}, 900, {450: 0.5, 950: 1}),
        (np.arange(1001.0), {"percentile": 100}, 1000, {1000: 1}),
        ([-4.0, 0, 2], {"percentile": 100, "signed": True}, 4, {0: -1, 1: 0, 2: 0.5}),
        ([-4.0, 0, 2], {"percentile": 100}, 2, {0: 0, 1: 0, 2: 1}),
        ([1.0, 2, 8], {"limit": 4}, 4, {0: 0.25, 1: 0.5, 2: 1}),  # that several share
        (SPOT, {}, 7, {3: 1}),  # a single spot still shows
        (np.zeros(5), {}, 0, dict.fromkeys(range(5), 0)),
        (np.full(5, np.nan), {}, 0, dict.fromkeys(range(5), 0)),
        (np.full(5, -1.0), {}, 0, dict.fromkeys(range(5), 0)),
        (np.array([]), {}, 0, {}),
    ],
)
def test_normalise(heat, options, limit, shown):
    scaled, found = normalise(np.asarray(heat), **options)
    assert found == limit
    assert {place: scaled[place] for place in shown} == shown


def test_fit():
    heat = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert np.array_equal(fit(heat, 2, 2), heat)
    large = fit(heat, 8, 6)
    assert (large.shape, large.dtype) == ((8, 6), np.float32)
    assert all((np.diff(large, axis=axis) >= 0).all() for axis in (0, 1))
    assert (large.min(), large.max()) == (0, 3)


# --- heat over a photo ------------------------------------------------------------------------

PHOTO = np.clip(
    RNG.integers(-40, 40, (40, 60, 1)) + np.linspace(20, 235, 60)[None, :, None] + RNG.integers(-20, 20, (40, 60, 3)),
    0, 255,
).astype(np.uint8)  # fmt: skip


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.299, 0.587, 0.114])


def test_the_more_the_deeper():
    """Each step of heat moves the picture further from the photo, and adds colour."""
    pictures = [overlay(PHOTO, np.full((40, 60), v), limit=1.0).astype(float) for v in np.linspace(0, 1, 6)]
    away = [np.abs(picture - pictures[0]).mean() for picture in pictures]
    assert (np.diff(away) > 3).all()
    red = [(picture[..., 0] - picture[..., 2]).mean() for picture in pictures]
    assert red[0] < 10
    assert red[-1] > 60


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_the_photo_stays_readable(signed, value):
    seen = overlay(PHOTO, np.full((40, 60), value), limit=1.0, signed=signed)
    assert np.corrcoef(luma(PHOTO).ravel(), luma(seen).ravel())[0, 1] > 0.97
    assert luma(seen).max() - luma(seen).min() > 40


def test_where_there_is_nothing_the_photo_is_paler_and_greyer():
    seen = overlay(PHOTO, np.zeros((40, 60)))
    assert np.ptp(seen.astype(int), axis=2).mean() < 0.4 * np.ptp(PHOTO.astype(int), axis=2).mean()
    assert (luma(seen) >= luma(PHOTO) - 1).all()
    weak = overlay(PHOTO, np.full((40, 60), 0.1), limit=1.0)
    assert np.abs(weak.astype(int) - seen).mean() < 20


def test_negative_values_are_blue_or_not_there():
    heat = np.repeat([-1.0, 1.0], 30) * np.ones((40, 1))
    signed = overlay(PHOTO, heat, signed=True).astype(int)
    assert (signed[:, :30, 2] > signed[:, :30, 0] + 20).all()
    assert (signed[:, 30:, 0] > signed[:, 30:, 2] + 20).all()
    plain = overlay(PHOTO, heat)
    assert np.array_equal(plain[:, :30], overlay(PHOTO, np.zeros((40, 60)))[:, :30])


def test_a_map_of_another_size_is_stretched():
    heat = np.zeros((4, 6), np.float32)
    heat[0, 0] = 1
    seen = overlay(PHOTO, heat, limit=1.0).astype(int)
    colour = seen[..., 0] - seen[..., 2]
    assert colour[:8, :8].mean() > 40 + colour[20:, 30:].mean()
    assert np.array_equal(seen, overlay(PHOTO, fit(heat, 40, 60), limit=1.0))


def test_the_inputs_are_not_changed():
    heat, photo = RNG.normal(size=(40, 60)), PHOTO.copy()
    given = heat.copy()
    assert overlay(PHOTO, given).dtype == np.uint8
    assert np.array_equal(PHOTO, photo)
    assert np.array_equal(given, heat)


@pytest.mark.parametrize(
    ("image", "heat"),
    [
        (PHOTO[..., 0], np.ones((4, 4))),
        (PHOTO, np.ones((4, 4, 3))),
        (PHOTO, np.ones((0, 4))),
        (np.zeros((4, 4, 4), np.uint8), np.ones((4, 4))),
    ],
)
def test_shapes_that_do_not_fit(image, heat):
    with pytest.raises(UsageError, match=r"\(H, W, 3\)"):
        overlay(image, heat)


@pytest.mark.parametrize(
    ("shape", "deviations"), [((40, 64), (1.5, 4.0)), ((9, 5), (3.0, 0.4)), ((1, 1), (2.0, 2.0))]
)
def test_a_map_is_blurred_as_scipy_does(shape, deviations):
    from scipy.ndimage import gaussian_filter

    values = RNG.random(shape, np.float32)
    found = blurred(values, *deviations)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, gaussian_filter(values, deviations, mode="nearest"), rtol=3e-7)
