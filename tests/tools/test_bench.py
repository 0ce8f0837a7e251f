"""The tools under tools/ speak to the package as it is: benchmarks run too seldom to find out by themselves."""

import ast
import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
sys.path.append(str(TOOLS))

from bench import table, turns  # noqa: E402


@pytest.mark.parametrize("path", sorted(TOOLS.rglob("*.py")), ids=lambda path: str(path.relative_to(TOOLS)))
def test_what_a_tool_imports_of_the_package_is_there(path):
    missing = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxviz":
            module = importlib.import_module(node.module)
            missing += [
                f"{node.module}.{one.name} (line {node.lineno})"
                for one in node.names
                if not hasattr(module, one.name) and not importlib.util.find_spec(f"{node.module}.{one.name}")
            ]
    assert not missing


# --- the table ------------------------------------------------------------------------------------


def row(part, name, **more):
    given = {"part": part, "date": "2026-01-01", "machine": "toy, 2 cores", "ratio": "1", "target": "none"}
    return {**given, "name": name, "detail": "", **more}


def test_the_pages_hold_what_was_measured():
    rows = json.loads(table.MEASURED.read_text("utf-8"))
    for page, chosen in (("docs/performance.md", rows), ("README.md", table.headlines(rows))):
        text = (ROOT / page).read_text("utf-8")
        assert text.split("<!-- bench -->")[1].split("<!-- /bench -->")[0].strip() == table.render(chosen)


def test_what_is_measured_takes_the_place_of_its_own_rows_alone():
    order = ["start", "gradient:a", "gradient:b", "isolate"]
    kept = [row("start", "old start"), row("gradient:a", "old a"), row("isolate", "old isolate")]
    found = table.merge(kept, [row("gradient:b", "new b"), row("start", "new start")], order)
    assert [one["name"] for one in found] == ["new start", "old a", "new b", "old isolate"]


def test_means_are_of_pieces_measured_at_different_times():
    figures = {
        f"{form} {batch}": [ratio, ratio, ratio]
        for form, ratio in (("floor", 1.0), ("stock", 2.0))
        for batch in (1, 8)
    }
    of = [
        {"network": name, "off": 0.0, "speed": {"torch 1": speed}, **figures}
        for name, speed in (("a", 2.0), ("b", 8.0))
    ]
    kept = [row("gradient:a", "a", figures=of[0]), row("gradient:all", "stale")]
    rows = table.merge(kept, [row("gradient:b", "b", figures=of[1])], ["gradient:a", "gradient:b"])
    made = {one["name"]: one for one in rows if one["part"] == "gradient:all"}
    assert made["gradient, speed over torch, geometric mean"]["ratio"] == "4.0×"
    assert "least 2.00× (a, batch 1)" in made["gradient, speed over torch, geometric mean"]["detail"]
    assert made["gradient over twice the forward time, geometric mean"]["ratio"] == "1.00 and 1.00"
    assert "stale" not in made


def test_rows_of_one_day_share_a_line_and_others_bear_their_dates():
    one, later = row("start", "a", spread="1 to 2"), row("isolate", "b", date="2026-02-02")
    assert table.render([one]).splitlines()[2:] == [
        "| a | 1 | 1 to 2 | none | |",
        "",
        "2026-01-01, toy, 2 cores.",
    ]
    both = table.render([one, later]).splitlines()
    assert both[2:4] == ["| a | 1 | 1 to 2 | none | | 2026-01-01 |", "| b | 1 | | none | | 2026-02-02 |"]
    assert both[-2:] == ["- 2026-01-01, toy, 2 cores.", "- 2026-02-02, toy, 2 cores."]


def test_a_row_tells_how_far_it_is_from_a_run_of_the_same_code():
    now = row("start", "a", values=[1.1, 2.0], code="c")
    before = row("start", "a", values=[1.0, 2.0], code="c")
    assert table.held_against({"a": before}, now) == {**now, "apart": "10.0%"}
    other = ({**before, "code": "d"}, {**before, "machine": "m"}, row("start", "a"))
    assert all(table.held_against({"a": one}, now) == now for one in other)
    assert table.held_against({"a": before}, row("start", "a", code="c")) == row("start", "a", code="c")
    lines = table.render([{**now, "apart": "10.0%"}, row("isolate", "b")]).splitlines()
    assert (
        lines[0] == "| measured | value | middle half of the turns | two runs differ by | target | detail |"
    )
    assert lines[2:4] == ["| a | 1 | | 10.0% | none | |", "| b | 1 | | | none | |"]


def test_the_code_has_a_name_that_follows_it(tmp_path):
    (tmp_path / "onnxviz").mkdir()
    (tmp_path / "onnxviz" / "a.py").write_text("one")
    first = table.code(tmp_path)
    (tmp_path / "onnxviz" / "a.py").write_text("two")
    assert table.code(tmp_path) != first


def test_a_benchmark_stands_for_its_parts():
    every = ["start", "gradient:a", "gradient:b"]
    assert table.choose(every, ["gradient"]) == ["gradient:a", "gradient:b"]
    assert table.choose(every, ["gradient:b", "start"]) == ["start", "gradient:b"]
    assert table.choose(every, []) == every
    with pytest.raises(SystemExit, match="no benchmark 'gradients'"):
        table.choose(every, ["gradients"])


# --- turns ----------------------------------------------------------------------------------------


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A maker of steps that sleep so many seconds, and give the process that they run in."""
    (tmp_path / "toy_peer.py").write_text(
        "import os, sys, time\nimport numpy as np\n"
        "def sleeper(seconds):\n"
        "    print('chatter')\n"
        "    if seconds < 0: raise ValueError('no such rest')\n"
        "    def step():\n"
        "        time.sleep(seconds)\n"
        "        return np.array([os.getpid()])\n"
        "    return step\n"
        "def dying():\n"
        "    os._exit(1)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "toy_peer"


def test_peers_run_in_processes_of_their_own_and_in_turns(toy):
    asked = {"slow": turns.Peer(f"{toy}:sleeper", 0.3), "fast": turns.Peer(f"{toy}:sleeper", 0.1)}
    with turns.ending(asked) as started:
        taken = turns.take_turns(started, seconds=0, least=2)
        assert len({int(peer.answer()[0]) for peer in started.values()} | {os.getpid()}) == 3
    assert [len(own) for own in taken.values()] == [2, 2]
    found = turns.ratio(taken["slow"], taken["fast"])
    assert found.low <= found.middle <= found.high
    assert found.middle > 1.2  # 3 on an idle machine
    # Asleep, not spinning: a rest costs no processor time.
    assert sum(turn.work for own in taken.values() for turn in own) < 0.1
    assert all(peer._process.poll() is not None for peer in asked.values())


def test_what_a_peer_cannot_do_is_told(toy):
    with turns.ending(
        {"refuses": turns.Peer(f"{toy}:sleeper", -1), "dies": turns.Peer(f"{toy}:dying")}
    ) as both:
        with pytest.raises(turns.Unmeasured, match="ValueError: no such rest"):
            both["refuses"].answer()
        with pytest.raises(turns.Unmeasured, match="died"):
            both["dies"].ready()
