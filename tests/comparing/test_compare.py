"""The whole of a comparison: what is found in sound and faulty files, what is written, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
import re
import weakref
from dataclasses import replace

import numpy as np
import onnx
import pytest
import quantise
from onnx import numpy_helper
from PIL import Image
from processors import CUTS_SUMS

import onnxviz
from onnxviz import programs
from onnxviz.auditing.finding import SEVERITIES, Finding
from onnxviz.auditing.report.html import render
from onnxviz.auditing.statistics import Likeness, Share
from onnxviz.comparing import compare as comparing
from onnxviz.comparing.cause import source
from onnxviz.comparing.judge import judged, missing, verdict
from onnxviz.comparing.local import Advice, Exclusion
from onnxviz.comparing.match import Pair
from onnxviz.comparing.page import advice, page
from onnxviz.comparing.rules import LAYER_MOVED, LAYER_SHARE
from onnxviz.comparing.why import LayerFigures, Why
from onnxviz.errors import ModelRejected, UsageError
from onnxviz.progress import Interrupted
from tests.comparing import small, variants
from tests.comparing.small import SCALED, opened
from tests.networks import edited

GRAVE = SEVERITIES[:2]


@pytest.fixture(scope="module")
def photos(files):
    return files.photos()[::4]


@pytest.fixture(scope="module")
def compared(files, net, photos):
    """The bundled network with one of its int8 forms, each once: `compared("QDQ", per_channel=False)`."""
    made = {}

    def of(form, **options):
        key = form, tuple(options.items())
        if key not in made:
            options = {"methods": (), "probes": 4, "restore": 3, **options}
            own = {name: options.pop(name) for name in ("methods", "probes", "restore")}
            made[key] = onnxviz.compare(net, opened(files(form, **options)), photos, **own)
        return made[key]

    return of


def grave(found):
    return {one.id for one in found.findings if one.severity in GRAVE}


def named(found, id):
    """The findings of one check."""
    return [one for one in found.findings if one.id == id]


def little(a, b, images=None, **options):
    """A comparison without maps, on two probes."""
    return onnxviz.compare(a, b, images, **{"methods": (), "probes": 2, "restore": 0, **options})


# --- what is found ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_file_has_no_finding(compared, form):
    found = compared(form)
    assert not grave(found), [one.sentence for one in found.findings]
    assert found.check("compare.matching").figure > 0.99
    # What this processor makes of the file, compare.runtime says.
    told = {"compare.drift", "compare.runtime"} if CUTS_SUMS else {"compare.drift"}
    assert {one.state for one in found.checks if one.id not in told} == {"clean"}
    cut = named(found, "compare.runtime")
    assert all(one.severity == "low" and "VNNI" in one.told for one in cut) and (CUTS_SUMS or not cut)
    assert 0.65 < found.split.shares["weights"] < 0.9 and found.split.shares["clipping"] < 0.01


def test_the_layers_stand_in_order_with_their_own_part_a_reason_and_measured_advice(compared):
    found = compared("QDQ")
    table, advice = found.table(), found.advice
    assert len({len(cells) for cells in table.values()}) == 1
    assert sum(share or 0 for share in table["share"]) == pytest.approx(1, abs=1e-6)
    first = table["place"].index(1)
    assert table["share"][first] == max(share for share in table["share"] if share is not None)
    assert table["reason"][first]
    assert found.values.dtype == np.float32 and found.values.max() == pytest.approx(table["effect"][first])
    assert [len(one.layers) for one in advice.exclusions] == [1, 2, 3]
    assert advice.exclusions[-1].gain > 1 and all(0 < one.macs < 1 for one in advice.exclusions)


@pytest.mark.parametrize("form", ["QDQ", "float"])
@pytest.mark.parametrize("too_small", [False, True])
def test_damage_behind_the_logits_is_told_before_layers_are(pictures, form, too_small):
    """A quantiser of the probabilities: no layer in front of it does what it does."""
    model = small.mobilenet(classes=4)
    model = edited(model, **{"logits.weight": lambda w: w * np.float32(6)})
    model.graph.node.append(onnx.helper.make_node("Softmax", ["logits"], ["probs"], name="probs", axis=1))
    model.graph.output[0].name = "probs"
    a, b = model, copy.deepcopy(model)
    if form == "QDQ":
        b = quantise.quantise(
            model, quantise.Scheme(reduce_range=True), quantise.calibrate(model, small.pictures(32))
        )
        change = {"probs_scale": lambda scale: scale / (16 if too_small else 1)}
        b = edited(b, **change)
    else:
        step = numpy_helper.from_array(np.float32(1 / 255 / (16 if too_small else 1)), "step")
        b.graph.initializer.append(step)
        b.graph.node[-1].output[0] = "shares"
        b.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["shares", "step"], ["codes"], name="q"))
        b.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["codes", "step"], ["probs"], name="d"))
    found = little(*(opened(one, **SCALED) for one in (a, b)), pictures * 3)
    lines = "\n".join(found.lines())
    behind = "what differs stands behind the logits, at which layers are measured: probs"
    assert (behind in lines) is too_small and bool(found.answers.behind) is too_small
    (which,) = (one for one in page(found).sections if one.title == "Which layer")
    assert ("behind the logits" in which.lead) is too_small
    if too_small:
        assert re.search(f"layers +{behind}\n", lines)
        assert named(found, "compare.answers")[0].advice == "mend what B does behind its logits: probs"
        assert "mostly" not in lines


def test_per_tensor_is_told_by_its_answers_and_its_weights(files, net):
    found = little(net, opened(files("QDQ", per_channel=False)), files.photos()[::2])
    assert "compare.answers" in grave(found)
    assert found.split.cause == "weights" and found.split.shares["weights"] > 0.9
    assert "the weights" in found.check("compare.answers").findings[0].advice


def test_a_calibration_on_other_pixels_is_told(net, files, photos):
    found = little(net, opened(files("QDQ", calibrate="unit")), photos[::2])
    assert "compare.input" in grave(found) and found.split.cause == "clipping"
    assert found.effects.ranked[0].layer == found.layers["layer"][0] == "image"
    assert "quantiser" in found.layers["reason"][0] and found.layers["place"][0] == 1


def test_a_calibration_on_noise_is_told(net, files, photos):
    found = little(net, opened(files("QDQ", calibrate="noise")), photos[::2])
    assert grave(found) and found.split.cause == "rounding"


@pytest.mark.parametrize(
    ("name", "fault", "rule"),
    [
        ("resnet", "weights*1.5@stem", "compare.weights"),
        ("resnet", "4bit@stem", "compare.weights"),
        ("resnet", "scale/4@stem", "compare.clipping"),
        ("resnet", "scale*8@stem", "compare.range"),
        ("mobilenet", "zero+24@block0.reduce", "compare.relu"),
    ],
)
def test_a_planted_fault_is_named_with_its_layer(files, pictures, name, fault, rule):
    place = quantise.fault(onnx.load(files.small(name)), fault)
    broken = quantise.plant(onnx.load(files.small(name, "QDQ")), place)
    models = (opened(model, **SCALED) for model in (files.small(name), broken))
    found = little(*models, pictures, probes=4, restore=1)
    layers = {place.place.layer, *place.place.names, f"{place.place.layer}.norm"}
    assert layers & {one.where for one in named(found, rule)}, found.lines()
    if rule == "compare.relu":
        assert any(re.match("A is never negative.*in the place of", told) for told in found.layers["reason"])
        assert all("steps under 0" in one.sentence for one in named(found, "compare.layer"))
    if rule != "compare.relu":  # that layer is but a gate
        assert found.effects.ranked[0].layer in layers
    if found.effects.ranked[0].share > LAYER_SHARE:  # of the whole file nothing is advised then
        told = source(found.split, found.why, found.effects)
        assert f"at {found.effects.ranked[0].layer} alone" in told and "bits" not in told


def test_what_a_part_compiles_ends_with_it(files, pictures, monkeypatch):
    """Each session holds the weights once more: no more of them live at a time than a part needs."""
    alive, most, make = weakref.WeakSet(), [], programs.session

    def counted(*args, **settings):
        made = make(*args, **settings)
        alive.add(made)
        most.append(len(alive))
        return made

    monkeypatch.setattr(programs, "session", counted)
    a, b = (opened(files.small("resnet", form), **SCALED) for form in ("float", "QDQ"))
    found = onnxviz.compare(a, b, pictures[:4], probes=2)
    assert len(most) > 10 and max(most) <= 4
    assert not a._programs and not a._gradients and not b._programs
    assert found.manifest["provider"] == found.manifest["b"]["provider"] == "CPUExecutionProvider"


def test_a_file_with_itself_differs_in_nothing(resnet, pictures):
    found = onnxviz.compare(resnet[0], resnet[0], pictures[:3], probes=2)
    assert not found.findings
    assert found.answers.agreement[0.0].share == 1
    assert not found.effects.effects and not len(found.values)
    assert found.split.cause is None
    assert found.answers.noise.sd == 0
    assert found.drift.methods["grad-cam"].r == 1


def test_without_pictures_weights_and_structure_are_compared(files, resnet):
    found = onnxviz.compare(resnet[0], opened(files.small("resnet", "QOperator"), **SCALED))
    states = {one.id: one.state for one in found.checks}
    assert states["compare.weights"] == "clean" and states["compare.input"] == "clean"
    assert states["compare.answers"] == states["compare.clipping"] == "not-run"
    assert "weights_sqnr_db" in found.layers and "sqnr_db" not in found.layers
    assert "low" in found.layers
    assert not found.pictured and not grave(found)
    told = " ".join(one.lead for one in page(found).sections)
    assert "measured" not in told and "damage" not in told


def test_true_classes_tell_what_was_broken(resnet, pictures):
    best = [one[0].index for one in resnet[0].predict(pictures, top=1)]
    found = little(*resnet, pictures, truth=best)
    assert found.answers.truth.right_a.count == len(pictures)
    assert found.answers.truth.broken == len(found.answers.flips["picture"])
    assert found.advice is None
    assert found.answers.flips.get("truth_label", []) == found.answers.flips.get("a_label", [])
    assert any(f"{len(pictures)} true classes" in one.name for one in page(found).numbers)


# --- numbers that are none ----------------------------------------------------------------------


def test_nan_is_a_finding(files, resnet, pictures):
    b = edited(files.small("resnet"), **{"logits.weight": lambda w: np.where(w == w[0], np.nan, w)})
    assert "compare.finite" in grave(little(resnet[0], opened(b, **SCALED), pictures[:2]))


def test_what_cannot_run_is_said_and_the_rest_goes_on(resnet, pictures, monkeypatch):
    def refused(*_, **__):
        raise ModelRejected("no kernel for it")

    monkeypatch.setattr(comparing, "answers", refused)
    found = little(*resnet, pictures[:2], restore=8)
    assert found.reasons == {"answers": "no kernel for it"}
    assert found.check("compare.answers").state == "not-run"
    assert found.check("compare.matching").state == "clean"
    assert any("no kernel" in line for line in found.lines())


def test_ctrl_c_keeps_what_was_done(resnet, pictures, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "why", stop)
    with pytest.raises(Interrupted) as stopped:
        onnxviz.compare(*resnet, pictures[:2], probes=2)
    partial = stopped.value.partial
    assert partial.manifest["incomplete"] and partial.answers.pictures == 2
    assert partial.reasons["why"] == "interrupted"
    assert partial.check("compare.weights").state == "not-run"
    partial.save(tmp_path / "out")
    assert json.loads((tmp_path / "out/report.json").read_text())["verdict"] == "incomplete"


def test_a_rectifier_that_b_lacks_is_a_finding(resnet, pictures):
    model = small.resnet()
    next(node for node in model.graph.node if node.name == "block1.relu1").op_type = "Identity"
    found = little(resnet[0], opened(model, **SCALED), pictures[:4], probes=4, restore=1)
    (one,) = named(found, "compare.relu")
    assert one.where == "block1.relu1" and one.severity == "high" and one.figure > 50
    reason = found.layers["reason"][found.layers["layer"].index("block1.norm1")]
    assert "B has no activation behind it" in reason
    told = "\n".join(found.lines())
    assert "put back this layer as in A" in told and "inf" not in told and "per channel" not in told


@pytest.mark.parametrize("write", ["Clip", "Max", "HardSwish"])
def test_a_rectifier_that_is_written_otherwise_is_none(resnet, pictures, write):
    model = small.resnet()
    node = next(node for node in model.graph.node if node.name == "block1.relu1")
    node.op_type = write
    if write != "HardSwish":
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nought"))
        node.input.append("nought")
    found = little(resnet[0], opened(model, **SCALED), pictures[:2])
    assert found.check("compare.relu").state != "found"


def test_a_file_that_always_says_the_same_says_nothing_of_the_runtime(resnet, pictures):
    constant = {"logits.weight": lambda w: 0 * w, "logits.bias": lambda b: np.full_like(b, 1.1)}
    found = little(resnet[0], opened(edited(small.resnet(), **constant), **SCALED), pictures[:4])
    assert found.check("compare.runtime").state == "not-applicable"
    assert "compare.answers" in grave(found)


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ({"per_channel": False}, r"int8 per tensor\): quantise them per channel, or with more bits"),
        ({}, r"int8 per channel\): quantise them with more bits"),
        ({"reduce_range": True}, r"int8 per channel, within 7 bits as by reduce_range\): quantise them with"),
    ],
)
def test_what_is_advised_about_weights_follows_from_the_file(files, resnet, pictures, scheme, words):
    b = files.small("resnet", "QDQ", activations="uint8", **scheme)
    found = little(resnet[0], opened(b, **SCALED), pictures[:2])
    told = source(replace(found.split, weights=1.0, activations=0.0, clipping=0.0), found.why)
    assert re.search(words, told)


# --- what is written ----------------------------------------------------------------------------


def test_what_is_written(compared, net, tmp_path):
    found = compared("QDQ")
    page = found.save(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = {
        "report.html",
        "report.json",
        "layers.csv",
        "flips.csv",
        "exclude.json",
        "compare.sarif",
        "junit.xml",
    }
    assert wanted | {"manifest.json", "SHA256SUMS"} <= names and page.name == "report.html"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["model"]["sha256"] == net.digest != manifest["b"]["model"]["sha256"]
    exclude = json.loads((tmp_path / "out/exclude.json").read_text())
    known = {node.name for node in net.model.graph}
    assert exclude["nodes_to_exclude"] == list(found.advice.best.nodes)
    assert exclude["exclude"] and all(set(one["nodes_to_exclude"]) <= known for one in exclude["exclude"])
    told = json.loads((tmp_path / "out/report.json").read_text())
    assert told["verdict"] == "pass" and {one["id"] for one in told["checks"]} > {"compare.answers"}


def test_a_severity_that_there_is_not_is_refused(compared, tmp_path):
    with pytest.raises(UsageError, match="'hgih'; did you mean 'high'"):
        compared("QDQ").save(tmp_path / "out", fail_on="hgih")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def explained(resnet, pictures):
    """The small network and its int8 file, with maps."""
    return onnxviz.compare(*resnet, pictures[:3], methods=("grad-cam", "gradient"), probes=2, restore=1)


def test_the_worst_maps_lie_beside_the_page(explained, tmp_path):
    explained.save(tmp_path / "out")
    for method in ("grad-cam", "gradient"):
        with Image.open(tmp_path / f"out/drift-{method}.png") as sheet:
            assert sheet.width > 400 and sheet.height > 200
    written = json.loads((tmp_path / "out/manifest.json").read_text())["written"]
    assert {"drift-grad-cam.png", "drift.csv"} <= set(written)


def test_the_page_says_how_layers_were_found_and_which_were_not(explained):
    def told(found):
        return next(one.blocks for one in page(found).sections if one.title == "What was compared")

    text, table = told(explained)
    assert "not found" not in text.text and not missing(explained.matching)
    assert sum(table.columns["values"]) == len(explained.matching.pairs)
    assert table.columns["found by"][0] == "their weights"
    own = explained.matching
    lost = replace(
        own,
        pairs=tuple(one for one in own.pairs if one.a != "logits"),
        kernels=tuple(one for one in own.kernels if one[0] != "logits"),
    )
    text, _ = told(replace(explained, matching=lost))
    assert text.text.endswith("not compared: logits.")


def test_one_advice_for_many_layers_stands_once(explained):
    check = explained.check("compare.clipping")
    findings = tuple(
        Finding(check.id, "medium", 0.1, 0.001, layer, f"{layer} is cut off", "calibrate again")
        for layer in ("one", "two", "three", "four", "five")
    )
    found = replace(explained, checks=(replace(check, findings=findings),))
    assert [text for text in advice(found) if "calibrate" in text] == [
        "calibrate again (one, two, three and 2 more layers)"
    ]
    taken = found.lines({findings[0].fingerprint: "known"})
    assert any(line.endswith("one is cut off. Accepted: known") for line in taken)
    many = replace(found, checks=(replace(check, findings=findings * 3),))
    assert any(line.endswith("5 more: see the report") for line in many.lines())


def test_a_layers_name_is_no_beginning_of_a_sentence(explained):
    check = explained.check("compare.layer")
    finding = Finding(
        check.id, "high", 5.0, 4.5, "stem.relu", "stem.relu alone makes 97%", headline="One layer"
    )
    text = render(page(replace(explained, checks=(replace(check, findings=(finding,)),)))).decode()
    assert '<h3 dir="auto">One layer</h3>' in text and ">stem.relu alone makes 97%.</p>" in text


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (0.8125, 0.8125, "the same class in 81% of the probes as before"),
        (0.8125, 0.8145, "the same class in 81.5% of the probes instead of 81.2%"),
        (0.5, 0.75, "the same class in 75% of the probes instead of 50%"),
    ],
)
def test_what_is_gained_is_told_in_digits_that_show_it(explained, before, after, told):
    lists = (Exclusion(("stem.relu",), ("stem",), 20.0, 6.0, after, 0.1),)
    found = replace(explained, advice=Advice(14.0, before, lists, 16))
    assert any(told in line for line in found.lines())


def test_of_one_picture_nothing_is_told_in_the_plural(resnet, pictures):
    found = little(*resnet, pictures[:1])
    text = " ".join([*found.lines(), render(page(found)).decode()])
    assert re.search(r"\b1 picture\b", text) and not re.search(
        r"\b1 (pictures|layers|places|classes)\b", text
    )


def test_a_processor_whose_sums_are_cut_is_a_thing_to_do(explained):
    for vnni, told in ((False, True), (True, False), (None, False)):
        found = replace(explained, why=replace(explained.why, machine={"vnni": vnni}))
        assert any("reduce_range" in line for line in found.lines()) is told


@pytest.mark.parametrize(
    ("vnni", "noise", "severity"),
    [(False, 0.2, "low"), (False, 1e-4, None), (True, 0.2, "high"), (None, 0.2, "high")],
)
def test_what_a_processor_cuts_is_its_doing_and_told_once(explained, vnni, noise, severity):
    """The file is sound: where other answers and other maps come from is the processor, and what to do follows."""
    cut = vnni is False and severity is not None
    answers = replace(explained.answers, agreement={0.1: Share(10, 40)})
    moved = replace(explained.drift.methods["grad-cam"], drifted=Share(40, 40))
    parts = {
        "answers": answers,
        "drift": replace(explained.drift, methods={"grad-cam": moved}),
        "why": replace(explained.why, machine={"vnni": vnni}),
        "runtime": Likeness(signal=1.0, noise=noise),
    }
    checks = judged(parts, {}, True)
    found = replace(explained, checks=checks, why=parts["why"])
    assert [one.severity for one in named(found, "compare.runtime")] == ([severity] if severity else [])
    for rule in ("compare.answers", "compare.drift"):
        (one,) = named(found, rule)
        assert ("reduce_range" in one.advice) is cut
    assert sum("reduce_range" in text for text in advice(found)) == (vnni is False)


def test_a_screen_and_a_notebook_tell_answers_layers_and_what_to_do(compared):
    found = compared("QDQ")
    lines = found.lines()
    heads = [line.split("  ")[0].strip() for line in lines]
    assert [head for head in heads if head][:4] == ["answers", "layers", "noise from", "to do"]
    assert len(lines) < 24 and any("dB, measured" in line for line in lines)
    assert found._repr_png_() is None
    assert found._repr_html_().startswith("<pre>answers") and "B&#x27;s" in found._repr_html_()


def test_a_comparison_can_be_pickled_and_copied(compared):
    found = compared("QDQ")
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again.to_dict()["checks"] == found.to_dict()["checks"]
        assert again.matching.pairs == found.matching.pairs
        assert len(again.matching.b.graph) == len(found.matching.b.graph)


def test_of_one_layer_the_table_has_that_one(resnet, pictures):
    found = little(*resnet, pictures[:2], layers="block1.relu1")
    assert found.layers["layer"] == ["block1.relu1"] and found.layers["op"] == ["Relu"]
    assert found.layers["place"][0] > 0 and "rounding" in found.layers["reason"][0]


@pytest.mark.parametrize(
    ("weights", "layers"),
    [
        ("logits.weight", {"logits"}),
        ("block1.conv2.weight", {"block1.conv2", "block1.norm2"}),
        ("stem.weight", {"stem", "stem.norm", "stem.relu"}),
    ],
)
def test_the_one_layer_that_was_made_anew_is_named(files, resnet, pictures, weights, layers):
    rng = np.random.default_rng(0)
    b = edited(files.small("resnet"), **{weights: lambda w: w.std() * rng.standard_normal(w.shape)})
    found = little(resnet[0], opened(b, **SCALED), pictures[:4], probes=16, restore=1)
    worst = found.effects.ranked[0]
    assert worst.layer in layers and worst.share > 0.99
    assert [one.where for one in named(found, "compare.layer")] == [worst.layer] * (worst.e >= LAYER_MOVED)
    assert found.check("compare.matching").figure == 1


@pytest.mark.parametrize("form", ["float", "QDQ"])
@pytest.mark.parametrize("blocks", [(0,), (0, 1, 2)], ids=["one", "all"])
def test_channels_in_another_order_are_found_and_no_fault(files, resnet, pictures, blocks, form):
    """Layers of the same sizes one behind the other: none is like A's as it stands, and the file computes the same."""
    model = onnx.load(files.small("resnet"))
    for block in blocks:
        model = variants.reordered(model, f"block{block}.conv1", f"block{block}.conv2")
    if form == "QDQ":
        model = quantise.quantise(
            model, quantise.Scheme(form, reduce_range=True), quantise.calibrate(model, small.pictures(32))
        )
    found = little(resnet[0], opened(model, **SCALED), pictures[:4], probes=4, restore=0)
    assert found.check("compare.matching").figure == 1
    assert not found.findings and verdict(found, "low", {}) == "pass"


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_layers_that_equalisation_binds_together_are_not_one(form, pictures):
    """Three have no value between them that A has, too: what they do is the work of three."""
    model = small.decoder()
    equal = variants.equalised(model)
    scheme = quantise.Scheme(form, reduce_range=True)
    b = quantise.quantise(equal, scheme, quantise.calibrate(equal, small.pictures(32)))
    found = little(opened(model, **SCALED), opened(b, **SCALED), pictures[:4], probes=4, restore=0)
    worst = found.effects.ranked[0]
    assert (worst.layer, worst.bound) == ("d3.relu", True) and worst.share > LAYER_SHARE
    assert not named(found, "compare.layer")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: 3 * w, "are 3.00 times A's or more"),
        (lambda w: 0.4 * w, "are 0.40 times A's or less"),
        (lambda w: 0.004 * w, "are 0.004 times A's or less"),
        (lambda w: 0 * w, "half of its filters are 0, and A's are not"),
        (lambda w: w[::-1], "its weights differ"),
    ],
)
def test_weights_that_are_a_multiple_are_told_from_other_weights(files, resnet, pictures, edit, words):
    b = edited(files.small("resnet"), **{"logits.weight": edit})
    found = little(resnet[0], opened(b, **SCALED), pictures[:2])
    row = found.layers["place"].index(1)
    assert found.layers["layer"][row] == "logits" and words in found.layers["reason"][row]


