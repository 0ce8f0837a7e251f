"""What outputs mean, on the command line: --output, --objective, --neuron, and what is told."""

from __future__ import annotations

import json

import heads
import numpy as np
import pytest
from PIL import Image

from onnxviz.cli.main import run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def call(tmp_path, picture, capsys):
    """Run a command on a model and the picture: exit code, stdout, stderr."""

    def outcome(command, proto, *options):
        (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
        arguments = [command, str(tmp_path / "model.onnx")]
        arguments += [] if command == "inspect" else [str(picture)]
        arguments += ["--preprocess", "imagenet", "--provider", "cpu", *options]
        if command not in ("inspect", "predict"):
            arguments += ["-o", str(tmp_path / "map.png")]
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return outcome


def two_heads():
    m = heads.Maker()
    x = heads.pooled(m)
    one, two = heads.linear(m, x, 5), heads.linear(m, x, 7)
    return heads.finished(m, heads.renamed(m, one, "first"), heads.renamed(m, two, "second"))


def test_predict_names_the_option_and_takes_it(call):
    code, _, said = call("predict", two_heads())
    assert code == 3 and '--output "first"' in said
    code, out, _ = call("predict", two_heads(), "--output", "second", "--json", "--top", "7")
    value = json.loads(out)
    assert code == 0 and len(value["images"][0]["top"]) == 7
    assert value["manifest"]["output"]["name"] == "second"
    code, _, said = call("predict", two_heads(), "--output", "secnod")
    assert code in (2, 3) and "did you mean 'second'" in said


@pytest.mark.parametrize("command", ["saliency", "cam", "occlusion", "rise", "segment"])
def test_every_explaining_command_takes_an_output(call, command, tmp_path):
    options = {"rise": ["--masks", "9", "--grid", "4"], "occlusion": ["--window", "4"]}.get(command, [])
    code, out, _ = call(command, two_heads(), "--output", "second", "--json", *options)
    assert code == 0
    assert json.loads(out)["manifest"]["output"]["name"] == "second"


@pytest.mark.parametrize("command", ["saliency", "occlusion", "rise"])
def test_objectives_as_text(call, command, tmp_path):
    options = {"rise": ["--masks", "9", "--grid", "4"], "occlusion": ["--window", "4"]}.get(command, [])
    text = "logit(3) - 0.5*logit(1)"
    code, out, _ = call(command, heads.row(5, "logits"), "--objective", text, "--json", *options)
    assert code == 0
    assert "logit(3)" in json.loads(out)["manifest"]["parameters"]["label"] or command == "saliency"
    assert np.abs(np.load(tmp_path / "map.npy")).max() > 0


def test_a_sequence_step_by_step(call, tmp_path):
    proto = heads.sequence("tnc", "Softmax")
    code, out, _ = call("predict", proto, "--json")
    steps = json.loads(out)["images"][0]["steps"]
    assert code == 0 and [one["step"] for one in steps] == list(range(8))
    code, out, _ = call("predict", proto)
    assert code == 0 and len([line for line in out.splitlines() if line.startswith("  step ")]) == 8
    assert call("predict", proto, "-o", str(tmp_path / "steps.csv"))[0] == 0
    assert (tmp_path / "steps.csv").read_text().splitlines()[0] == "file,step,index,label,probability"
    code, _, said = call("saliency", proto)
    assert code == 3 and "--neuron 4" in said and "--objective" in said
    for command in ("saliency", "occlusion"):
        code, out, _ = call(command, proto, "--neuron", "4", "--json")
        assert code == 0
        assert json.loads(out)["manifest"]["parameters"]["target"] == steps[4]["index"]
        assert np.abs(np.load(tmp_path / "map.npy")).max() > 0


@pytest.mark.parametrize("proto", [heads.row(3, "pose"), heads.detector("nms"), heads.detector("raw")])
def test_what_holds_no_classes_is_refused_with_the_way_on(call, proto):
    for command in ("predict", "saliency", "cam", "occlusion", "rise", "segment"):
        code, _, said = call(command, proto)
        assert code == 3 and "--objective" in said and len(said.strip().splitlines()) == 1
    code, out, _ = call("inspect", proto)
    assert code == 0 and f"'{proto.graph.output[0].name}' (" in out


def test_one_score_everywhere(call):
    proto = heads.one("logit")
    code, out, said = call("predict", proto)
    assert code == 0 and len(out.splitlines()) == 3
    assert "the one number of output 'score'" in said
    for command in ("saliency", "cam", "occlusion", "segment"):
        assert call(command, proto)[0] == 0
        assert call(command, proto, "--target", "0")[0] == 0
    assert call("saliency", proto, "--target", "2")[0] in (2, 3)


def test_inspect_tells_what_each_output_was_found_to_be(call):
    code, out, _ = call("inspect", two_heads(), "--output", "second")
    assert code == 0
    assert "'first' (N, 5): taken for 5 classes" in out
    code, out, _ = call("inspect", heads.row(5, end="Softmax"), "--json")
    (meaning,) = json.loads(out)["output_meanings"]
    assert (meaning["kind"], meaning["activation"], meaning["classes"], meaning["told"]) == (
        "classes",
        "softmax",
        5,
        True,
    )


def test_the_step_that_a_refusal_names_is_there_in_narrow_pictures(call, tmp_path, picture):
    """Steps follow the picture's width: the example must not name one that only the nominal size has."""
    proto = heads.sequence("tnc", "", width="W")
    Image.fromarray(np.zeros((16, 8, 3), np.uint8)).save(picture)
    code, _, said = call("saliency", proto)
    assert code == 3 and ', 1, 0)" for class 0 of step 1' in said
    example = said.split('--objective "')[1].split('"')[0]
    assert call("saliency", proto, "--objective", example)[0] == 0
    for command in ("saliency", "occlusion"):
        code, _, said = call(command, proto, "--objective", example.replace(", 1, 0)", ", 900, 0)"))
        assert code == 2 and "index 900 of an axis that has length" in said
