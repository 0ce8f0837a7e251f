"""`onnxviz compare`: two models and their options, exit codes, what is told and accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.comparing import small, variants


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of one network, the second with 4 bits of its weights lost, and pictures."""
    folder = tmp_path_factory.mktemp("compare")
    model = small.resnet()
    for name, one in (
        ("a", model),
        ("same", model),
        ("b", variants.pruned(model)),
        ("seven", small.resnet(classes=7)),
    ):
        onnx.save(one, folder / f"{name}.onnx")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    return folder


@pytest.fixture
def call(folder, shell):
    """Compare two of them: `call("a b", "--fail-on never")`."""

    def outcome(files, options="", pictures=True):
        named = [str(folder / f"{name}.onnx") for name in files.split()] + [
            str(folder / "pictures")
        ] * pictures
        common = "--preprocess unit --provider cpu --threads 1 --methods '' --probes 2 --restore 1 -o out"
        return shell(f"compare {' '.join(named)} {common} {options}")

    return outcome


def test_the_same_file_twice_passes(call):
    code, out, err = call("a same")
    assert code == 0, out + err
    assert "findings" in out and "none" in out and "pass: out/report.html" in out
    assert Path("out/layers.csv").is_file()


def test_json_is_one_object(call):
    said = call("a b", "--json --fail-on never")
    told = said.json
    assert (said.code, told["schema"], told["verdict"]) == (0, "onnxviz.compare/1", "pass")
    assert told["manifest"]["b"]["model"]["sha256"] != told["manifest"]["model"]["sha256"]


def test_a_model_has_options_of_its_own_and_an_accepted_finding_does_not_count(call):
    own = "--preprocess-b tensorflow"
    said = call("a same", f"{own} --optimise-b off --json")
    told, manifest = said.json, said.json["manifest"]
    assert said.code == 1
    assert next(one["id"] for one in told["findings"] if one["severity"] == "high") == "compare.input"
    assert manifest["preprocessing"]["name"] == "unit" and "optimised" not in manifest
    assert manifest["b"]["preprocessing"]["name"] == "tensorflow" and manifest["b"]["optimised"] is False
    states = {one["id"]: one["state"] for one in told["checks"]}
    assert states["compare.runtime"] == "not-applicable"
    entries = (
        f'[[accepted]]\nfingerprint = "{one["fingerprint"]}"\nreason = "meant"\n' for one in told["findings"]
    )
    Path("accept.toml").write_text("".join(entries))
    said = call("a same", f"{own} --optimise-b off --accept accept.toml")
    assert said.code == 0 and "pass" in said.out
    assert said.out.count("Accepted: meant") == len(told["findings"])


def test_true_classes_pairs_and_one_layer(call):
    """--truth, --match and --layer: the screen tells what was fixed and broken, the table has that one layer."""
    Path("truth.csv").write_text("picture,class\n" + "".join(f"{n}.png,{n}\n" for n in range(3)))
    Path("pairs.csv").write_text("a,b\nblock1.relu1,block1.relu1\n")
    said = call("a b", "--fail-on never --truth truth.csv --match pairs.csv --layer block1.relu1")
    assert said.code == 0, said.err
    assert "of 3 pictures with a label" in said.out and "McNemar p" in said.out
    rows = Path("out/layers.csv").read_text().splitlines()
    assert len(rows) == 2 and rows[1].startswith("block1.relu1") and ",given," in rows[1]


def test_a_comparison_is_gone_on_with(call):
    first = call("a b", "--fail-on never")
    assert first.code == 0, first.err
    assert call("a b", "--fail-on never --resume")[:2] == first[:2]
    said = call("b a", "--fail-on never --resume")
    assert said.code == 2 and "one of the models changed" in said.err


def test_two_networks_are_told_by_both_names(call):
    said = call("a seven")
    assert said.code == 2 and "'a'" in said.err and "'seven'" in said.err


def test_without_pictures(call):
    said = call("a b", pictures=False)
    assert said.code == 0 and said.out.startswith("pictures  none were given")
    assert "signal to noise of B's weights, the worst first" in said.out and " dB  " in said.out
    assert " dB  " not in call("a same", pictures=False).out