@pytest.mark.parametrize(
    ("ends", "held", "state"),
    [
        (
            (0.5, 0.6),
            {"low": 0.0, "high": 0.66, "used": 0.15},
            "clean",
        ),  # no value is near 0, which it must hold
        ((0.5, 0.6), {"low": 0.0, "high": 4.8, "used": 0.02}, "found"),
        (
            (0.0, 0.9),
            {"low": -2.0, "high": 1.98, "used": 0.1, "symmetric": True},
            "clean",
        ),  # nor on the other side
        ((0.0, 0.3), {"low": -2.0, "high": 1.98, "used": 0.1, "symmetric": True}, "found"),
    ],
)
def test_what_a_range_must_hold_is_used(ends, held, state):
    pair = Pair("gate", "gate", "gate", "HardSigmoid", "values", 1.0)
    figures = LayerFigures(pair, 30.0, 1.0, *ends, "uint8", 8, ends=(ends,) * 3, **held)
    checks = {one.id: one for one in judged({"why": Why((figures,))}, {}, True)}
    assert checks["compare.range"].state == state


@pytest.mark.parametrize(
    ("op", "state"),
    [("Relu", "found"), ("Clip", "found"), ("MaxPool", "not-applicable"), ("Conv", "not-applicable")],
)
def test_what_merely_hands_on_has_lost_no_rectifier(op, state):
    """A pool of what is never negative, or a layer that is not on these pictures: damage in front of it brings that."""
    pair = Pair("layer", "layer", "layer", op, "values", 1.0)
    figures = LayerFigures(pair, 3.0, 0.9, 0.0, 1.0, "uint8", 8, steps=24, waste=0.1)
    checks = {one.id: one for one in judged({"why": Why((figures,))}, {}, True)}
    assert checks["compare.relu"].state == state


