"""Several methods on several pictures in one sheet, and fine maps drawn."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.attribution.result import Attribution
from onnxviz.errors import UsageError
from onnxviz.figures.draw import cell
from onnxviz.figures.heat import bare, over, smoothed
from onnxviz.figures.method_sheet import draw
from tests.figures.captions import CAPTIONS


def made(method: str, shape=(40, 60), *, signed=False, seed=0, **more) -> Attribution:
    rng = np.random.default_rng(seed)
    values = np.zeros(shape, np.float32)
    values[10:20, 30:50] = rng.uniform(0.5, 1, (10, 20))
    values += rng.uniform(0, 0.05, shape).astype(np.float32)
    if signed:
        values *= rng.choice([-1, 1], shape)
    return Attribution(
        values=values,
        manifest={"parameters": {}, "figures": {}, "warnings": []},
        image=rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
        target=3,
        label="cat",
        method=method,
        caption=CAPTIONS.get(method),
        score=0.5,
        signed=signed,
        **more,
    )


def test_a_signed_map_is_red_and_blue_on_white_and_another_bright_on_black() -> None:
    heat = np.array([[1.0, -1.0, 0.0]] * 2, np.float32)
    signed = bare(heat, signed=True).astype(int)
    assert signed[0, 0, 0] > signed[0, 0, 2] + 60
    assert signed[0, 1, 2] > signed[0, 1, 0] + 60
    assert signed[0, 2].min() > 235
    plain = bare(heat, signed=False).astype(int)
    assert plain[0, 0].sum() > 500
    assert plain[0, 1].sum() == plain[0, 2].sum() < 20


def test_the_percentile_decides_what_is_deepest() -> None:
    heat = np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10)
    for percentile, least, most in ((50, 49, 100), (100, 1, 2)):
        drawn = bare(heat, signed=False, percentile=percentile)
        assert least <= (drawn == drawn[-1, -1]).all(axis=2).sum() <= most


def test_a_smoothed_map_shows_where_specks_of_either_sign_lie_thick() -> None:
    rng = np.random.default_rng(0)
    specks = np.where(rng.random((112, 112)) < 0.02, rng.choice([-1.0, 1.0], (112, 112)), 0)
    specks[20:50, 60:90] = rng.choice([-1.0, 1.0], (30, 30))
    smooth = smoothed(specks)
    y, x = np.unravel_index(np.argmax(smooth), smooth.shape)
    assert 20 <= y < 50 and 60 <= x < 90
    assert smooth[25:45, 65:85].min() > 10 * np.median(np.abs(smooth))


def test_a_level_map_is_not_made_into_a_pattern_by_rounding() -> None:
    level = np.full((64, 64), 0.1, np.float32) + np.random.default_rng(0).normal(0, 1e-7, (64, 64)).astype(
        "f"
    )
    assert not smoothed(level).any()


def test_over_the_photo_the_object_is_marked_and_the_rest_is_grey() -> None:
    photo = np.full((80, 120, 3), (40, 160, 40), np.uint8)
    heat = np.zeros((80, 120), np.float32)
    heat[30:50, 40:70] = 1
    shown = over(photo, heat).astype(int)
    assert shown[40, 55, 0] > shown[40, 55, 1] + 40  # dark red
    assert np.ptp(shown[5, 5]) < 40


def test_few_methods_stand_in_columns_and_many_in_rows() -> None:
    few = draw([[made("saliency"), made("grad-cam")], [made("saliency", seed=1), made("grad-cam", seed=1)]])
    many = draw([[made(f"method {i}") for i in range(12)] for _ in range(2)], names=["one", "two"])
    assert 3 * 224 < few.width < 4 * 224
    assert few.height > 2 * 2 * 140
    assert many.width < 1500
    assert many.height > 12 * 100


@pytest.mark.parametrize("method", ["saliency", "full-gradient", "no such method"])
@pytest.mark.parametrize("signed", [False, True])
def test_every_cell_is_of_the_size_asked_for_and_marks_the_place(method, signed) -> None:
    for picture in cell(made(method, signed=signed), 90):
        assert picture.size == (90, 60)
        assert picture.mode == "RGB"


def test_what_cannot_stand_in_a_table_is_refused() -> None:
    for grid in ([], [[]], [[made("saliency")], []]):
        with pytest.raises(UsageError, match="at least one picture"):
            draw(grid)


def test_an_attribution_of_zeros_is_drawn_too() -> None:
    nothing = made("saliency")
    nothing.values[:] = 0
    assert nothing.picture().width > 3 * 400
    assert draw([[nothing, made("guided")]]).width
