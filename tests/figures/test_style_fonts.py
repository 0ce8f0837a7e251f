"""Fonts: who holds which letter, by fonts that are made here of Pillow's own; nothing depends on what is installed."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from onnxviz.errors import UndrawnText, UsageError
from onnxviz.figures import style
from onnxviz.figures.style import drawable, width


def font_with(letters: dict[str, str]) -> bytes:
    """Pillow's own font with other letters: {letter: the ASCII one whose shape it has}."""
    plain = ImageFont.load_default(size=20).font_bytes
    count = struct.unpack(">H", plain[4:6])[0]
    records = [struct.unpack(">4sLLL", plain[12 + 16 * i : 28 + 16 * i]) for i in range(count)]
    tables = {tag: plain[offset : offset + length] for tag, _, offset, length in records}
    shapes = _numbers(tables[b"cmap"])
    groups = b"".join(
        struct.pack(">LLL", ord(letter), ord(letter), shapes[ord(like)])
        for letter, like in sorted(letters.items())
    )
    start = struct.pack(">HHHHL", 0, 1, 3, 10, 12)
    tables[b"cmap"] = start + struct.pack(">HHLLL", 12, 0, 16 + len(groups), 0, len(letters)) + groups
    head, body, at = plain[:12], b"", 12 + 16 * count
    for tag in sorted(tables):
        head += struct.pack(">4sLLL", tag, 0, at + len(body), len(tables[tag]))
        body += tables[tag] + b"\0" * (-len(tables[tag]) % 4)
    return head + body


def _numbers(cmap: bytes) -> dict[int, int]:
    """Letters to glyphs, of a table in format 4."""
    for i in range(struct.unpack(">H", cmap[2:4])[0]):
        start = struct.unpack(">L", cmap[8 + 8 * i : 12 + 8 * i])[0]
        part = cmap[start:]
        if struct.unpack(">H", part[:2])[0] != 4:
            continue
        n = struct.unpack(">H", part[6:8])[0] // 2
        ends, starts, deltas, offsets = (
            struct.unpack(f">{n}H", part[at : at + 2 * n]) for at in (14, 16 + 2 * n, 16 + 4 * n, 16 + 6 * n)
        )
        found = {}
        for k, (first, last) in enumerate(zip(starts, ends, strict=True)):
            for code in range(first, last + 1):
                glyph = code
                if offsets[k]:
                    at = 16 + 6 * n + 2 * k + offsets[k] + 2 * (code - first)
                    glyph = struct.unpack(">H", part[at : at + 2])[0] if at + 2 <= len(part) else 0
                found[code] = (glyph + deltas[k]) % 65536
        return found
    raise AssertionError("no table in format 4")


ASCII = {chr(c): chr(c) for c in range(33, 127)} | {" ": " "}


@pytest.fixture
def alone(monkeypatch):
    """No installed fonts; what was named before is put back."""
    monkeypatch.setattr(style, "installed", lambda: ())
    monkeypatch.setattr(style, "_named", [])
    style.holder.cache_clear()
    style._told.clear()
    yield
    style.holder.cache_clear()
    style._told.clear()


@pytest.fixture
def han(tmp_path):
    path = tmp_path / "han.ttf"
    path.write_bytes(font_with(ASCII | {"猫": "M", "犬": "W"}))
    return str(path)


def test_a_font_holds_what_it_draws_and_no_boxes(han, tmp_path):
    assert style.holds(han, "猫")
    assert style.holds(han, "a")
    assert not style.holds(han, "鳥")
    assert not style.holds(han, "\uffff")
    assert not style.holds(str(tmp_path / "none.ttf"), "a")


def test_letters_of_any_script_are_drawn_with_the_font_that_is_named(alone, han):
    with pytest.warns(UndrawnText, match="U\\+732B"):
        assert drawable("猫 cat") == "\\u732b cat"
    style.use_font(han)
    assert drawable("猫 cat") == "猫 cat"

    def drawn(text: str) -> np.ndarray:
        canvas = Image.new("RGB", (40, 40), "white")
        style.text(ImageDraw.Draw(canvas), 5, 5, text, 20)
        return 255 - np.asarray(canvas).min(axis=2).astype(int)

    # The same shape, but for hints that go by the script.
    assert np.abs(drawn("猫") - drawn("M")).sum() < 0.3 * drawn("M").sum()
    assert np.abs(drawn("猫") - drawn("W")).sum() > 0.6 * drawn("M").sum()
    assert abs(width("猫", 20) - width("M", 20)) <= 1


