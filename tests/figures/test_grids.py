"""Sheets: every picture is there, whole, and no text runs over a picture, another text or the edge."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxviz.errors import UsageError
from onnxviz.figures import grids, style
from onnxviz.figures.draw import number, scale_bar
from onnxviz.figures.grids import (
    MARGIN,
    Row,
    as_image,
    caption,
    columns_for,
    framed,
    measured,
    mosaic,
    page,
    rows,
    scaled,
    side_by_side,
    square,
    tiles,
)
from onnxviz.figures.heat import MAPS

PINK = (255, 0, 128)
TEXT = st.text(max_size=40) | st.text("ab cW/._-", max_size=60)
fixture_ok = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def flat(height: int, width: int, colour=PINK) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def pink(image: Image.Image) -> int:
    """How many pixels have exactly the pictures' colour."""
    return int((np.asarray(image) == PINK).all(axis=2).sum())


@pytest.fixture(autouse=True)
def texts(monkeypatch):
    """Every line of text that is drawn is inside its canvas and over no other."""
    drawn: list = []
    real = style.text

    def draw(canvas, x, y, text, size, *args, align="left", strong=False, **kwargs):
        real(canvas, x, y, text, size, *args, align=align, strong=strong, **kwargs)
        span = style.width(text, size)
        left = {"left": x, "centre": x - span / 2, "right": x - span}[align]
        box = (left, y, left + span, y + style.line_height(size))
        if span:
            width, height = canvas.im.size
            assert box[0] >= -1.5 and box[2] <= width + 1.5, text
            assert box[1] >= 0 and box[3] <= height + 1, text
            for (x0, y0, x1, y1), canvas_, text_ in drawn:
                across = x1 <= box[0] + 1 or box[2] <= x0 + 1
                assert canvas_ is not canvas or across or y1 <= box[1] or box[3] <= y0, (text, text_)
            drawn.append((box, canvas, text))

    monkeypatch.setattr(style, "text", draw)
    return drawn


# --- single pictures --------------------------------------------------------------------------


def test_as_image_takes_what_a_picture_is():
    assert as_image(flat(3, 4)).size == (4, 3)
    assert as_image(np.zeros((3, 4), np.uint8)).mode == "RGB"
    assert as_image(Image.new("L", (4, 3))).mode == "RGB"
    for other in (np.zeros((3, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"\(h, w, 3\) uint8"):
            as_image(other)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_scaled_fits_and_keeps_the_shape(height, width, room_h, room_w):
    image = scaled(flat(height, width), room_w, room_h)
    assert image.width <= room_w
    assert image.height <= room_h
    assert image.width == room_w or image.height == room_h
    assert abs(image.width - width * image.height / height) <= max(1, width / height)


def test_small_maps_are_enlarged_as_exact_squares():
    small = np.random.default_rng(0).integers(0, 256, (7, 7, 3)).astype(np.uint8)
    assert np.array_equal(np.asarray(scaled(small, 70, 70)), small.repeat(10, 0).repeat(10, 1))
    photo = np.random.default_rng(0).integers(0, 256, (100, 100, 3)).astype(np.uint8)
    assert not np.array_equal(np.asarray(scaled(photo, 200, 200)), photo.repeat(2, 0).repeat(2, 1))


@given(text=TEXT, lines=st.integers(1, 3), room=st.none() | st.integers(1, 300))
@fixture_ok
def test_caption(text, lines, room):
    image = caption(flat(30, 90), text, lines=lines, room=room)
    assert image.width == max(90, room or 0)
    assert pink(image) == 30 * 90
    assert 30 <= image.height <= 30 + 6 + lines * style.line_height(15)


def test_the_second_part_of_a_caption_is_softer():
    image = np.asarray(caption(flat(30, 190), "first\nsecond"))[30:]
    line = style.line_height(15)
    assert image[: 6 + line].min() < style.SOFT[0] - 30
    assert image[6 + line :].min() >= style.SOFT[0] - 2


# --- tiles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 16, 33, 100, 257])
@pytest.mark.parametrize("labelled", [False, True])
def test_every_tile_is_there(count, labelled):
    image = tiles([flat(7, 7)] * count, side=28, labels=[f"{i}" for i in range(count)] if labelled else None)
    assert pink(image) == count * 28 * 28


@pytest.mark.parametrize("count", [1, 2, 4, 9, 32, 64, 96, 512, 1280, 4000])
def test_a_sheet_of_any_count_has_a_good_shape_and_size(count):
    image = tiles([flat(14, 14)] * count)
    assert image.width <= 1900
    assert image.height <= 1900
    if count >= 4:
        assert 0.9 <= image.width / image.height <= 2.4


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 300))
@example(101, 200, 101)  # once 6 columns where 8.7 were due
@example(51, 57, 29)
def test_columns_leave_few_cells_empty(count, width, height):
    columns = columns_for(count, width, height)
    assert 1 <= columns <= count
    lines = -(-count // columns)
    assert (lines - 1) * columns < count
    if count > 50 and 0.5 < width / height < 2:
        assert 0.9 < columns * width / (lines * height) < 2.4


def test_square_counts_make_full_grids():
    assert not any(count % columns_for(count, 30, 30) for count in (24, 32, 64, 96, 128, 256, 512))


@given(labels=st.lists(TEXT, min_size=1, max_size=8), side=st.integers(4, 120))
@fixture_ok
def test_labels_of_any_length(labels, side, texts):
    texts.clear()
    image = tiles([flat(side, side)] * len(labels), side=side, labels=labels)
    assert pink(image) == len(labels) * side * side


def test_tiles_of_many_shapes_are_centred():
    image = np.asarray(tiles([flat(20, 40), flat(40, 20), flat(40, 40)], side=40, columns=3))
    body = image[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert (body[10:30, :40] == PINK).all()
    assert (body[:10, :40] == 255).all()
    assert (body[:, 42 + 10 : 42 + 30] == PINK).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tiles([flat(8, 8)] * 400, side=1000), "pixels"),
        (lambda: tiles([]), "at least one"),
        (lambda: tiles([flat(2, 2)], labels=["a", "b"]), "2 labels for 1 pictures"),
        (lambda: side_by_side([]), "at least one"),
        (lambda: rows([]), "at least one row"),
        (lambda: rows([Row("x", [flat(2, 2)] * 2, ["a"])]), "1 labels for 2"),
    ],
)
def test_what_makes_no_sheet(make, words):
    with pytest.raises(UsageError, match=words):
        make()


