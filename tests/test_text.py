"""Nothing that a stranger names a thing can act on a terminal, a page, a picture or a path."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnxviz.text import amount, composed, file_name, json_escaped, printable, shorten

ANYTHING = st.text(st.characters(), max_size=60)  # surrogates included


PLAIN = ["plain", "Ägyptische Katze, 猫 кот قط", "a\u0301"]
# What acts or hides, each escaped where it stands.
ACTING = ["\x1b[31mred\x1b[0m", "\x9b31m", "a\0b", "a\nb\r\tc", "photo\u202egpj.exe", "\u2066x\u2069", "ca\u200bt",
          "\ufeffcat", "x\u2028y", "\udcff", "\U000e0041", "a\u3164b", "\x7f", "\u200e\u200f\u061c", "\u2028\u2029",
          "\ud800", "\ue000"]  # fmt: skip


def escaped(character: str) -> str:
    code = ord(character)
    if character.isprintable() and character != "\u3164":
        return character
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"


@pytest.mark.parametrize("text", [*PLAIN, *ACTING])
def test_printable(text):
    assert printable(text) == (text if text in PLAIN else "".join(map(escaped, text)))


def test_printable_takes_anything_and_cuts_towers_of_marks():
    assert (printable(b"x"), printable(None)) == ("b'x'", "None")
    assert len(printable("a" + "\u0301" * 500)) == 5


@given(ANYTHING, st.integers(0, 40))
def test_printable_is_inert_and_the_limit_holds(text, limit):
    shown = printable(text)
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn"} for c in shown)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert len(printable(text, limit)) <= limit


def test_the_middle_goes_first():
    assert shorten("features/block/7/conv_output", 15) == "feature…_output"
    assert shorten("abc", 3) == "abc"
    assert [shorten("abcd", limit) for limit in (0, 1, 2, 3)] == ["", "…", "a…", "a…d"]


# --- file names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("/features/0/Conv_output_0", "features_0_Conv_output_0-"),
        ("Egyptian cat", "Egyptian_cat-"),
        ("../../etc/passwd", "etc_passwd-"),
        ("..", "unnamed-"),
        ("", "unnamed-"),
        (".hidden", "hidden-"),
        ("-rf", "rf-"),
        ("C:\\x", "C_x-"),
        ("nul", "_nul-"),
        ("com1.png", "_com1.png-"),
        ("a.", "a-"),
        ("\x1b[0m</script>", "0m_script-"),
        ("猫", "猫-"),
        ("a\u3164b", "a_b-"),
    ],
)
def test_any_name_but_a_plain_one_is_made_safe(name, start):
    assert file_name(name).startswith(start)
    assert len(file_name(name)) == len(start) + 12
    for plain in ("conv1", "layer4.1.relu", "block_3-out", "0"):
        assert file_name(plain) == plain


def check(name: str) -> None:
    assert 0 < len(os.fsencode(name)) <= 100
    assert not set(name) & set('/\\:*?"<>|\0 \n\r\t')
    assert name[0] not in ".-"
    assert name[-1] not in ". "
    assert printable(name) == name
    assert Path(name).name == name
    assert name.split(".", maxsplit=1)[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(ANYTHING)
def test_file_names_are_safe(name):
    made = file_name(name)
    check(made)
    assert name == made or file_name(made) != made  # not another one's


@given(st.text("aA./-_é\u0301 0", max_size=6), st.text("aA./-_é\u0301 0", max_size=6))
@example("Conv_1", "conv_1")
@example("é", "e\u0301")
@example("a/b", "a_b")
@example("a/b", file_name("a/b"))
@example("a.", "a")
def test_different_names_give_different_files_on_every_file_system(a, b):
    """Where case is ignored and accents are decomposed (macOS), too."""

    def stored(name: str) -> str:
        return unicodedata.normalize("NFD", file_name(name)).casefold()

    assert (stored(a) == stored(b)) == (a == b)


@pytest.mark.parametrize(("letter", "count"), [("x", 5000), ("猫", 500), ("é", 1_000_000)])
def test_very_long_names_differ_by_their_ends(letter, count):
    a, b = file_name(letter * count + "a"), file_name(letter * count + "b")
    assert a != b and len(a.encode()) in range(98, 101)
    check(a)


# --- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ACTING)
def test_what_hides_is_escaped_in_json(text):
    document = json_escaped(json.dumps({text: [text]}, ensure_ascii=False))
    assert document.isascii() and document.isprintable()
    assert json.loads(document) == {text: [text]}


@given(ANYTHING)
def test_escaped_json_means_the_same_and_holds_nothing_that_hides(text):
    document = json_escaped(json.dumps(text, ensure_ascii=False))
    assert json.dumps(json.loads(document)) == json.dumps(json.loads(json.dumps(text)))
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in document)
    assert printable(document) == document or max(document) >= "\u0300"  # towers of marks are no harm in JSON
    # Letters of any script stay.
    assert json_escaped('"Ägyptische Katze, 猫 кот قط 🐈"') == '"Ägyptische Katze, 猫 кот قط 🐈"'


# --- composing --------------------------------------------------------------------------------


@given(ANYTHING)
def test_composing_is_nfc(text):
    assert composed(text) == unicodedata.normalize("NFC", text)


def test_a_tower_of_marks_is_composed_in_linear_time(monkeypatch):
    lengths = []
    whole = unicodedata.normalize
    monkeypatch.setattr(
        unicodedata, "normalize", lambda form, text: lengths.append(len(text)) or whole(form, text)
    )
    text = "a" + "\u0323\u0301" * 500_000 + "b" + "\u0301"
    assert composed(text) == whole("NFC", "a" + "\u0323\u0301" * 15 + "b\u0301")
    assert max(lengths) < 40  # `normalize` sorts marks by insertion


def test_one_is_not_several():
    assert [amount(count, "picture") for count in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert amount(1, "class", "classes") == "1 class" and amount(3, "class", "classes") == "3 classes"
