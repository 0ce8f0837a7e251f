"""tools/gpu.sh, as far as can be told without a card: what is carried, what is told, what a dead section costs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.append(str(TOOLS))

from gpu import __main__ as main  # noqa: E402
from gpu import supervise, tables, wheels  # noqa: E402

# --- wheels ---------------------------------------------------------------------------------------


def packed(folder: Path) -> tuple[dict[str, bytes], list[Path]]:
    made = {"large.whl": bytes(range(256)) * 40, "a.whl": b"a" * 900, "b.whl": b"b" * 300}
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return made, wheels.pack(folder, room=2000)


def test_wheels_go_in_parts_of_a_size_and_come_together_again(tmp_path: Path) -> None:
    made, parts = packed(tmp_path)
    assert all(sum(file.stat().st_size for file in part.iterdir()) <= 2000 for part in parts)
    there = tmp_path / "there"
    there.mkdir()
    for part in reversed(parts):
        for file in part.iterdir():
            file.rename(there / file.name)
    wheels.join(there)
    assert {file.name: file.read_bytes() for file in there.iterdir()} == made


def test_a_wheel_with_a_piece_missing_is_named(tmp_path: Path) -> None:
    _, parts = packed(tmp_path)
    there = tmp_path / "there"
    there.mkdir()
    for file in (file for part in parts for file in part.iterdir()):
        if not file.name.endswith(".002"):
            file.rename(there / file.name)
    with pytest.raises(SystemExit, match=r"large.whl is not whole: \d+ pieces"):
        wheels.join(there)


def test_the_last_copy_starts_the_measurement(tmp_path: Path) -> None:
    _, parts = packed(tmp_path)
    commands = wheels.steps(parts)
    assert len(commands) == len(parts) > 3
    assert ["gpu.sh" in command for command in commands] == [False] * (len(parts) - 1) + [True]


# --- sections -------------------------------------------------------------------------------------

SECTIONS = f"""
import os, sys, time
sys.path.append({str(TOOLS)!r})
from gpu import supervise

def sleeps(tell):
    tell({{"sleeps": {{"first": 1}}}})
    time.sleep(60)

def dies(tell):
    tell({{"dies": {{"first": 2}}}})
    os._exit(3)

def fails(tell):
    raise ValueError("no such thing")

def well(tell):
    print("something for the log")
    tell({{"well": {{"a": {{"b": 3}}}}}})
    return {{"well": {{"a": {{"c": 4}}}}}}

supervise.run({{"sleeps": sleeps, "dies": dies, "fails": fails, "well": well}}, sys.argv[1:])
"""


def test_a_section_that_hangs_dies_or_fails_costs_itself_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "sections.py"
    script.write_text(SECTIONS)
    monkeypatch.setattr(supervise, "_LEAST", 5.0)  # what a process takes to start, on a busy machine
    told: list[str] = []
    found = supervise.measure(
        [sys.executable, str(script)],
        {"sleeps": 1.0, "dies": 30.0, "fails": 30.0, "well": 30.0},
        120.0,
        lambda figures: told.append(json.dumps(figures)),
        {},
    )
    assert found["sleeps"] == {"first": 1}
    assert found["dies"] == {"first": 2}
    assert found["well"] == {"a": {"b": 3, "c": 4}}
    hung, died, failed = found["skipped"]
    assert hung.startswith("sleeps: ended after 1 s")
    assert died == "dies: its process ended by itself (3)"
    assert failed == "fails: ValueError: no such thing"
    assert '"first": 1' in told[0]  # known as soon as it ended, not at the end of all
    assert '"well"' not in told[0]
    assert "something for the log" in capfd.readouterr().out


def test_no_section_is_begun_without_time(tmp_path: Path) -> None:
    script = tmp_path / "sections.py"
    script.write_text(SECTIONS)
    begun = time.monotonic()
    found = supervise.measure([sys.executable, str(script)], {"well": 30.0}, 1.0, lambda _: None, {})
    assert found["skipped"] == ["well: no time left"]
    assert time.monotonic() - begun < 5


def test_every_section_has_a_limit_and_the_sum_of_the_first_ones_fits() -> None:
    pytest.importorskip("torch")
    from gpu.sections import Sections

    known = Sections(stand_in=True).table()
    assert set(main.LIMITS) <= set(known)
    assert {"machine", *tables.NETWORKS, *tables.TECHNIQUES, "TensorRT", "CUDA graphs"} <= set(main.LIMITS)
    assert main.SECONDS < 360
    assert all(0 < limit < main.SECONDS / 3 for limit in main.LIMITS.values())


# --- tables ---------------------------------------------------------------------------------------

FIGURES = {
    "machine": {"date": "2026-01-02", "card": "A Card"},
    "ResNet-50": {
        "agreement": {
            "float32": [{"relative": 1e-7, "cosine": 1.0}, {"relative": 2e-6, "cosine": 0.99999}],
            "TF32": [{"relative": 1e-3, "cosine": 1.0}, {"relative": 0.1, "cosine": 0.99}],
        },
        "on_cpu": {"Concat": 2},
        "seconds": {
            "1": {"gradient on the card": 0.002, "torch gradient": 0.005},
            "64": {"gradient on the card": 0.04},
        },
    },
    "VGG-16": {"agreement": {"float32": [{"relative": 1e-7, "cosine": 1.0}] * 2}},
    "rise": {"of": "4000 masks", "ours": 1.5},
    "strided depthwise": {"1 × 96 × 112², 3×3": {"stuffed": 0.001}},
    "skipped": ["TensorRT: its libraries do not load"],
}


def test_tables_tell_what_is_there_and_leave_the_rest_empty() -> None:
    lines = tables.render(FIGURES).splitlines()
    assert "date 2026-01-02, card A Card" in lines
    assert "| ResNet-50 | 1.0e-07 | 2.0e-06 | 0.999990 | 1.0e-01 | 0.990000 | 2 Concat |" in lines
    assert "| VGG-16 | 1.0e-07 | 1.0e-07 | 1.000000 |  |  |  |" in lines
    assert "| ResNet-50 | 1 | 2.00 | 5.00 | 2.50× |" in lines
    assert "| ResNet-50 | 64 | 40.00 |  |  |" in lines
    assert "| rise, 4000 masks | ours 1.5 |" in lines
    assert "| 1 × 96 × 112², 3×3 | 1.000 |  |" in lines
    assert "- not measured: TensorRT: its libraries do not load" in lines
    assert tables.render({}).strip()  # before the first section has ended


def test_the_page_takes_the_table_between_its_markers() -> None:
    page = tables.PAGE.read_text("utf-8")
    with_table = tables.insert(page, "the table")
    assert "\nthe table\n" in with_table
    assert tables.insert(with_table, "another") == tables.insert(page, "another")
    assert page.partition(tables.BEGIN)[0] == with_table.partition(tables.BEGIN)[0]
    assert page.partition(tables.END)[2] == with_table.partition(tables.END)[2]
    with pytest.raises(ValueError, match="figures: begin"):
        tables.insert("no markers", "the table")