# --- what is refused ----------------------------------------------------------------------------


def labelled(last):
    return {"model": small.resnet(), "labels": [*(f"c{i}" for i in range(9)), last]}


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ({"model": "efficientnet-lite0", "preprocess": None}, {"model": small.resnet()},
         r"(?s)A \('efficientnet-lite0'\).*224×224.*B \('model.*64×64"),
        ({"model": small.resnet(10)}, {"model": small.resnet(11)}, "10 classes and .* 11 classes"),
        (labelled("c9"), labelled("else"), "class 9 is 'c9' in .* and 'else' in"),
        ({"model": small.resnet()}, {"model": small.resnet(seed=1)}, "not the same network"),
    ],
)  # fmt: skip
def test_two_networks_are_refused_by_what_differs(a, b, words):
    with pytest.raises(UsageError, match=words):
        onnxviz.compare(*(opened(**{"preprocess": "unit", **one}) for one in (a, b)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probes": 1}, "probes must be at least 2"),
        ({"probes": "many"}, "probes must be"),
        ({"restore": 1.5}, "restore must be"),
        ({"seed": -1}, "seed must be"),
        ({"methods": "nothing"}, "'nothing'"),
        ({"layers": "none"}, "'none'"),
        ({"match": {1: 2}}, "matches are names"),
        ({"methods": ("nothing",)}, "nothing"),
        ({"layers": ["none"]}, "none"),
        ({"truth": [0]}, "no pictures"),
        ({"match": "missing.csv"}, "cannot read matches"),
    ],
)
def test_what_cannot_be_meant_is_refused(net, options, words):
    with pytest.raises(UsageError, match=words):
        onnxviz.compare(net, net, **options)


def test_another_recipe_is_a_finding(net):
    said = named(onnxviz.compare(net, opened("efficientnet-lite0", preprocess="imagenet")), "compare.input")
    assert said and said[0].severity == "high" and "in B" in said[0].sentence