def test_installed_fonts_are_asked_before_letters_are_spelled(alone, han, monkeypatch):
    monkeypatch.setattr(style, "installed", lambda: (han,))
    style.holder.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawable("犬: 12 %") == "犬: 12 %"
        assert drawable("Egyptian cat") == "Egyptian cat"
    assert style._runs("Egyptian cat") == [("", "Egyptian cat")]  # the same on every machine
    assert style._runs("犬: 12 %") == [(han, "犬: 12 %")]  # one font for all of it


def test_a_text_of_several_scripts_takes_several_fonts(alone, han, tmp_path):
    other = tmp_path / "kot.ttf"
    other.write_bytes(font_with({"к": "k", "о": "o", "т": "t", " ": " "}))
    style.use_font(han)
    style.use_font(other)
    runs = style._runs("猫 кот 犬")
    assert [(path, text.strip()) for path, text in runs] == [(han, "猫"), (str(other), "кот"), (han, "犬")]
    assert "".join(text for _, text in runs) == "猫 кот 犬"
    assert abs(width("猫 кот 犬", 20) - width("M kot W", 20)) <= 3
    for align, x in (("left", 10), ("centre", 100), ("right", 190)):
        canvas = Image.new("RGB", (200, 40), "white")
        style.text(ImageDraw.Draw(canvas), x, 5, "猫 кот 犬", 20, align=align)
        _, columns = np.nonzero(np.asarray(canvas).min(axis=2) < 200)
        span = width("猫 кот 犬", 20)
        left = {"left": x, "centre": x - span / 2, "right": x - span}[align]
        assert left - 2 <= columns.min() <= left + 4
        assert left + span - 4 <= columns.max() <= left + span + 2


def test_nothing_is_silently_dropped_or_boxed(alone):
    with pytest.warns(UndrawnText) as said:
        assert drawable("नी") == "\\u0928\\u0940"  # a vowel sign is no accent
        assert drawable("😀") == "\\U0001f600"
    assert len(said) == 1  # once
    assert "use_font" in str(said[0].message)
    assert {"\u0928", "\u0940", "\U0001f600"} <= style.undrawn()
    assert "U+0928, U+0940, U+1F600" in style.said(*sorted(style.undrawn()))
    assert "--font FILE" in style.said(*sorted(style.undrawn()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawable("Dvořák x̂ Straße") == "Dvorak x Strasse"


def test_joiners_within_words_are_no_tricks(alone, tmp_path):
    path = tmp_path / "fa.ttf"
    path.write_bytes(font_with(ASCII | {"م": "m", "ی": "i", "خ": "k"}))
    style.use_font(path)
    assert drawable("می\u200cخ") == "می\u200cخ"
    assert drawable("a\u200cb") == "a\\u200cb"


def test_a_file_that_is_no_font_is_refused(tmp_path):
    path = tmp_path / "photo.ttf"
    path.write_bytes(b"no font")
    with pytest.raises(UsageError, match=r"photo\.ttf.*\.ttf, \.otf or \.ttc"):
        style.use_font(path)
    with pytest.raises(UsageError):
        style.use_font(tmp_path / "missing.ttf")


def test_the_usual_folders_are_searched_and_last_resorts_left_out(monkeypatch, tmp_path, han):
    folder = tmp_path / "fonts" / "deep"
    folder.mkdir(parents=True)
    for name in ("Some-Bold.ttf", "Some-Regular.otf", "LastResort.otf", "readme.txt", "NotoSans-Regular.ttf"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(style, "_folders", lambda: [tmp_path / "fonts", tmp_path / "nowhere"])
    style.installed.cache_clear()
    try:
        found = [path.rsplit("/", 1)[-1].rsplit("\\", 1)[-1] for path in style.installed()]
    finally:
        style.installed.cache_clear()
    assert found == ["NotoSans-Regular.ttf", "Some-Regular.otf", "Some-Bold.ttf"]


def test_names_of_groups_on_a_map_are_drawn_too(alone, han):
    """scatter writes its own labels: they go the same way."""
    style.use_font(han)
    canvases = []
    for text in ("猫", "M"):
        canvas = Image.new("RGB", (80, 40), "white")
        style.write(ImageDraw.Draw(canvas), (40, 20), text, 20, (0, 0, 0), anchor="mm")
        canvases.append(np.asarray(canvas).min(axis=2) < 128)
    rows = [np.nonzero(ink)[0].mean() for ink in canvases]
    assert abs(rows[0] - rows[1]) <= 1
    assert canvases[0].sum() == pytest.approx(canvases[1].sum(), rel=0.1)


def test_a_command_tells_of_its_own_letters_only(capsys):
    """Of several commands in one process, one that drew nothing has no note."""
    from onnxviz.cli.main import run

    drawable("\U0001f600\u0928")
    run(["models"])
    assert "no font" not in capsys.readouterr().err
