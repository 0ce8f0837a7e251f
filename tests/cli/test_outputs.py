"""What outputs mean, on the command line: --output, --objective, --neuron, and what is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import heads

MORE = {"rise": "--masks 9 --grid 4", "occlusion": "--window 4"}


@pytest.fixture
def call(shell):
    """Run a command on a model and a picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")

    def outcome(command, proto, *options):
        Path("model.onnx").write_bytes(proto.SerializeToString())
        picture = "" if command == "inspect" else "a.png"
        out = "" if command in ("inspect", "predict") else "-o map.png"
        line = f"{command} model.onnx {picture} --preprocess imagenet --provider cpu {MORE.get(command, '')} {out}"
        return shell(line, *options)

    return outcome


def test_predict_names_the_option_and_takes_it(call):
    said = call("predict", heads.two())
    assert said.code == 3 and '--output "first"' in said.err
    said = call("predict", heads.two(), "--output", "second", "--json", "--top", "7")
    assert said.code == 0 and len(said.json["images"][0]["top"]) == 7
    assert said.json["manifest"]["output"]["name"] == "second"
    said = call("predict", heads.two(), "--output", "secnod")
    assert said.code in (2, 3) and "did you mean 'second'" in said.err


@pytest.mark.parametrize("command", ["saliency", "cam", "occlusion", "rise", "segment"])
def test_every_explaining_command_takes_an_output(call, command):
    said = call(command, heads.two(), "--output", "second", "--json")
    assert said.code == 0 and said.json["manifest"]["output"]["name"] == "second"


@pytest.mark.parametrize("command", ["saliency", "occlusion", "rise"])
def test_objectives_as_text(call, command, shell):
    said = call(command, heads.row(5, "logits"), "--objective", "logit(3) - 0.5*logit(1)", "--json")
    assert said.code == 0
    assert "logit(3)" in said.json["manifest"]["parameters"]["label"] or command == "saliency"
    assert np.abs(shell.values("map")).max() > 0


def test_a_sequence_step_by_step(call, shell):
    proto = heads.sequence("tnc", "Softmax")
    said = call("predict", proto, "--json")
    steps = said.json["images"][0]["steps"]
    assert said.code == 0 and [one["step"] for one in steps] == list(range(8))
    said = call("predict", proto, "-o", "steps.csv")
    assert len([line for line in said.out.splitlines() if line.startswith("  step ")]) == 8
    assert Path("steps.csv").read_text().splitlines()[0] == "file,step,index,label,probability"
    said = call("saliency", proto)
    assert said.code == 3 and "--neuron 4" in said.err and "--objective" in said.err
    for command in ("saliency", "occlusion"):
        said = call(command, proto, "--neuron", "4", "--json")
        assert said.code == 0 and said.json["manifest"]["parameters"]["target"] == steps[4]["index"]
        assert np.abs(shell.values("map")).max() > 0


@pytest.mark.parametrize("proto", [heads.row(3, "pose"), heads.detector("nms"), heads.detector("raw")])
def test_what_holds_no_classes_is_refused_with_the_way_on(call, proto):
    for command in ("predict", "saliency", "cam", "occlusion", "rise", "segment"):
        said = call(command, proto)
        assert said.code == 3 and "--objective" in said.err and said.err.count("\n") == 1
    said = call("inspect", proto)
    assert said.code == 0 and f"'{proto.graph.output[0].name}' (" in said.out


def test_one_score_everywhere(call):
    proto = heads.one("logit")
    said = call("predict", proto)
    assert said.code == 0 and len(said.out.splitlines()) == 3
    assert "the one number of output 'score'" in said.err
    for command in ("saliency", "cam", "occlusion", "segment"):
        assert call(command, proto).code == call(command, proto, "--target", "0").code == 0
    assert call("saliency", proto, "--target", "2").code in (2, 3)


def test_inspect_tells_what_each_output_was_found_to_be(call):
    said = call("inspect", heads.two(), "--output", "second")
    assert said.code == 0 and "'first' (N, 5): taken for 5 classes" in said.out
    (meaning,) = call("inspect", heads.row(5, end="Softmax"), "--json").json["output_meanings"]
    expected = {"kind": "classes", "activation": "softmax", "classes": 5, "told": True}
    assert meaning.items() >= expected.items()


def test_the_step_that_a_refusal_names_is_there_in_narrow_pictures(call):
    """Steps follow the picture's width: the example must not name one that only the nominal size has."""
    proto = heads.sequence("tnc", "", width="W")
    Image.fromarray(np.zeros((16, 8, 3), np.uint8)).save("a.png")
    said = call("saliency", proto)
    assert said.code == 3 and ', 1, 0)" for class 0 of step 1' in said.err
    example = said.err.split('--objective "')[1].split('"')[0]
    assert call("saliency", proto, "--objective", example).code == 0
    for command in ("saliency", "occlusion"):
        said = call(command, proto, "--objective", example.replace(", 1, 0)", ", 900, 0)"))
        assert said.code == 2 and "index 900 of an axis that has length" in said.err
