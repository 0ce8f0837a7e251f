"""`onnxviz audit`: lines, files, exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from onnxviz.auditing.subject import made
from tests.auditing.backdoors import PLANTED, SOUND
from tests.runtime.test_worker import DIVIDES

FILES = {"report.html", "report.json", "audit.sarif", "junit.xml", "findings.csv", "SHA256SUMS", "evidence"}


@pytest.fixture(autouse=True)
def files(shell):
    """A file with a backdoor and a sound one, in the folder that the shell is in."""
    Path("planted.onnx").write_bytes(PLANTED["corner_test_with_where"]().SerializeToString())
    Path("sound.onnx").write_bytes(SOUND["plain"]().SerializeToString())


def report() -> dict:
    return json.loads(Path("out/report.json").read_text("utf-8"))


def test_a_sound_file_is_0_and_a_planted_one_1(shell):
    said = shell("audit sound.onnx --preprocess unit -o a")
    assert said.code == 0 and said.out.endswith("verdict  pass\n")
    said = shell("audit planted.onnx --preprocess unit -o b")
    assert said.code == 1
    assert "FOUND    graph.bypass" in said.out and "node 'joined'" in said.out
    assert {path.name for path in Path("b").iterdir()} >= FILES
    run = json.loads(Path("b/audit.sarif").read_text("utf-8"))["runs"][0]
    assert run["artifacts"][0]["location"]["uri"] == "planted.onnx"
    assert "<title>planted.onnx: audit</title>" in Path("b/report.html").read_text("utf-8")


@pytest.mark.parametrize(("model", "code"), [("sound", 0), ("planted", 1)])
def test_the_line_for_ci_in_the_readme_runs(model, code, shell):
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text("utf-8")
    (line,) = re.findall(r"^onnxviz (audit .*?) *#", readme, flags=re.M)
    shutil.copy(f"{model}.onnx", "model.onnx")
    shell.names.discard("photos")  # those that lie here are meant
    Path("photos").mkdir()
    for number, picture in enumerate(made(32, 32, 0, 2)):
        Image.fromarray(picture).save(f"photos/{number}.png")
    said = shell(line)
    assert said.code == code, said.out
    assert Path("audit/report.html").is_file()


def test_json_is_the_report(shell):
    said = shell("audit planted.onnx --only graph --json -o out")
    assert said.code == 1
    assert (said.json["schema"], said.json["verdict"]) == ("onnxviz.audit/1", "fail")
    assert said.json["findings"][0]["where"] == "joined"


def test_never_fails_nothing_and_the_skeleton_accepts_it(shell):
    said = shell("audit planted.onnx --fail-on never --write-accept accept.toml -o out")
    assert said.code == 0 and "2 findings to be accepted" in said.err
    accepted = Path("accept.toml")
    accepted.write_text(accepted.read_text().replace('reason = ""', 'reason = "known"'))
    said = shell("audit planted.onnx --accept accept.toml -o out")
    assert said.code == 0 and "accepted: known" in said.out


@pytest.mark.parametrize(("name", "words"), [("sound.onnx", "ends in .toml"), ("kept.toml", "there already")])
def test_the_skeleton_is_never_written_over_a_file(name, words, shell):
    """The model itself, or reasons that somebody wrote."""
    before = Path("sound.onnx").read_bytes()
    Path(name).write_bytes(before)
    said = shell(f"audit {name} --write-accept {name} -o out")
    assert (said.code, Path(name).read_bytes()) == (2, before) and words in said.err
    assert not Path("out").exists()


def test_a_file_that_is_refused_still_gets_a_report(shell):
    said = shell("audit broken.onnx -o out")
    assert said.code == 1, said.err
    assert "FOUND    file.loading" in said.out
    rooms = "graph, file, weights, runtime, input, answers, stability, shortcut, faith, sanity"
    assert f"checks ({rooms}): the file could" in said.out
    assert len(report()["facts"]["file, SHA-256"]) == 64 and report()["verdict"] == "fail"


def test_without_pictures_one_line_says_what_they_would_add(shell):
    said = shell("audit sound.onnx --preprocess unit")
    (idle,) = [line for line in said.out.splitlines() if line.startswith("not run")]
    assert said.code == 0
    assert "checks (input, answers, stability, shortcut, faith, sanity): no pictures were given" in idle


def test_a_file_that_dies_still_gets_its_report(shell):
    Path("model.onnx").write_bytes(DIVIDES)
    said = shell("audit model.onnx --preprocess unit -o out")
    assert said.code == 1
    assert "SIGFPE" in said.out and "clean    file.finite" in said.out
    assert report()["verdict"] == "fail"
