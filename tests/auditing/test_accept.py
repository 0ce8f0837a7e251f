"""Accepted findings: what counts, what does not, and what is no such file."""

from __future__ import annotations

import os
from datetime import date

import pytest

from onnxviz.auditing import accept, policy, truth
from onnxviz.auditing.finding import Finding
from onnxviz.errors import UsageError

TODAY = date(2026, 11, 28)
FOUND = Finding("graph.bypass", "high", 0, "0", "joined", "the picture goes around")


def file(tmp_path, text: str):
    path = tmp_path / "accept.toml"
    path.write_text(text, encoding="utf-8")
    return path


def entry(**said) -> str:
    lines = {"fingerprint": f'"{FOUND.fingerprint}"', "reason": '"seen"', **said}
    return "[[accepted]]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value)


def test_what_is_accepted_is_told_with_its_reason_and_its_end(tmp_path):
    entries = accept.read(file(tmp_path, entry(until="2026-11-28")))
    assert accept.apply(entries, [FOUND], TODAY) == ({FOUND.fingerprint: "seen (until 2026-11-28)"}, [])


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ({"reason": '"  "'}, "it gives no reason"),
        ({"reason": ""}, "it gives no reason"),
        ({"until": "2026-11-27"}, "it ended on 2026-11-27"),
        ({"until": '"2026-11-27"'}, "it ended on 2026-11-27"),
        ({"fingerprint": '"0123456789abcdef"'}, "not among the findings"),
    ],
)
def test_what_does_not_count_is_said(tmp_path, said, note):
    accepted, (told,) = accept.apply(accept.read(file(tmp_path, entry(**said))), [FOUND], TODAY)
    assert accepted == {} and note in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[accepted]\n", "cannot read accepted findings"),
        ("[[acepted]]\nid = 'a'\n", "'acepted'"),
        (entry(resaon='"x"'), "did you mean 'reason'.*; an entry has a fingerprint and a reason"),
        (entry(expires="2027-06-30"), "did you mean 'until'\\?"),
        (entry(until='"soon"'), "until is a date"),
        (entry(until="5"), "until is a date"),
        (entry(fingerprint='"12"'), "16 hexadecimal digits"),
        (entry(reason="3"), "reason is a text"),
        ("accepted = 3\n", "no \\[\\[accepted\\]\\] entries.*; each is .* fingerprint = .* reason = "),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        accept.read(file(tmp_path, text))
    with pytest.raises(UsageError, match="there is no such file"):
        accept.read(tmp_path / "none.toml")


def test_the_skeleton_is_read_again_whatever_a_layer_is_called(tmp_path):
    odd = Finding(
        "a.b", "low", 1, 0, 'x"\n[[accepted]]\nreason="all"\x7f\x1b\ud800é', "two\nlines\n[[accepted]]"
    )
    entries = accept.read(file(tmp_path, accept.skeleton([FOUND, odd]).decode()))
    assert [one.fingerprint for one in entries] == [FOUND.fingerprint, odd.fingerprint]
    assert accept.apply(entries, [FOUND, odd], TODAY)[0] == {}


@pytest.mark.parametrize("what", ["device", "pipe", "folder"])
def test_what_has_no_end_is_refused_without_being_waited_for(tmp_path, what):
    """Policies, true classes and accepted findings are read alike."""
    path = tmp_path / "odd.toml"
    if what == "device":
        path.symlink_to("/dev/zero")
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    for read in (
        accept.read,
        lambda p: policy.read(p, (), ()),
        lambda p: truth.read_truth(p, ["a.png"], None, 3),
    ):
        with pytest.raises(UsageError, match=f"cannot read .* a {what}"):
            read(path)


def test_an_empty_file_accepts_nothing(tmp_path):
    assert accept.read(file(tmp_path, "")) == ()
