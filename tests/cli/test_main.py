"""What every command promises: exit codes, one-line errors, JSON on stdout alone, tables by their names."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import onnxviz
from onnxviz.claims import claimed
from onnxviz.cli import main
from onnxviz.cli.options import Option, sides, weights
from onnxviz.cli.run import Run
from onnxviz.cli.table import COMMANDS
from onnxviz.errors import UsageError

LITE0 = "efficientnet-lite0"


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_predict_tells_classes_and_json_is_one_object(photo_files, shell):
    assert "Egyptian cat" in shell(f"predict {LITE0}", photo_files[0]).out.splitlines()[1]
    value = shell(f"predict {LITE0} --json", photo_files[0]).json
    assert value["schema"] == "onnxviz.predict/1"
    assert value["images"][0]["top"][0]["index"] == 285
    assert len(value["manifest"]["model"]["sha256"]) == 64


def test_tables_are_what_their_names_say(shell):
    def rows(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader(Path(name).open(encoding="utf-8")))

    assert shell("predict TOY photos --top 2 -o p.csv").code == 0
    assert [(row["rank"], row["label"] in ("red", "green")) for row in rows("p.csv")] == [
        ("1", True),
        ("2", True),
    ] * 2
    assert sum(float(row["probability"]) for row in rows("p.csv")) == pytest.approx(2, abs=1e-5)
    assert rows("p.csv")[0]["file"].endswith("0.png")
    assert shell("predict TOY photos -o made/").code == 0
    assert shell.manifest("made/predict")["schema"] == "onnxviz.predict/1"
    assert shell("inspect toy.onnx --quiet -o i.csv").code == 0 and "features" in Path("i.csv").read_text()
    assert shell("neighbours TOY photos --layer features --k 1 -q -o n.csv").code == 0
    assert {row["rank"] for row in rows("n.csv")} == {"1"} and float(rows("n.csv")[0]["distance"]) > 0
    assert shell("map TOY photos --layer features -q -o m.csv").code == 0
    places = [[float(row["x"]), float(row["y"])] for row in rows("m.csv")]
    np.testing.assert_allclose(places, shell.values("m"), rtol=1e-6)


def test_a_bad_picture_among_good_ones_is_skipped_and_listed(shell, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    said = shell("predict TOY photos/0.png bad.jpg --json")
    assert said.code == 0 and "bad.jpg" in said.err
    assert len(said.json["images"]) == 1
    assert [item["path"] for item in said.json["skipped"]] == ["bad.jpg"]


def test_an_internal_error_is_one_line_unless_debugging(monkeypatch, shell):
    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(onnxviz, "filters", broken)
    said = shell("filters TOY")
    assert said.code == 5 and "a bug" in said.err and said.err.count("\n") == 1
    monkeypatch.setenv("ONNXVIZ_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        shell("filters TOY")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (onnxviz, "doctor"),
        (Run, "__enter__"),
        (Run, "__exit__"),
        (main, "program"),
        (Option, "value"),
        (Option, "parameter"),
    ],
)
def test_ctrl_c_is_130_and_one_line_at_any_moment(owner, name, monkeypatch, shell):
    """While typer builds the commands, it was a traceback; while a command began or ended, silence."""
    monkeypatch.setattr(owner, name, interrupted)
    assert shell("doctor")[::2] == (130, "onnxviz: interrupted\n")


def test_ctrl_c_where_no_command_answers_it_is_130():
    code = (
        "import signal, sys, onnxviz.cli.main; from onnxviz.cli import parent;"
        "sys.modules['onnxviz.cli.main'].main = lambda: signal.raise_signal(signal.SIGINT);"
        "signal.signal(signal.SIGINT, signal.default_int_handler); parent.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "onnxviz: interrupted\n")


def test_control_characters_in_names_reach_no_terminal(shell):
    said = shell("predict TOY", "\x1b[31mred\x1b[0m.png")
    assert said.code == 3 and "\x1b" not in said.err


def test_version(shell):
    assert shell("--version") == (0, f"onnxviz {onnxviz.__version__}\n", "")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("224", 224),
        ("320x240", (240, 320)),
        ("320×240", (240, 320)),
        *((t, None) for t in ("", "x", "-1", "1x2x3", "a")),
    ],
)
def test_size_is_width_by_height(text, size):
    if size is not None:
        assert sides(text, "--size") == size
    else:
        with pytest.raises(UsageError, match="takes a number of pixels"):
            sides(text, "--size")


def test_layers_with_weights():
    assert weights(["a", "b=0.5", "x=y=2"], "--layer") == {"a": 1.0, "b": 0.5, "x=y": 2.0}
    with pytest.raises(UsageError, match="LAYER=WEIGHT"):
        weights(["a=b"], "--layer")


def test_no_progress_bar_and_no_colour_where_stderr_is_no_terminal(photo_files, tmp_path):
    words = ["occlusion", LITE0, str(photo_files[0]), "-o", str(tmp_path / "o.png")]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "onnxviz", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path / 'o.png'}\n", "")


def test_every_command_shares_the_common_options(shell):
    for name in COMMANDS:
        said = shell(f"{name} --help")
        assert said.code == 0
        for option in ("--out", "--json", "--provider", "--threads", "--seed", "--quiet"):
            assert option in said.out, (name, option)


def test_a_second_run_with_the_same_out_is_told_before_any_work(shell):
    with claimed(Path("out.png")):
        said = shell("occlusion TOY photos/0.png -o out.png")
    assert said.code == 3 and "another run" in said.err
    assert not Path("out.png").exists()
