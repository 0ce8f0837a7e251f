"""Numbers that are none, in either file: weights, scales, values of some pictures; and answers that hold no signal."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.auditing.report.html import render, shown
from onnxviz.comparing import compare as comparing
from onnxviz.comparing import finite as reading
from onnxviz.comparing.finite import stored
from onnxviz.comparing.judge import verdict
from onnxviz.comparing.page import page
from onnxviz.comparing.result import PARTS, _loaded, _plain
from onnxviz.errors import ModelRejected
from tests.comparing import small
from tests.comparing.small import SCALED, opened
from tests.networks import edited, fp16

NAN, INF = math.nan, math.inf
W = "block1.conv1.weight"


def every(number):
    return lambda array: np.full_like(array, number)


def one(number, place=3):
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == place, number, array)


def little(a, b, images=None, **options):
    """A comparison without maps, on two probes."""
    a, b = (opened(net, **SCALED) if not isinstance(net, onnxviz.Network) else net for net in (a, b))
    return onnxviz.compare(a, b, images, **{"methods": (), "probes": 2, "restore": 0, **options})


def finite(found):
    return [finding for finding in found.findings if finding.id == "compare.finite"]


def strict(found, folder):
    """The report as JSON, of which all files are such as the standard has it."""
    found.save(folder)
    for path in folder.glob("*.json"):
        json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    return json.loads((folder / "report.json").read_text("utf-8"))


# --- what a file stores -----------------------------------------------------------------------------


STORED = [
    ("float", W, one(NAN), "block1.conv1", "holds 1 NaN among its 4608 elements"),
    ("float", W, every(INF), "block1.conv1", "holds 4608 infinite"),
    ("float", "block1.conv1.bias", one(-INF), "block1.conv1", "holds 1 infinite"),
    ("float", "block1.norm1.var", one(NAN), "block1.norm1", "holds 1 NaN"),
    ("QDQ", "stem_scale", every(NAN), "stem_QuantizeLinear", "is NaN"),
    ("QDQ", "stem_scale", every(0), "stem_QuantizeLinear", "is 0"),
    ("QDQ", "stem_scale", every(INF), "stem_QuantizeLinear", "is infinite"),
    ("QDQ", "stem_scale", every(-0.1), "stem_QuantizeLinear", "is -0.1"),
    ("QDQ", f"{W}_scale", one(NAN), f"{W}_DequantizeLinear", "holds 1 NaN among its 32 numbers"),
    ("QDQ", f"{W}_scale", one(0), f"{W}_DequantizeLinear", "holds 1 zero among its 32 numbers"),
    ("QDQ", "block1.conv1.bias_quantized_scale", one(0), "block1.conv1.bias_DequantizeLinear", "1 zero"),
    ("QOperator", "stem_scale", every(0), "stem_quant", "is 0"),
    ("QOperator", "block1.conv1_scale", every(NAN), "block1.conv1_quant", "is NaN"),
    ("QOperator", f"{W}_scale", one(INF), "block1.conv1_quant", "holds 1 infinite among its 32 numbers"),
    ("QOperator", f"{W}_scale", one(0), "block1.conv1_quant", "holds 1 zero among its 32 numbers"),
]


@pytest.mark.parametrize(
    ("form", "name", "change", "node", "told", "photos"),
    [(*case, False) for case in STORED] + [(*case, True) for case in STORED[4:6]],
)
def test_what_a_file_stores_that_is_no_number_is_named(
    files, resnet, pictures, form, name, change, node, told, photos
):
    """With its node; whether or not it reaches the answers: a quantiser makes whole numbers of NaN."""
    b = edited(files.small("resnet", form), **{name: change})
    found = little(resnet[0], b, pictures[:2] if photos else None)
    (finding,) = finite(found)
    assert finding.severity == "high" and finding.where.startswith("B's ")
    assert f"'{name}' of '{node}' " in finding.sentence and told in finding.sentence
    assert verdict(found, "high", {}) == "fail"


@pytest.mark.parametrize("broken", ["A", "AB"])
@pytest.mark.parametrize(("form", "name", "photos"), [("float", W, True), ("QDQ", "stem_scale", False)])
def test_the_file_is_named(files, pictures, form, name, broken, photos):
    path = files.small("resnet", form)
    sides = [edited(path, **{name: one(NAN, 0)}) if side in broken else path for side in "AB"]
    found = finite(little(*sides, pictures[:2] if photos else None))
    assert [finding.where[0] for finding in found] == list(broken)
    assert all(name in finding.sentence for finding in found)
    assert len({finding.fingerprint for finding in found}) == len(broken)


@pytest.mark.parametrize("form", ["float", "QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_sound_files_store_numbers(files, name, form):
    assert stored(opened(files.small(name, form))) == []


def test_scales_that_lose_nothing_are_none(files):
    """Of a filter of zeros 0 is as good a step as any; weights in blocks may have negative ones, or none."""
    dead = {f"{W}_quantized": lambda w: np.where(np.arange(32)[:, None, None, None] == 3, 0, w)}
    assert stored(opened(edited(files.small("resnet", "QDQ"), **{f"{W}_scale": one(0)}, **dead))) == []
    m = small.Named(opset=21)
    codes, scales = m.constant(np.int8(m.rng.integers(-8, 8, (12, 4)))), np.float32(m.rng.normal(size=(3, 4)))
    scales[0, 0] = 0
    weights = m.layer("weights", "DequantizeLinear", codes, m.constant(scales), axis=0, block_size=4)
    y = m("MatMul", m("Flatten", "image"), weights)
    y = m("Clip", y, m.constant(np.float32(0)), m.constant(np.float32(INF)))
    model = m.model({"image": ("N", 3, 2, 2)}, {y: ("N", 4)})
    assert stored(opened(model)) == []


# --- what it gives ----------------------------------------------------------------------------------


def test_what_no_picture_was_left_for_is_not_run_and_says_why(files, resnet, pictures, tmp_path):
    found = little(resnet[0], edited(files.small("resnet"), **{W: one(NAN)}), pictures[:4])
    (finding,) = finite(found)
    assert finding.where == "B's block1.conv1"
    assert finding.sentence.startswith("B gives NaN or infinities for 4 of 4 pictures (image 0, image 1, ")
    assert "first at block1.conv1: the weight 'block1.conv1.weight'" in finding.sentence
    for id in ("answers", "layer", "clipping", "range", "relu", "runtime"):
        check = found.check(f"compare.{id}")
        assert check.state == "not-run" and "NaN" in check.reason, id
    told = "\n".join(found.lines())
    assert "no layer differs" not in told and "of 0" not in told and " dB" not in told
    assert verdict(found, "never", {}) == "incomplete"
    assert strict(found, tmp_path / "out")["verdict"] == "fail"


def test_pictures_of_which_some_give_nan(files, pictures, tmp_path):
    """The first layer is looked for on one of these; nothing that is stored is to blame."""
    model = small.resnet()
    brightness = [picture.mean() for picture in pictures]
    limit = (np.median(brightness) - 127.5) / 40
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], "mean", axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sub", ["mean", "limit"], ["over"], "over"),
        helper.make_node("Sqrt", ["over"], ["root"], "root"),
        helper.make_node("Mul", ["root", "nought"], ["none"], "none"),
        helper.make_node("Unsqueeze", ["none", "one"], ["column"], "column"),
        helper.make_node("Add", ["logits", "column"], ["answers"], "answers"),
    ]
    model.graph.node.extend(nodes)
    weights = {"limit": np.float32(limit), "nought": np.float32(0), "one": np.int64([1])}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answers", TensorProto.FLOAT, ("N", 10)))
    found = little(files.small("resnet"), model, pictures)
    (finding,) = finite(found)
    odd = [f"image {place}" for place, light in enumerate(brightness) if light < np.median(brightness)]
    assert f"for {len(odd)} of 8 pictures ({', '.join(odd[:3])}, …), first at root;" in finding.sentence
    assert "B's weights are finite there" in finding.advice
    assert found.answers.pictures == 8 - len(odd) and found.check("compare.answers").state == "clean"


@pytest.mark.parametrize("photos", [True, False], ids=["pictures", "none"])
def test_numbers_that_overflow_a_narrow_type(files, pictures, photos):
    a = edited(files.small("resnet"), **{f"logits.{part}": lambda w: 6e3 * w for part in ("weight", "bias")})
    found = little(a, fp16(a), pictures[:2] if photos else None)
    (finding,) = finite(found)
    assert finding.where == "B's logits" and "overflow in a narrow type" in finding.advice
    assert ("that were made" in finding.sentence) is not photos


def test_one_layer_that_alone_gives_nan_is_a_finding(files, resnet, pictures, tmp_path):
    """Where B's next quantiser makes whole numbers of it, only the layer's own effect shows it."""
    b = edited(files.small("resnet", "QDQ"), image_scale=every(NAN))
    found = little(resnet[0], b, pictures[:2], restore=1)
    (finding,) = [finding for finding in found.findings if finding.id == "compare.layer"]
    assert finding.where == "image" and "gives NaN or infinities" in finding.sentence
    strict(found, tmp_path / "out")


@pytest.mark.parametrize("photos", [True, False], ids=["pictures", "none"])
def test_what_is_stored_is_told_where_nothing_runs(files, resnet, pictures, monkeypatch, photos):
    def refused(*_, **__):
        raise ModelRejected("no kernel for it")

    monkeypatch.setattr(reading, "_odd_samples", refused)
    monkeypatch.setattr(comparing, "answers", refused)
    images = pictures[:2] if photos else None
    check = little(*resnet, images).check("compare.finite")
    assert (check.state, check.reason) == ("not-run", "no kernel for it")
    (finding,) = finite(little(resnet[0], edited(files.small("resnet", "QDQ"), stem_scale=every(0)), images))
    assert "is 0" in finding.sentence


# --- answers that hold no signal --------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["both", "A"])
@pytest.mark.parametrize(
    ("weight", "bias", "told"),
    [
        (every(0), every(0), "one number throughout"),
        (every(0), every(1.1), "one number throughout"),  # less its mean rounding is left
        (every(0), None, "the same numbers for every picture"),
    ],
    ids=["nil", "level", "constant"],
)
def test_b_cannot_be_judged_by_answers_without_signal(files, pictures, tmp_path, weight, bias, told, same):
    changes = {"logits.weight": weight} | ({} if bias is None else {"logits.bias": bias})
    a = edited(files.small("resnet"), **changes)
    found = little(a, a if same else files.small("resnet"), pictures[:4], restore=1)
    check = found.check("compare.answers")
    assert check.state == "not-run" and told in check.reason
    assert told in found.lines()[0] and verdict(found, "never", {}) == "incomplete"
    report = strict(found, tmp_path / "out")
    assert report["verdict"] == ("incomplete" if same or bias is not None else "fail")
    assert found.check("compare.range").reason == check.reason  # nor B's ranges by values that A lost
    if bias is not None:
        assert told in found.check("compare.layer").reason
        assert not any(" dB" in line for line in found.lines())
        assert {one["sqnr_db"] for one in report["figures"]["answers"]["outputs"].values()} == {None}


@pytest.mark.parametrize(("name", "last"), [("resnet", "logits"), ("segmenter", "classes")])
def test_without_pictures_two_that_are_made_tell_as_much(files, name, last):
    parts = {f"{last}.weight": every(0), f"{last}.bias": every(0)}
    found = little(edited(files.small(name), **parts), files.small(name))
    assert "one number throughout" in found.lines()[-1] and verdict(found, "never", {}) == "incomplete"
    assert verdict(little(files.small(name), files.small(name, "QDQ")), "high", {}) == "pass"


def test_pictures_that_are_one_picture_are_no_constant_answer(resnet, pictures):
    found = little(*resnet, [pictures[0], pictures[0]])
    assert found.check("compare.answers").state == "clean"


def test_what_is_healed_whole_is_no_number_of_decibels(files, resnet, pictures, tmp_path):
    """And what JSON has no word for comes back as it was."""
    b = edited(files.small("resnet"), **{W: lambda w: 1.5 * w})
    found = little(resnet[0], b, pictures[:2], restore=1)
    assert found.effects.ranked[0].healed == INF
    text = render(page(found)).decode()
    assert ">inf<" not in text and ">∞<" in text
    strict(found, tmp_path / "out")
    assert not any("inf" in line.split() for line in found.lines())
    assert _loaded(_plain(found.effects)) == found.effects
    again = json.loads((tmp_path / "out" / PARTS).read_text("utf-8"))
    assert _loaded(again["parts"]["local"]).ranked[0].healed == INF
    assert [shown(number, "+.1f") for number in (INF, -INF)] == ["+∞", "−∞"]
