"""Going on with a comparison that was interrupted."""

from __future__ import annotations

import json
from typing import Any

import pytest

import onnxviz
from onnxviz.comparing import compare as comparing
from onnxviz.comparing import drift as drifting
from onnxviz.comparing.result import PARTS
from onnxviz.errors import UsageError
from onnxviz.progress import Interrupted
from tests.comparing import small

OPTIONS: dict[str, Any] = {"probes": 2, "restore": 2, "methods": ("grad-cam",)}


@pytest.fixture(scope="module")
def nets(resnet):
    return resnet


@pytest.fixture(scope="module")
def pictures():
    return small.photos(4)


@pytest.fixture(scope="module")
def whole(nets, pictures):
    return onnxviz.compare(*nets, pictures, **OPTIONS)


def stopped(nets, pictures, folder, place, name, after, monkeypatch):
    """Interrupt the comparison when `name` is called for the so-manieth time, and save what there is."""
    real, calls = getattr(place, name), []

    def counted(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(place, name, counted)
        with pytest.raises(Interrupted) as stop:
            onnxviz.compare(*nets, pictures, **OPTIONS)
    stop.value.partial.save(folder)


def same(one, other, folder):
    """Whether both say the same, to the last byte that is no time."""
    reports = []
    for which, found in (("one", one), ("other", other)):
        found.save(folder / which)
        manifest = json.loads((folder / which / "manifest.json").read_text())
        del manifest["call"]  # which says what was gone on with
        tables = {path.name: path.read_bytes() for path in (folder / which).glob("*.csv")}
        tables[PARTS] = (folder / which / PARTS).read_bytes()
        told = found.to_dict()
        reports.append((manifest, tables, told["checks"], told["findings"], told["figures"], found.lines()))
    assert reports[0] == reports[1]


@pytest.mark.parametrize(
    ("place", "name", "after"),
    [(comparing, "local", 0), (comparing, "split", 0), (drifting, "spearman", 10), (comparing, "drift", 0)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_interrupted_comparison_is_gone_on_with(
    nets, pictures, whole, tmp_path, monkeypatch, place, name, after
):
    stopped(nets, pictures, tmp_path / "out", place, name, after, monkeypatch)
    again = []
    for part in ("answers", "why", *(("advise",) if place is drifting or name == "drift" else ())):
        monkeypatch.setattr(comparing, part, lambda *_, part=part, **__: again.append(part))
    found = onnxviz.compare(*nets, pictures, **OPTIONS, resume=tmp_path / "out")
    assert not again
    same(whole, found, tmp_path)


def test_pictures_that_were_explained_are_not_explained_again(nets, pictures, tmp_path, monkeypatch):
    stopped(nets, pictures, tmp_path / "out", drifting, "spearman", 10, monkeypatch)
    looked, real = [], drifting._Maps.figures
    monkeypatch.setattr(
        drifting._Maps, "figures", lambda self, place, *rest: looked.append(place) or real(self, place, *rest)
    )
    onnxviz.compare(*nets, pictures, **OPTIONS, resume=tmp_path / "out")
    assert looked and 0 not in looked and len(looked) < len(pictures)


def test_what_has_changed_is_named(nets, pictures, whole, tmp_path):
    out = tmp_path / "out"
    whole.save(out)
    for changed, words in (
        ({"seed": 1}, "what was asked for"),
        ({"images": pictures[:2]}, "the pictures changed"),
        ({"b": nets[0]}, "one of the models changed"),
    ):
        given = {"a": nets[0], "b": nets[1], "images": pictures, **OPTIONS, **changed}
        with pytest.raises(UsageError, match=f"resume.*: {words}"):
            onnxviz.compare(**given, resume=out)
    assert onnxviz.compare(*nets, pictures[:2], **OPTIONS, resume=tmp_path / "none").answers.pictures == 2


@pytest.mark.parametrize(
    "parts",
    [
        "{}",
        '{"schema": "onnxviz.parts/1", "parts": {"why": {"Network": {}}}}',
        '{"schema": "onnxviz.parts/1", "parts": {"why": {"Share": {"of": 1, "with": 2}}}}',
        '{"schema": "onnxviz.parts/1", "parts": {"why": {"dict": 3}}}',
        '{"schema": "onnxviz.parts/1", "parts": []}',
        "{'\x01': 1}",  # no JSON
    ],
)
def test_a_folder_of_something_else_is_refused(nets, pictures, whole, tmp_path, parts):
    whole.save(tmp_path / "out")
    (tmp_path / "out" / PARTS).write_text(parts)
    with pytest.raises(UsageError, match=r"resume.*: .*parts\.json"):
        onnxviz.compare(*nets, pictures, **OPTIONS, resume=tmp_path / "out")
