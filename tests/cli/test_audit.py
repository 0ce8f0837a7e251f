"""`onnxviz audit`: lines, files, exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import onnx
import pytest
from PIL import Image

from onnxviz.auditing.subject import made
from onnxviz.cli.main import run
from tests.auditing.backdoors import PLANTED, SOUND
from tests.runtime.test_worker import DIVIDES


def outcome(*arguments, capsys) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    onnx.save(PLANTED["corner_test_with_where"](), folder / "planted.onnx")
    onnx.save(SOUND["plain"](), folder / "sound.onnx")
    (folder / "broken.onnx").write_bytes(b"\x08\x07:\x05nothing")
    return folder


def test_a_sound_file_is_0_and_a_planted_one_1(files, tmp_path, capsys):
    code, out, _ = outcome(
        "audit", files / "sound.onnx", "--preprocess", "unit", "-o", tmp_path / "a", capsys=capsys
    )
    assert code == 0
    assert out.endswith("verdict  pass\n")
    code, out, _ = outcome(
        "audit", files / "planted.onnx", "--preprocess", "unit", "-o", tmp_path / "b", capsys=capsys
    )
    assert code == 1
    assert "FOUND    graph.bypass" in out
    assert "node 'joined'" in out
    names = {path.name for path in (tmp_path / "b").iterdir()}
    assert {
        "report.html",
        "report.json",
        "audit.sarif",
        "junit.xml",
        "findings.csv",
        "SHA256SUMS",
        "evidence",
    } <= names
    run = json.loads((tmp_path / "b" / "audit.sarif").read_text("utf-8"))["runs"][0]
    assert run["artifacts"][0]["location"]["uri"] == "planted.onnx"
    assert "<title>planted.onnx: audit</title>" in (tmp_path / "b" / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("model", "code"), [("sound", 0), ("planted", 1)])
def test_the_line_for_ci_in_the_readme_runs(model, code, files, tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^onnxviz (audit .*?) *#", readme, flags=re.M)
    monkeypatch.chdir(tmp_path)
    shutil.copy(files / f"{model}.onnx", "model.onnx")
    Path("photos").mkdir()
    for number, picture in enumerate(made(32, 32, 0, 2)):
        Image.fromarray(picture).save(f"photos/{number}.png")
    got, out, _ = outcome(*line.split(), capsys=capsys)
    assert got == code, out
    assert Path("audit/report.html").is_file()


def test_json_is_the_report(files, tmp_path, capsys):
    code, out, _ = outcome(
        "audit", files / "planted.onnx", "--only", "graph", "--json", "-o", tmp_path / "out", capsys=capsys
    )
    assert code == 1
    told = json.loads(out)
    assert told["schema"] == "onnxviz.audit/1"
    assert told["verdict"] == "fail"
    assert told["findings"][0]["where"] == "joined"


def test_never_fails_nothing_and_the_skeleton_accepts_it(files, tmp_path, capsys):
    accepted = tmp_path / "accept.toml"
    out = ("-o", tmp_path / "out")
    code, _, err = outcome(
        "audit", files / "planted.onnx", "--fail-on", "never", "--write-accept", accepted, *out, capsys=capsys
    )
    assert code == 0
    assert "2 findings to be accepted" in err
    accepted.write_text(accepted.read_text().replace('reason = ""', 'reason = "known"'))
    code, out_, _ = outcome("audit", files / "planted.onnx", "--accept", accepted, *out, capsys=capsys)
    assert code == 0
    assert "accepted: known" in out_


@pytest.mark.parametrize(("name", "said"), [("sound.onnx", "ends in .toml"), ("kept.toml", "there already")])
def test_the_skeleton_is_never_written_over_a_file(name, said, files, tmp_path, capsys):
    """The model itself, or reasons that somebody wrote."""
    target = tmp_path / name
    shutil.copy(files / "sound.onnx", target)
    before = target.read_bytes()
    code, _, err = outcome("audit", target, "--write-accept", target, "-o", tmp_path / "out", capsys=capsys)
    assert (code, target.read_bytes()) == (2, before)
    assert said in err
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_refused_still_gets_a_report(files, tmp_path, capsys):
    code, out, err = outcome("audit", files / "broken.onnx", "-o", tmp_path / "out", capsys=capsys)
    assert code == 1, err
    assert "FOUND    file.loading" in out
    assert (
        "checks (graph, file, weights, runtime, input, answers, stability, shortcut, faith, sanity): the file could"
        in out
    )
    told = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert len(told["facts"]["file, SHA-256"]) == 64
    assert told["verdict"] == "fail"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.onnx"], 3, "none.onnx"),
        (["{sound}", "--only", "graph.bypas"], 2, "did you mean 'graph.bypass'"),
        (["{sound}", "--policy", "none.toml"], 2, "none.toml"),
        (["{sound}", "--accept", "none.toml"], 2, "none.toml"),
        (["{broken}", "--fail-on", "much"], 2, "one of high"),
        (["{sound}", "none.png"], 3, "none.png"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, code, message, files, tmp_path, capsys):
    named = {"{sound}": files / "sound.onnx", "{broken}": files / "broken.onnx"}
    given = [named.get(one, one) for one in arguments]
    got, out, err = outcome("audit", *given, "-o", tmp_path / "out", capsys=capsys)
    assert (got, out) == (code, ""), err
    assert message in err
    assert not (tmp_path / "out").exists()


def test_without_pictures_one_line_says_what_they_would_add(files, capsys):
    code, out, _ = outcome("audit", files / "sound.onnx", "--preprocess", "unit", capsys=capsys)
    assert code == 0
    idle = [line for line in out.splitlines() if line.startswith("not run")]
    assert len(idle) == 1
    assert "checks (input, answers, stability, shortcut, faith, sanity): no pictures were given" in idle[0]


def test_a_file_that_dies_still_gets_its_report(tmp_path, capsys):
    (tmp_path / "model.onnx").write_bytes(DIVIDES)
    code, out, _ = outcome(
        "audit", tmp_path / "model.onnx", "--preprocess", "unit", "-o", tmp_path / "out", capsys=capsys
    )
    assert code == 1
    assert "SIGFPE" in out
    assert "clean    file.finite" in out
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["verdict"] == "fail"
