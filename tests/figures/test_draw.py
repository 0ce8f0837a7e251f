"""How an attribution is drawn; several methods on several pictures in one sheet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from onnxviz.attribution import occlusion, rise
from onnxviz.attribution.methods import METHODS
from onnxviz.attribution.result import Attribution
from onnxviz.errors import UsageError
from onnxviz.figures import draw as drawing
from onnxviz.figures import grids
from onnxviz.figures.draw import cell, draw_sheet
from onnxviz.figures.heat import bare, over, smoothed

CAPTIONS = {name: row.caption for name, row in METHODS.items()}
CAPTIONS |= {"occlusion": occlusion.CAPTION, "rise": rise.CAPTION}
PHOTO = np.full((64, 64, 3), 128, np.uint8)
BOX = {"top": 16, "left": 32, "bottom": 32, "right": 48}


def attribution(values, *, method="occlusion", target=285, signed=False, score=0.5, **figures) -> Attribution:
    parameters = {"window": (16, 16), "stride": (16, 16), "fill": "grey", "masks": 40}
    return Attribution(
        values=np.asarray(values, np.float32),
        manifest={"parameters": parameters, "figures": figures},
        image=PHOTO,
        target=target,
        label="Egyptian cat" if target is not None else "features, channel 3",
        method=method,
        caption=CAPTIONS.get(method),
        score=score,
        signed=signed,
    )


def spot(value: float = 0.3, below: float = 0.0) -> np.ndarray:
    values = np.zeros((64, 64))
    values[16:32, 32:48], values[48:] = value, below
    return values


def coloured(picture: np.ndarray) -> np.ndarray:
    """How far each pixel is from grey."""
    return np.ptp(picture.astype(int), axis=2)


@pytest.fixture
def said(monkeypatch) -> dict:
    """What `draw` hands to the sheet: the pictures, captions and scale."""
    seen: dict = {}

    def side_by_side(items, **more):
        seen["pictures"] = [np.asarray(picture) for picture, _ in items]
        seen["captions"] = [text for _, text in items]
        return grids.side_by_side(items, **more)

    true = drawing.scale_bar

    def scale_bar(low, high, colours, **more):
        seen["scale"] = (low, high, more["label"])
        return true(low, high, colours, **more)

    monkeypatch.setattr(drawing, "side_by_side", side_by_side)
    monkeypatch.setattr(drawing, "scale_bar", scale_bar)
    return seen


def test_a_picture_with_photo_map_and_scale(said) -> None:
    picture = drawing.draw(attribution(spot(), largest_fall=0.3, largest_fall_window=BOX))
    assert isinstance(picture, Image.Image)
    assert picture.mode == "RGB"
    photo, over = said["pictures"]
    assert photo.shape == over.shape == (448, 448, 3)
    low, high, label = said["scale"]
    assert low == 0
    assert 0 < high <= 30
    assert label == "mean fall in probability (percentage points)"


def test_a_scale_without_words_of_its_own_says_what_it_is_of(said) -> None:
    drawing.draw(attribution(spot(), method="grad-cam"))
    assert said["scale"][2] == "value of the map"
    assert "channels weighted by their mean gradient" in said["captions"][1]


@pytest.mark.parametrize(("label", "shown"), [("class 5", "class 5: 11.1%"), ("tabby", "tabby  11.1%")])
def test_a_class_number_does_not_run_into_its_probability(said, label, shown) -> None:
    drawing.draw(replace(attribution(spot(), score=0.111), label=label))
    assert said["captions"][0].split("\n")[0] == shown


def test_the_more_it_falls_the_deeper_the_colour(said) -> None:
    drawing.draw(attribution(np.repeat([0, 0.1, 0.2, 0.3], 16) * np.ones((64, 1))))
    over = said["pictures"][1].astype(float)
    light = [over[:, x : x + 16].mean() for x in (40, 160, 272, 400)]
    assert light == sorted(light, reverse=True)
    assert light[-1] < light[0] - 40
    assert coloured(over[:, :20]).max() < 8  # nothing there: the photo without its colours
    assert coloured(over[:, 420:]).min() > 60


def test_where_covering_helps_nothing_is_drawn(said) -> None:
    drawing.draw(attribution(spot(below=-0.9)))
    assert coloured(said["pictures"][1][400:]).max() < 4
    assert said["scale"][1] <= 30


def test_captions_name_class_probability_and_the_window_that_costs_most(said) -> None:
    drawing.draw(attribution(spot(), score=0.389, largest_fall=0.3, largest_fall_window=BOX))
    first, second = said["captions"]
    assert first == "Egyptian cat  38.9%\nwith the marked window covered: 8.9%, a fall of 30 points"
    # The scale is of means over windows, which end below the marked window's own fall: both say so.
    assert "the mean of the windows over it" in second
    assert second.startswith("occlusion: grey windows of 16×16 pixels, every 16\n")
    framed = np.argwhere((said["pictures"][0] == 255).all(axis=2))
    # 16 to 32 and 32 to 48 of 64 pixels, drawn at 448.
    np.testing.assert_allclose(framed.min(axis=0), [112, 224], atol=3)
    np.testing.assert_allclose(framed.max(axis=0), [223, 335], atol=3)


def test_no_window_is_marked_where_nothing_falls(said) -> None:
    picture = drawing.draw(attribution(-spot(), largest_fall=-0.1, largest_fall_window=BOX))
    assert (said["pictures"][0] == 128).all()
    assert "scale" not in said
    assert "nothing stands out" in said["captions"][1]
    assert picture.size[0] > 900


def test_the_edges_of_windows_are_smoothed_but_not_other_maps(said) -> None:
    def steepest(method: str) -> float:
        drawing.draw(attribution(spot(), method=method))
        return float(np.abs(np.diff(said["pictures"][1].astype(int), axis=1)).max())

    assert steepest("occlusion") < steepest("saliency") / 3


def test_rise_is_coloured_from_its_median_up(said) -> None:
    drawing.draw(attribution(spot(0.1) + 0.4, method="rise", masks=40, mean_masked_score=0.42))
    low, high, label = said["scale"]
    assert (round(low, 3), round(high, 3)) == (40.0, 50.0)
    assert label == "mean probability when the place shows (percent)"
    assert coloured(said["pictures"][1][:60]).max() < 4
    assert said["captions"][0].endswith("through random masks: 42.0% on average")
    assert said["captions"][1].startswith("RISE: 40 random masks\n")


def test_the_scale_of_occlusion_ends_at_the_deepest_colour(said) -> None:
    values = np.zeros((64, 64))
    values[10, 10] = 0.5  # one place of 4096: no percentile may hide it
    drawing.draw(attribution(values))
    drawn = drawing._smooth(attribution(values), attribution(values).manifest["parameters"])
    assert said["scale"][1] == pytest.approx(100 * drawn.max(), rel=1e-4)


def test_rise_says_its_range_and_fades_its_noise(said) -> None:
    values = np.full((64, 64), 0.4)
    values[:16, :16], values[40:56, 40:56] = 0.401, 0.42
    seen = []
    for noise, words in (
        (0.001, ("the colours span 2 points", "±0.1 points")),
        (0.01, ("hardly more than other masks would change", "take more masks")),
    ):
        drawing.draw(attribution(values, method="rise", masks=40, noise=noise))
        assert all(word in said["captions"][1] for word in words)
        seen.append(coloured(said["pictures"][1]))
    assert seen[0][20:90, 20:90].max() < 4  # as much as other masks would change: not drawn
    assert seen[0][320:350, 320:350].min() > 60
    assert seen[1][320:350, 320:350].mean() < seen[0][320:350, 320:350].mean() * 0.9


@pytest.mark.parametrize("method", ["integrated-gradients", "full-gradient"])
def test_what_does_not_add_up_is_said_in_the_figure(said, method) -> None:
    much, little = (attribution(spot(), method=method, completeness_error=error) for error in (0.12, 0.04))
    drawing.draw(much)
    assert "miss their sum by 12%" in said["captions"][1]
    assert "miss their sum by 12%" in drawing._called([much], ["cat"], 0)
    drawing.draw(little)
    assert "miss" not in said["captions"][1]


def test_an_objective_that_is_no_class_has_no_percent(said) -> None:
    drawing.draw(attribution(spot(3.0), target=None, score=7.5, largest_fall=3.0, largest_fall_window=BOX))
    assert said["captions"][0] == "features, channel 3: 7.5\nwith the marked window covered: 4.5, a fall of 3"
    assert said["scale"][2] == "mean fall in score"
    assert 1 < said["scale"][1] <= 3


def test_signed_maps_have_two_colours(said) -> None:
    drawing.draw(attribution(spot(below=-0.3), method="other", signed=True))
    over = said["pictures"][1].astype(int)
    red, blue = over[168, 280], over[420, 200]
    assert red[0] > red[2] + 60
    assert blue[2] > blue[0] + 60
    assert said["scale"][0] == -said["scale"][1]


def test_an_interrupted_run_says_so(said) -> None:
    drawing.draw(attribution(spot(), windows=16, windows_done=5))
    assert "(interrupted after 5 of 16)" in said["captions"][1]


def test_values_that_are_no_numbers_do_not_break_it() -> None:
    values = spot()
    values[0, 0] = np.nan
    for method in ("occlusion", "rise"):
        drawing.draw(attribution(values, method=method))
        drawing.draw(attribution(np.full((64, 64), np.nan), method=method, score=float("nan")))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.389, "38.9%"),
        (0.5, "50.0%"),
        (0.9998, "99.980%"),
        (0.00052, "0.052%"),
        (0.0, "0%"),
        (1.0, "100%"),
        (1 - 1e-12, "100.000000%"),
    ],
)
def test_percent(value, text) -> None:
    assert drawing._percent(value) == text


# --- maps of single pixels, and sheets of methods ---------------------------------------------


def made(method: str, *, signed=False, seed=0) -> Attribution:
    """A place of noise on a photo of noise, 40 by 60 pixels."""
    rng = np.random.default_rng(seed)
    values = np.zeros((40, 60), np.float32)
    values[10:20, 30:50] = rng.uniform(0.5, 1, (10, 20))
    values += rng.uniform(0, 0.05, values.shape).astype(np.float32)
    values = values * rng.choice([-1, 1], values.shape) if signed else values
    photo = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
    return replace(attribution(values, method=method, signed=signed), image=photo)


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
    few = draw_sheet(
        [[made("saliency"), made("grad-cam")], [made("saliency", seed=1), made("grad-cam", seed=1)]]
    )
    many = draw_sheet([[made(f"method {i}") for i in range(12)] for _ in range(2)], names=["one", "two"])
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
            draw_sheet(grid)


def test_an_attribution_of_zeros_is_drawn_too() -> None:
    nothing = made("saliency")
    nothing.values[:] = 0
    assert nothing.picture().width > 3 * 400
    assert draw_sheet([[nothing, made("guided")]]).width
