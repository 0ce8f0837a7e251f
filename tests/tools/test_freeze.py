"""The freeze: a part of it is what it was, and what differs is found and told."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from freezing.record import Recorder  # noqa: E402
from freezing.reference import Differences, load, save  # noqa: E402

# Small networks alone: a few seconds, and nothing that amplifies the last digit.
PART = r"^operators/[A-F]\w*$|/(tiny|control-flow|one-score) (layers|gradient|saliency|cam|rise|inspect)$"
GROUPS = ("--groups", "operators0,networks0")


def test_a_part_of_it_gives_what_it_gave():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "freeze.py"), "compare", "--loose", "--only", PART, *GROUPS],
        capture_output=True, text=True, timeout=280, check=False, env={**os.environ, "PYTHONHASHSEED": "5"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(re.search(r"(\d+) arrays;", done.stdout)[1]) > 50, done.stdout


@pytest.fixture
def told():
    rng = np.random.default_rng(0)
    value = {
        "map": rng.standard_normal((3, 40, 40)).astype(np.float32),
        "pixels": rng.integers(0, 256, (40, 40, 3), np.uint8),
        "places": rng.integers(0, 9, 40),
        "few": np.array([1.0, np.nan, 2.0]),
        "text": "first 0.25\nsecond",
        "score": 0.5,
        "manifest": {"versions": {"numpy": "1"}, "count": 3},
    }
    return value


def differences(one, other, **options) -> list[str]:
    recorder = Recorder({})
    found = Differences(**options)
    found.compare("case", recorder.tell(one), recorder.tell(other))
    return [name for name, _ in found.found]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda v: v["map"].__setitem__((1, 3, 5), v["map"][1, 3, 5] + 1e-3), "map"),
        (lambda v: v.update(map=v["map"][:, ::-1].copy()), "map"),
        (lambda v: v.update(map=np.roll(v["map"], 1, axis=2)), "map"),
        (lambda v: v.update(map=v["map"].astype(np.float64)), "map"),
        (lambda v: v["map"].__setitem__((0, 0, 0), np.inf), "map"),
        (lambda v: v["pixels"].__setitem__((3, 4), 255 - v["pixels"][3, 4]), "pixels"),
        (lambda v: v["places"].__setitem__(7, 9), "places"),
        (lambda v: v.update(few=np.array([1.0, 2.0, np.nan]) * 2), "few"),
        (lambda v: v.update(text="first 0.25\nsecund"), "text/1"),
        (lambda v: v.update(score=0.50001), "score"),
        (lambda v: v["manifest"].update(count=4), "manifest/count"),
        (lambda v: v["manifest"].pop("count"), "manifest/count"),
        (lambda v: v.update(more=1), "more"),
    ],
)
def test_every_change_of_consequence_is_found(told, change, name):
    other = copy.deepcopy(told)
    change(other)
    assert differences(told, other) == [f"case/{name}"]


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(map=v["map"] * np.float32(1 + 2e-7)),
        lambda v: v["pixels"].__setitem__((3, 4, 1), v["pixels"][3, 4, 1] ^ 1),
        lambda v: v.update(score=0.5 + 1e-8),
        lambda v: v["manifest"]["versions"].update(numpy="2"),
    ],
)
def test_the_last_digit_a_level_and_versions_are_not(told, change):
    other = copy.deepcopy(told)
    change(other)
    assert differences(told, other) == []


def test_numbers_in_texts_may_differ_on_another_machine(told):
    other = {**told, "text": "first 0.251\nsecond"}
    assert differences(told, other) == ["case/text/0"]
    assert differences(told, other, loose=True) == []
    assert differences(told, {**told, "text": "last 0.25\nsecond"}, loose=True) == ["case/text/0"]


def test_a_file_holds_what_was_told(told, tmp_path):
    cases = {name: Recorder({}).tell(told | {"again": dict(told)}) for name in ("a/b", "a/c")}
    save(tmp_path / "one.json", cases)
    assert load(tmp_path / "one.json") == json.loads(json.dumps(cases))
    assert len((tmp_path / "one.json").read_text()) < len(json.dumps(cases)) * 0.6
