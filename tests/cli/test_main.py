"""What every command promises: exit codes, one-line errors, JSON on stdout alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxviz.cli.main import run
from onnxviz.cli.options import Option, sides
from onnxviz.cli.table import COMMANDS
from onnxviz.errors import UsageError

LITE0 = "efficientnet-lite0"


def outcome(*arguments, capsys) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_predict_finds_the_cat(photo_files, capsys):
    code, out, _ = outcome("predict", LITE0, photo_files[0], capsys=capsys)
    assert code == 0
    assert "Egyptian cat" in out.splitlines()[1]


def test_json_is_one_object_and_nothing_else(photo_files, capsys):
    code, out, _ = outcome("predict", LITE0, photo_files[0], "--json", capsys=capsys)
    assert code == 0
    value = json.loads(out)
    assert value["schema"] == "onnxviz.predict/1"
    assert value["images"][0]["top"][0]["index"] == 285
    assert len(value["manifest"]["model"]["sha256"]) == 64


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", LITE0], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["predict", LITE0, "{photo}", "--top", "0"], 2, "top"),
        (["predict", LITE0, "{photo}", "--provider", "abacus"], 2, "abacus"),
        (["predict", LITE0, "{photo}", "--provider", "cuda"], 2, "cuda"),
        (["predict", "nonsense", "{photo}"], 2, "no network is called"),
        (["predict", LITE0, "{photo}", "--size", "0"], 2, "--size"),
        (["predict", LITE0, "{photo}", "--mean", "a,b"], 2, "--mean"),
        (["predict", LITE0, "{photo}", "--layout", "CHWN"], 2, "layout"),
        (["predict", LITE0, "{photo}", "--limit", "node=1"], 2, "nodes"),
        (["activations", LITE0, "{photo}", "--layer", "stemm", "-o", "{out}"], 2, "did you mean 'stem'"),
        (["occlusion", LITE0, "{photo}", "--target", "1000", "-o", "{out}"], 2, "1000 classes"),
        (["occlusion", LITE0, "{photo}", "--target", "egyptain cat", "-o", "{out}"], 2, "Egyptian cat"),
        (["predict", "{empty}", "{photo}"], 3, "empty"),
        (["predict", "none.onnx", "{photo}"], 3, "none.onnx"),
        (["predict", "{photo}", "{photo}"], 3, "PNG"),
        (["predict", LITE0, "{empty}"], 3, "empty"),
        (["predict", LITE0, "none.jpg"], 3, "none.jpg"),
        (["predict", LITE0, "{photo}", "--labels", "{short}"], 3, "2 labels"),
        (["predict", LITE0, "{photo}", "--labels", "none.txt"], 3, "no labels file"),
        (["predict", LITE0, "{photo}", "--preprocess", "none.json"], 3, "none.json"),
        (["predict", LITE0, "{photo}", "--limit", "nodes=3"], 4, "nodes"),
    ],
)
def test_wrong_input_is_one_line_and_the_right_exit_code(
    arguments, code, message, photo_files, tmp_path, capsys
):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "short.txt").write_text("a\nb\n")
    names = {
        "{photo}": photo_files[0],
        "{out}": tmp_path / "out.png",
        "{empty}": tmp_path / "empty.onnx",
        "{short}": tmp_path / "short.txt",
    }
    got, out, err = outcome(*(names.get(argument, argument) for argument in arguments), capsys=capsys)
    assert got == code, err
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    if code != 2:
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out.png").exists()


def test_a_bad_picture_among_good_ones_is_skipped_and_listed(photo_files, tmp_path, capsys):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    code, out, err = outcome("predict", LITE0, photo_files[0], bad, "--json", capsys=capsys)
    assert code == 0
    value = json.loads(out)
    assert len(value["images"]) == 1
    assert [item["path"] for item in value["skipped"]] == [str(bad)]
    assert "bad.jpg" in err


def test_an_internal_error_is_one_line_unless_debugging(monkeypatch, photo_files, capsys):
    import onnxviz

    def broken(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(onnxviz, "filters", broken)
    code, _, err = outcome("filters", LITE0, capsys=capsys)
    assert code == 5
    assert "a bug" in err
    assert len(err.strip().splitlines()) == 1
    monkeypatch.setenv("ONNXVIZ_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a bug"):
        run(["filters", LITE0])


def test_ctrl_c_is_130(monkeypatch, capsys):
    import onnxviz

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(onnxviz, "filters", interrupted)
    code, _, err = outcome("filters", LITE0, capsys=capsys)
    assert code == 130
    assert "interrupted" in err


def test_ctrl_c_is_one_line_from_the_first_moment_on(monkeypatch, capsys):
    """While typer builds the commands, it was a traceback; while a command began or ended, silence."""
    from onnxviz.cli import main as module
    from onnxviz.cli.run import Run

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    places = (
        (Run, "__enter__"),
        (Run, "__exit__"),
        (module, "program"),
        (Option, "value"),
        (Option, "parameter"),
    )
    for owner, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            assert outcome("models", capsys=capsys)[::2] == (130, "onnxviz: interrupted\n"), name
    code = (
        "import signal, sys, onnxviz.cli.main; from onnxviz.cli import parent;"
        "sys.modules['onnxviz.cli.main'].main = lambda: signal.raise_signal(signal.SIGINT);"
        "signal.signal(signal.SIGINT, signal.default_int_handler); parent.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "onnxviz: interrupted\n")


def test_control_characters_in_names_reach_no_terminal(tmp_path, capsys):
    code, _, err = outcome("predict", LITE0, tmp_path / "\x1b[31mred\x1b[0m.png", capsys=capsys)
    assert code == 3
    assert "\x1b" not in err


def test_version(capsys):
    from onnxviz import __version__

    assert outcome("--version", capsys=capsys) == (0, f"onnxviz {__version__}\n", "")


@pytest.mark.parametrize(("text", "size"), [("224", 224), ("320x240", (240, 320)), ("320×240", (240, 320))])
def test_size_is_width_by_height(text, size):
    assert sides(text, "--size") == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1x2x3", "a"])
def test_a_size_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="takes a number of pixels"):
        sides(text, "--size")


def test_no_progress_bar_and_no_colour_where_stderr_is_no_terminal(photo_files, tmp_path):
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "onnxviz",
            "occlusion",
            LITE0,
            str(photo_files[0]),
            "-o",
            str(tmp_path / "o.png"),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert Path(result.stdout.strip()) == tmp_path / "o.png"


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m onnxviz inspect {LITE0} | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr == ""


def test_every_command_shares_the_common_options(capsys):
    for name in COMMANDS:
        code, out, _ = outcome(name, "--help", capsys=capsys)
        assert code == 0
        for option in ("--out", "--json", "--provider", "--threads", "--seed", "--quiet"):
            assert option in out, (name, option)


def test_a_second_run_with_the_same_out_is_told_before_any_work(photo_files, tmp_path, capsys):
    from onnxviz.claims import claimed

    out = tmp_path / "out.png"
    with claimed(out):
        code, _, err = outcome("occlusion", LITE0, photo_files[0], "-o", out, capsys=capsys)
    assert code == 3
    assert "another run" in err
    assert not out.exists()
