"""`onnxviz compare`: two models and their options, exit codes, what is told and accepted."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxviz.cli.main import run
from tests.comparing import small, variants


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of one network, the second with 4 bits of its weights lost, and pictures."""
    folder = tmp_path_factory.mktemp("compare")
    model = small.resnet()
    onnx.save(model, folder / "a.onnx")
    onnx.save(model, folder / "same.onnx")
    onnx.save(variants.pruned(model), folder / "b.onnx")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return folder


@pytest.fixture
def call(folder, tmp_path, capsys):
    """Run it: exit code, stdout, stderr."""

    def outcome(a, b, *options, pictures=True):
        line = ["compare", str(folder / a), str(folder / b), *([str(folder / "photos")] if pictures else [])]
        line += ["--provider", "cpu", "--threads", "1", "--methods", "", "--probes", "2", "--restore", "1"]
        code = run([*line, "-o", str(tmp_path / "out"), *map(str, options)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return outcome


def test_the_same_file_twice_passes(call, tmp_path):
    code, out, err = call("a.onnx", "same.onnx", "--preprocess", "unit")
    assert code == 0, out + err
    assert "findings" in out and "none" in out
    assert f"pass: {tmp_path / 'out' / 'report.html'}" in out
    assert (tmp_path / "out" / "layers.csv").is_file()


def test_json_is_one_object(call):
    code, out, _ = call("a.onnx", "b.onnx", "--preprocess", "unit", "--json", "--fail-on", "never")
    told = json.loads(out)
    assert code == 0 and told["schema"] == "onnxviz.compare/1" and told["verdict"] == "pass"
    assert told["manifest"]["b"]["model"]["sha256"] != told["manifest"]["model"]["sha256"]


def test_a_model_has_options_of_its_own(call, folder):
    code, out, _ = call(
        "a.onnx",
        "same.onnx",
        "--preprocess",
        "unit",
        "--preprocess-b",
        "tensorflow",
        "--optimise-b",
        "off",
        "--json",
    )
    told = json.loads(out)
    assert (
        code == 1
        and next(one["id"] for one in told["findings"] if one["severity"] == "high") == "compare.input"
    )
    assert told["manifest"]["preprocessing"]["name"] == "unit"
    assert told["manifest"]["b"]["preprocessing"]["name"] == "tensorflow"
    assert told["manifest"]["b"]["optimised"] is False and "optimised" not in told["manifest"]
    runtime = next(one for one in told["checks"] if one["id"] == "compare.runtime")
    assert runtime["state"] == "not-applicable"


def test_an_accepted_finding_does_not_count(call, tmp_path):
    options = ("--preprocess", "unit", "--preprocess-b", "tensorflow")
    code, out, _ = call("a.onnx", "same.onnx", *options, "--json")
    entries = "".join(
        f'[[accepted]]\nfingerprint = "{one["fingerprint"]}"\nreason = "meant"\n'
        for one in json.loads(out)["findings"]
    )
    (tmp_path / "accept.toml").write_text(entries)
    assert code == 1
    code, out, _ = call("a.onnx", "same.onnx", *options, "--accept", tmp_path / "accept.toml")
    assert code == 0 and "pass" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fail-on", "hihg"), "did you mean 'high'"),
        (("--optimise-a", "perhaps"), "on or off"),
        (("--methods", "grad-cma"), "grad-cam"),
        (("--accept", "missing.toml"), "accepted findings"),
        (("--truth", "missing.csv"), "true classes"),
        (("--layer", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_told_before_any_work(call, options, words, tmp_path):
    code, _, err = call("a.onnx", "b.onnx", "--preprocess", "unit", *options)
    assert code == 2 and words in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_true_classes_pairs_and_one_layer(call, tmp_path):
    """--truth, --match and --layer: the screen tells what was fixed and broken, the table has that one layer."""
    (tmp_path / "truth.csv").write_text("picture,class\n" + "".join(f"{n}.png,{n}\n" for n in range(3)))
    (tmp_path / "pairs.csv").write_text("a,b\nblock1.relu1,block1.relu1\n")
    options = (
        "--truth",
        tmp_path / "truth.csv",
        "--match",
        tmp_path / "pairs.csv",
        "--layer",
        "block1.relu1",
    )
    code, out, err = call("a.onnx", "b.onnx", "--preprocess", "unit", "--fail-on", "never", *options)
    assert code == 0, err
    assert "of 3 pictures with a label" in out and "McNemar p" in out
    rows = (tmp_path / "out" / "layers.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("block1.relu1") and ",given," in rows[1]


def test_a_comparison_is_gone_on_with(call):
    options = ("--preprocess", "unit", "--fail-on", "never")
    code, first, err = call("a.onnx", "b.onnx", *options)
    assert code == 0, err
    code, again, err = call("a.onnx", "b.onnx", *options, "--resume")
    assert (code, again) == (0, first), err
    code, _, err = call("b.onnx", "a.onnx", *options, "--resume")
    assert code == 2 and "one of the models changed" in err


def test_two_networks_are_told_by_both_names(call, folder):
    onnx.save(small.resnet(classes=7), folder / "seven.onnx")
    code, _, err = call("a.onnx", "seven.onnx", "--preprocess", "unit")
    assert code == 2 and "'a'" in err and "'seven'" in err


def test_without_pictures(call):
    code, out, _ = call("a.onnx", "b.onnx", "--preprocess", "unit", pictures=False)
    assert code == 0 and out.startswith("pictures  none were given")
