"""Text in pictures: it fits, it is the same everywhere, and it is harmless."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from onnxviz.figures import style
from onnxviz.figures.style import drawable, line_height, shortened, width, wrapped

pytestmark = pytest.mark.filterwarnings("ignore::onnxviz.errors.UndrawnText")


@pytest.fixture(autouse=True, scope="module")
def no_installed_fonts():
    """Only Pillow's own, whatever this machine has: test_style_fonts.py has the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "installed", lambda: ())
        style.holder.cache_clear()
        yield
    style.holder.cache_clear()


TEXT = st.text(max_size=80) | st.text("ab c/._-Wi", max_size=80)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Egyptian cat, 39.5 %", "Egyptian cat, 39.5 %"),
        ("Dvořák naïve Ångström", "Dvorak naive Angstrom"),
        ("3×3 − 0.5 – ±1 µm", "3x3 - 0.5 - ±1 um"),
        ("Straße Łódź smørrebrød", "Strasse Lodz smorrebrod"),
        ("猫 and кот", "\\u732b and \\u043a\\u043e\\u0442"),
        ("x² ½", "x2 \\u00bd"),
        ("\x1b[31mred\u202e", "\\x1b[31mred\\u202e"),
        ("a…b", "a…b"),
    ],
)
def test_what_is_drawn(text, shown):
    assert drawable(text) == shown


def ink(text: str) -> np.ndarray:
    canvas = Image.new("L", (60, 40), 255)
    ImageDraw.Draw(canvas).text((5, 5), text, font=style.font(24), fill=0)
    return np.asarray(canvas)


@pytest.mark.parametrize("letter", sorted(style.HELD - {" "}))
def test_the_font_holds_every_letter_that_is_let_through(letter):
    missing = ink("\uffff")  # the box for a letter that the font lacks
    assert not np.array_equal(ink(letter), missing)
    assert ink(letter).min() < 128


@given(TEXT, st.integers(8, 24), st.integers(0, 200), st.booleans())
def test_what_is_shortened_fits(text, size, room, middle):
    short = shortened(text, size, room, middle=middle)
    assert width(short, size) <= room
    if width(text, size) <= room:
        assert short == drawable(text)
    elif short:
        assert "…" in short


def test_shortening_takes_no_more_than_it_must():
    text = "features/stage3/block5/conv2/output"
    for room in range(40, width(text, 13)):
        short = shortened(text, 13, room)
        kept = len(short) - 1
        assert text.startswith(short[:-1])
        assert width(text[: kept + 2] + "…", 13) > room


def test_the_middle_is_cut_where_both_ends_tell():
    start, _, end = shortened("features/stage3/block5/conv2/output", 13, 120, middle=True).partition("…")
    assert start.startswith("features")
    assert end.endswith("output")


@given(TEXT, st.integers(8, 24), st.integers(0, 200), st.integers(0, 4))
def test_what_is_wrapped_fits(text, size, room, lines):
    result = wrapped(text, size, room, lines)
    assert len(result) <= lines
    assert all(width(line, size) <= room for line in result)


@given(st.text("ab cde", max_size=60), st.integers(60, 300))
def test_wrapping_loses_nothing_while_there_are_lines(text, room):
    assert "".join(wrapped(text, 12, room, 1000)).replace(" ", "") == text.replace(" ", "")


NAME = "features/block4/expand/convolution_output"


@pytest.mark.parametrize(
    ("text", "room", "lines", "wanted"),
    [
        ("one two three four", "three four", 3, ["one two", "three four"]),
        ("first\nsecond", "W" * 30, 3, ["first", "second"]),
        ("a\n\nb", "W" * 30, 3, ["a", "", "b"]),
        ("", "W" * 30, 3, []),
        ("one two three four five six", "three four", 2, ["one two", "three fo…"]),
        ("many\nshort\nlines", "W" * 30, 2, ["many", "short lines…"]),
        (NAME, NAME[:20], 3, ["features/block4/", "expand/convolution_", "output"]),  # after a separator
    ],
)
def test_wrapping(text, room, lines, wanted):
    assert wrapped(text, 15, width(room, 15), lines) == wanted


@pytest.mark.parametrize(("align", "x"), [("left", 20), ("centre", 100), ("right", 180)])
@pytest.mark.parametrize("strong", [False, True])
@pytest.mark.parametrize("size", [10, 13, 15, 21])
def test_drawing_stays_in_its_line(align, x, strong, size):
    picture = Image.new("RGB", (200, 60), "white")
    style.text(ImageDraw.Draw(picture), x, 10, "Ågjpqy |(W)", size, align=align, strong=strong)
    rows, columns = np.nonzero(np.asarray(picture).min(axis=2) < 200)
    assert 10 - 1 <= rows.min() <= rows.max() < 10 + line_height(size) + 1
    span = width("Agjpqy |(W)", size)
    left = {"left": x, "centre": x - span / 2, "right": x - span}[align]
    assert left - 2 <= columns.min() <= columns.max() <= left + span + 2
    assert np.ptp(columns) > 0.8 * span


def test_text_is_crisp_and_of_high_contrast():
    picture = Image.new("RGB", (200, 40), "white")
    style.text(ImageDraw.Draw(picture), 5, 5, "Illegible?", 15)
    values = np.asarray(picture)
    assert values.min() < 45

    def luminance(colour):
        linear = [(v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in colour]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    for colour, least in ((style.INK, 15), (style.SOFT, 5.5)):
        assert 1.05 / (luminance(colour) + 0.05) > least


# --- hostile lengths --------------------------------------------------------------------------

LONG = {
    "one word": "W" * 1_000_000,
    "words": "W w " * 250_000,
    "lines": "W\n" * 500_000,
    "letters that no font holds": "".join(map(chr, range(0x4E00, 0x9000))) * 20,
    "marks": "a" + "\u0323\u0301" * 500_000,
    "no room": "\u200a" * 1_000_000,
    "hidden": "\u202e" * 1_000_000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_text_of_a_million_characters_is_measured_a_few_times(name, monkeypatch):
    """Counted, not clocked: how often a text is measured, and how long it is then."""
    measured = []
    true = style._length
    monkeypatch.setattr(
        style, "_length", lambda shown, size: measured.append(len(shown)) or true(shown, size)
    )
    for middle in (False, True):
        short = shortened(LONG[name], 15, 200, middle=middle)
        assert true(short, 15) <= 200
        assert short.endswith("…") or (middle and "…" in short)
    assert len(measured) < 40
    lines = wrapped(LONG[name], 15, 200, 3)
    assert len(lines) <= 3 and (lines[-1].endswith("…") if lines else LONG[name].isspace())
    assert all(true(line, 15) <= 200 for line in lines)
    assert len(measured) < 700
    assert sum(measured) < 700 * 300
    assert width(LONG[name], 15) >= 0
    assert max(measured) <= 40_000  # 4,000 characters, each by its number at most
