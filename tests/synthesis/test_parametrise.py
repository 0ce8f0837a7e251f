"""Parametrisations: from pictures to parameters and back, slopes against central differences, decorrelated colours."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.synthesis.parametrise import COLOUR, Fourier, Pixels
from tests.synthesis.pieces import gradient, run

CENTRE = np.array([0.48, 0.45, 0.40], np.float32)
RNG = np.random.default_rng(0)


def picture_of(way, parameters, height, width):
    """The picture (N, 3, H, W) plus the mean colour."""

    def build(op, x):
        return [way.picture(op, x, height, width, CENTRE)]

    return run(build, x=parameters)[0] + CENTRE[:, None, None]


def begun(way, height, width, seed=0):
    """What the optimiser starts from, and the picture that it is."""
    parameters = way.start(np.random.default_rng(seed), 1, height, width, CENTRE)
    return parameters, picture_of(way, parameters, height, width)


@pytest.mark.parametrize("way", [Pixels(), Fourier(), Fourier(power=2.0, colour=0.5)])
@pytest.mark.parametrize("size", [(24, 31), (32, 32)])
def test_a_picture_comes_back_from_its_parameters(way, size) -> None:
    wanted = RNG.uniform(0.05, 0.95, (2, *size, 3)).astype(np.float32)
    parameters = way.parameters(wanted, CENTRE)
    assert parameters.dtype == np.float32
    assert parameters.shape == way.shape(2, *size)
    found = picture_of(way, parameters, *size)
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), wanted, atol=2e-3)


@pytest.mark.parametrize("way", [Pixels(deviation=0.1), Fourier(deviation=1.0, band=0.5), Fourier(power=1.5)])
def test_the_way_back_is_the_slope(way) -> None:
    parameters, _ = begun(way, 20, 26, seed=1)
    assert parameters.shape == way.shape(1, 20, 26)
    g = RNG.standard_normal((1, 3, 20, 26)).astype(np.float32)
    slope = gradient(lambda op, x: way.picture(op, x, 20, 26, CENTRE), g, parameters)
    along = RNG.standard_normal(parameters.shape).astype(np.float32)
    more, less = (picture_of(way, parameters + s * along, 20, 26) for s in (1e-2, -1e-2))
    measured = float(((more - less).astype(np.float64) * g).sum() / 2e-2)
    assert float((slope * along).sum()) == pytest.approx(measured, rel=2e-2)


def test_fourier_starts_at_the_mean_colour_and_keeps_within_black_and_white() -> None:
    way = Fourier(deviation=0.0)
    _, grey = begun(way, 16, 16)
    np.testing.assert_allclose(grey, np.broadcast_to(CENTRE[:, None, None], (1, 3, 16, 16)), atol=1e-5)
    wild = picture_of(way, RNG.normal(0, 50, way.shape(1, 16, 16)).astype(np.float32), 16, 16)
    assert -1e-6 <= wild.min() < wild.max() <= 1 + 1e-6


def test_a_steeper_spectrum_and_a_narrower_band_are_smoother() -> None:
    """And contrast does not hang on the size."""

    def roughness(way):
        _, found = begun(way, 64, 64)
        return float(np.abs(np.diff(found, axis=3)).mean() / found.std())

    plain = roughness(Fourier(deviation=0.3))
    assert roughness(Fourier(deviation=0.3, power=2.0)) < 0.7 * plain
    assert roughness(Fourier(deviation=0.3, band=0.25)) < 0.7 * plain
    assert Fourier(band=0.25).shape(1, 64, 64)[2:] == (17, 17)
    small, large = (begun(Fourier(deviation=0.1), size, size)[1].std() for size in (48, 96))
    assert small == pytest.approx(large, rel=0.5)


def test_colours_are_those_of_natural_pictures() -> None:
    """The first component moves all colours alike, the second blue against red, the third green."""
    first, second, third = COLOUR.T
    assert np.ptp(first) < 0.05 * first.max()
    assert second[0] > 0 > second[2]
    assert third[0] * third[1] < 0 < third[0] * third[2]


def test_pixels_stay_within_black_and_white() -> None:
    low, high = Pixels().bounds(CENTRE)
    np.testing.assert_allclose(low.ravel(), -CENTRE)
    np.testing.assert_allclose(high.ravel(), 1 - CENTRE)
    assert Pixels(bounded=False).bounds(CENTRE) is None
    start = Pixels(deviation=5).start(np.random.default_rng(0), 1, 8, 8, CENTRE)
    assert (start >= low).all()
    assert (start <= high).all()