# --- side by side -----------------------------------------------------------------------------


@given(
    items=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), TEXT), min_size=1, max_size=9),
    columns=st.none() | st.integers(1, 4),
    title=TEXT,
    subtitle=TEXT,
)
@fixture_ok
def test_side_by_side(items, columns, title, subtitle, texts):
    texts.clear()
    pictures = [(flat(height, width), text) for height, width, text in items]
    image = side_by_side(pictures, height=60, columns=columns, title=title, subtitle=subtitle)
    expected = 0
    for height, width, _ in items:
        fitted = scaled(flat(height, width), 120, 60)
        expected += fitted.width * fitted.height
    assert pink(image) == expected
    assert np.asarray(image)[:MARGIN].min() == 255
    assert np.asarray(image)[:, -MARGIN:].min() == 255


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (2, 1), (4, 1), (5, 2), (6, 2), (7, 2), (9, 3)])
def test_lines_are_balanced(count, lines):
    """Five pictures with room for four stand as 3 + 2, not as 4 + 1."""
    counts = grids._balanced([300] * count, 1364)
    assert (sum(counts), len(counts), max(counts)) == (count, lines, -(-count // lines))


def test_one_picture_too_wide_for_the_page():
    assert side_by_side([(flat(100, 9000), "wide")]).width <= 1400
    assert grids._balanced([5000, 10], 1000) == [1, 1]


# --- rows -------------------------------------------------------------------------------------


@given(
    table=st.lists(st.tuples(TEXT, st.integers(1, 4), st.booleans(), TEXT), min_size=1, max_size=3),
    lead=st.integers(0, 2),
    heads=st.lists(TEXT, max_size=5),
)
@fixture_ok
def test_rows(table, lead, heads, texts):
    texts.clear()
    given_ = [
        Row(header, [flat(50, 50)] * count, [text] * count if captioned else ())
        for header, count, captioned, text in table
    ]
    image = rows(given_, side=50, lead=lead, heads=heads, title="t")
    assert pink(image) == sum(count for _, count, _, _ in table) * 2500


def test_the_query_stands_apart():
    plain = rows([Row("", [flat(50, 50)] * 4)], side=50)
    apart = rows([Row("", [flat(50, 50)] * 4)], side=50, lead=1)
    assert apart.width > plain.width
    first_gap = np.asarray(apart)[MARGIN + 25, MARGIN + 50 : MARGIN + 90]
    assert (first_gap != PINK).any(axis=1).sum() > 20
    assert (first_gap == style.LINE).all(axis=1).any()


# --- scales and legends -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (-0.0, "0"), (1, "1"), (0.5, "0.5"), (0.12345, "0.123"), (-2.5, "-2.5"), (1234.5, "1.23e+03"),
        (12.34, "12.3"), (1e-5, "1e-5"), (-3.2e-7, "-3.2e-7"), (5e6, "5e6"), (float("inf"), "inf"),
        (float("nan"), "nan"), (0.1, "0.1"), (100, "100"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


FINITE = st.floats(-1e12, 1e12, allow_nan=False)


@given(low=FINITE, high=FINITE, label=TEXT, width=st.integers(1, 400))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scale_bars_of_any_range(low, high, label, width, texts):
    texts.clear()
    low, high = sorted((low, high))
    bar = scale_bar(low, high, MAPS["ember"], label=label, width=max(width, 160))
    assert bar.width >= 160


def test_a_scale_bar_shows_its_colours_in_order_and_zero_in_the_middle(texts):
    bar = np.asarray(scale_bar(-2, 2, MAPS["diverging"], width=258))
    strip = bar[5, 1:-1]
    assert np.abs(strip.astype(int) - MAPS["diverging"]).max() <= 3
    assert [text for _, _, text in texts] == ["-2", "2", "0"]
    texts.clear()
    scale_bar(0, 8, MAPS["ember"], label="fall in probability")
    assert [text for _, _, text in texts] == ["fall in probability", "0", "8", "4"]


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [(-100, 1, ["-100", "1"]), (1.00001, 1.00002, ["1", "1"]), (3, 3, ["3"])],
)
def test_the_middle_number_gives_way(texts, low, high, numbers):
    scale_bar(low, high, MAPS["diverging"])  # zero is nearly at the end, and the like
    assert [text for _, _, text in texts] == numbers


@given(names=st.lists(TEXT, max_size=24))
@fixture_ok
def test_legend(names, texts):
    texts.clear()
    image = style.legend([(PINK, name) for name in names])
    assert image.width <= 601
    assert pink(image) == len(names) * 11 * 11  # a square of 13 with a thin frame


# --- pages ------------------------------------------------------------------------------------


@given(title=st.text(max_size=300), subtitle=st.text(max_size=300), width=st.integers(1, 300))
@fixture_ok
def test_titles_of_any_length(title, subtitle, width, texts):
    texts.clear()
    image = page([flat(20, width), flat(10, 5)], title=title, subtitle=subtitle)
    assert pink(image) == 20 * width + 50
    assert image.width <= max(width, 422) + 2 * MARGIN


def test_the_same_sheet_every_time_and_from_many_threads():
    pictures = [(flat(40 + i, 60), f"picture {i}\nof several") for i in range(5)]
    barrier = threading.Barrier(4)

    def work(_):
        barrier.wait()
        return {side_by_side(pictures, title="Title", subtitle="sub").tobytes() for _ in range(5)}

    with ThreadPoolExecutor(4) as pool:
        assert len(set.union(*pool.map(work, range(4)))) == 1


def test_a_narrow_sheet_has_room_for_what_is_said_above():
    """Up to six lines: what the ring on a patch means stood in the fourth, and was cut."""
    tile = np.zeros((8, 200, 3), np.uint8)
    heights = [grids.page([tile], subtitle=" ".join(["words of a line"] * n)).height for n in range(1, 13)]
    assert len(set(heights)) >= 6
    assert page([]).size == (2 * MARGIN, 2 * MARGIN)
    assert heights == sorted(heights)


# --- cells, some of which stay empty ----------------------------------------------------------

RED, BLUE = (200, 0, 0), (0, 0, 200)


def test_each_picture_is_in_its_cell_and_the_others_stay_white():
    drawn = np.asarray(mosaic({0: flat(40, 40, RED), 5: flat(40, 40, BLUE)}, rows=2, columns=3, edge=30))
    assert drawn.shape == (60, 90, 3)
    assert drawn[15, 15].tolist() == list(RED)
    assert drawn[45, 75].tolist() == list(BLUE)
    drawn = drawn.copy()
    drawn[:30, :30] = drawn[30:, 60:] = 255
    assert (drawn == 255).all()


def test_a_frame_surrounds_its_picture_only():
    drawn = np.asarray(mosaic({0: flat(40, 40, RED), 1: flat(40, 40, RED)}, 1, 2, 50, {1: BLUE}))
    assert not (drawn[:, :50] == np.array(BLUE)).all(axis=2).any()
    right = (drawn[:, 50:] == np.array(BLUE)).all(axis=2)
    assert right[25].sum() >= 4  # both sides
    assert drawn[25, 75].tolist() == list(RED)


def test_a_picture_that_is_gone_is_crossed_out():
    blank = np.asarray(square(None, 40))
    assert (blank == 255).all(axis=2).any()
    assert (blank != 255).any()
    assert np.asarray(mosaic({0: None}, 1, 1, 40)).min() < 255


def test_the_middle_of_a_wide_picture_is_shown():
    wide = np.concatenate([flat(40, 40, RED), flat(40, 40, BLUE), flat(40, 40, RED)], axis=1)
    for picture in (wide, wide.transpose(1, 0, 2)):
        assert (np.asarray(square(picture, 20)) == np.array(BLUE)).all()


def test_marks_leave_the_picture_alone():
    picture = Image.fromarray(flat(40, 40, RED))
    before = picture.tobytes()
    bars = [
        (np.asarray(measured(picture, part))[-1] == np.array((0, 114, 178))).all(axis=1).sum()
        for part in (0, 0.5, 1, 7)
    ]
    assert bars == [1, 21, 40, 40]
    assert np.asarray(framed(picture))[0, 20].tolist() != list(RED)
    assert np.asarray(framed(picture))[20, 20].tolist() == list(RED)
    assert picture.tobytes() == before
