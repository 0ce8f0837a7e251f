"""What outputs mean: predictions and explanations of every kind of head, against plain ONNX Runtime and torch."""

from __future__ import annotations

import functools

import heads
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

import onnxviz
from onnxviz import objectives as of
from onnxviz.errors import LabelsRejected, ModelUnsuitable, UnknownLabel, UnknownLayer, UsageError
from tests.techniques import made


def photo(seed=0, width=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, width, 3), dtype=np.uint8))


def opened(proto, **options):
    return onnxviz.load(proto, preprocess="imagenet", **options)


def run(proto, x, name=None):
    """The output (or a value of that name) by plain ONNX Runtime."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    if name is not None and name not in [v.name for v in copy.graph.output]:
        copy.graph.output.extend([onnx.helper.make_empty_tensor_value_info(name)])
    session = onnxruntime.InferenceSession(copy.SerializeToString())
    feed = {session.get_inputs()[0].name: x}
    return session.run([name or session.get_outputs()[0].name], feed)[0]


def soft(rows, axis=-1):
    e = np.exp(rows.astype(np.float64) - rows.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def weights(proto):
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


def gradient(proto, x, score):
    """∂score/∂x in float64 by torch, through conv - relu, whose (N, 8, 8, W/2) `score` continues from."""
    import torch

    convolutions = [n for n in proto.graph.node if n.op_type == "Conv"]
    first = torch.tensor(weights(proto)[convolutions[0].input[1]])
    t = torch.tensor(x.astype(np.float64), requires_grad=True)
    maps = torch.relu(torch.nn.functional.conv2d(t, first, stride=2, padding=1))
    (found,) = torch.autograd.grad(score(torch, maps).sum(), t)
    return found.numpy()


def linear_score(proto, index=0, head=0):
    gemm = [n for n in proto.graph.node if n.op_type == "Gemm"][head]
    w, b = (weights(proto)[name] for name in gemm.input[1:3])
    return lambda torch, maps: maps.mean((2, 3)) @ torch.tensor(w[index]) + float(b[index])


def example_of(caught) -> str:
    """The objective that a message names as an example."""
    return str(caught.value).split('objective="')[1].split('"')[0]


def explains(net, example) -> None:
    """It moves the map of a gradient technique and of one that hides."""
    assert np.abs(onnxviz.saliency(net, photo(), objective=example).values).max() > 0
    assert np.abs(made("occlusion", net, photo(), objective=example).values).max() > 0


def near(found, expected) -> None:
    """Within float32 of a map in float64."""
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max() + 1e-6


def alike(a, b):
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# --- files that only tell which score is the largest ----------------------------------------------


@pytest.mark.parametrize("form", ["argmax", "kept", "softmax", "float", "top", "sure"])
def test_a_classifier_that_only_tells_the_largest_score_is_taken_by_its_scores(form):
    proto = heads.best_only(form)
    net = opened(proto)
    assert any(
        "only tells which score is the largest" in text and "'scores'" in text for text in net.warnings
    )
    x = net.prepare(photo())
    best = int(np.ravel(run(proto, x, "best"))[0])
    assert (net.head.scores, net.head.classes, net.head.told) == ("scores", 7, True)
    assert net.predict(photo())[0][0].index == best
    found = onnxviz.saliency(net, photo(), method="gradient")
    exact = gradient(proto, x, linear_score(proto, best))[0].sum(axis=0)
    assert found.target == best and alike(found.values, exact) > 0.9999
    assert made("occlusion", net, photo()).target == best


@pytest.mark.parametrize("last", [False, True])
def test_a_segmenter_that_only_tells_classes_can_be_explained(last):
    net = opened(heads.labelled_map(last=last))
    assert [one.kind for one in net.outputs] == ["other", "map"]
    with pytest.raises(ModelUnsuitable, match="largest of 'maps'") as caught:
        onnxviz.saliency(net, photo())
    explains(net, example_of(caught))


def test_scores_that_a_file_gives_out_stay_its_output():
    proto = heads.best_only("softmax")
    proto.graph.output.extend([onnx.helper.make_tensor_value_info("scores", 1, ["N", 7])])
    net = opened(proto)
    assert [value.name for value in net.model.graph.outputs] == ["best", "scores"]
    assert net.head.output == "scores" and not any("largest" in text for text in net.warnings)


# --- one score, two classes -----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["logit", "sigmoid", "pieces", "squeezed", "squeeze-all", "map"])
def test_one_score_is_two_classes(form):
    proto = heads.one(form)
    net = opened(proto)
    pictures = [photo(0), photo(1), photo(2)]
    x = net.prepare(pictures)
    values = run(proto, x).reshape(-1).astype(np.float64)
    p = values if form in ("sigmoid", "pieces") else 1 / (1 + np.exp(-values))
    assert net.end.kind == "binary"
    assert np.abs(net.probabilities(x) - np.stack([1 - p, p], axis=1)).max() < 1e-5
    for found, expected in zip(net.predict(pictures), p, strict=True):
        assert {q.index: pytest.approx(q.probability, abs=1e-5) for q in found} == {
            0: 1 - expected,
            1: expected,
        }
        assert found[0].probability >= 0.5
    assert net.predict(pictures[0])[0] == net.predict(pictures)[0] or form == "squeeze-all"
    told = [text for text in net.warnings if "the one number of output 'score'" in text]
    assert len(told) == (0 if form in ("sigmoid", "pieces") else 1)


def test_the_class_that_the_one_score_speaks_against_is_its_negative():
    proto = heads.one("sigmoid")
    net = opened(proto, labels=["cat", "dog"])
    x = net.prepare(photo())
    exact = gradient(proto, x, linear_score(proto))[0].sum(axis=0)
    top = onnxviz.saliency(net, photo(), method="gradient")
    sign = 1 if net.probabilities(x)[0, 1] > 0.5 else -1
    assert (top.target, top.label) == ((1, "dog") if sign == 1 else (0, "cat"))
    near(top.values, sign * exact)
    for asked, factor in (
        *(({"target": target}, factor) for target, factor in ((0, -1), (1, 1), ("cat", -1), ("dog", 1))),
        *(({"objective": text}, -1) for text in ("-logit(0)", "logit(cat)")),
        *(({"objective": text}, 1) for text in ("logit(0)", "logit('dog')")),
    ):
        near(onnxviz.saliency(net, photo(), method="gradient", **asked).values, factor * exact)
    with pytest.raises(UnknownLabel, match=r"logit\(0\) is class 1, -logit\(0\) is class 0"):
        onnxviz.saliency(net, photo(), objective=of.logit(1))
    with pytest.raises(UnknownLabel, match="2 classes"):
        onnxviz.saliency(net, photo(), target=2)


@pytest.mark.parametrize("target", [None, 0, 1])
def test_every_technique_takes_one_score(target):
    net = opened(heads.one("logit"))
    for technique in ("grad-cam", "score-cam", "occlusion", "rise", "segment"):
        signed = {"signed": True} if technique == "grad-cam" else {}
        found = made(technique, net, photo(), target=target, **signed)
        assert np.isfinite(found.values).all() and np.abs(found.values).max() > 0
    embedding = onnxviz.embed(net, [photo(0), photo(1)])
    assert set(embedding.classes.tolist()) <= {0, 1}
    assert (embedding.confidence >= 0.5).all()


def test_occlusion_of_both_classes_of_one_score_are_each_others_negative_and_fooling_turns_it():
    net = opened(heads.one("logit"))
    one, two = (made("occlusion", net, photo(), target=t).values for t in (0, 1))
    assert np.abs(one + two).max() < 1e-6
    now = int(net.probabilities(net.prepare(photo()))[0].argmax())
    found = onnxviz.fool(net, photo(), target=1 - now, method="pgd", bound=60)
    rows = net.probabilities(net.preprocessing.normalise(found.values))
    assert rows[0].argmax() == 1 - now


def test_an_explainer_of_one_score():
    net = opened(heads.one("logit"))
    model = onnxviz.explainer_model(net, "gradient", fixed=True)
    picture = np.asarray(photo())[None]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": picture}), strict=True))
    x = net.preprocessing.normalise(picture)  # `fixed`: the picture is the network's size already
    (expected,) = onnxviz.saliency(net, x, method="gradient")
    assert found["class"].tolist() == [expected.target]
    assert found["probability"][0] == pytest.approx(expected.score, abs=1e-5)
    near(found["heatmap"][0], expected.values)


def test_labels_of_one_score():
    assert opened(heads.one("logit"), labels=["no", "yes"]).label(1) == "yes"
    net = opened(heads.one("logit"), labels=["cat"])
    assert [net.label(i) for i in (0, 1)] == ["not cat", "cat"] and net.target("cat") == 1
    with pytest.raises(LabelsRejected, match="one score for two classes"):
        opened(heads.one("sigmoid"), labels=["a", "b", "c"])


# --- sequences ------------------------------------------------------------------------------------

SEQUENCES = [
    {"form": form, "end": end, "batch": batch, "recurrent": recurrent}
    for form, end, batch, recurrent in (
        ("tnc", "", "N", False),
        ("tnc", "LogSoftmax", "N", True),
        ("tnc", "Softmax", 1, False),
        ("tnc", "", 1, True),
        ("tnc", "Softmax", 3, False),
        ("ntc", "Softmax", "N", True),
        ("ntc", "", 1, False),
        ("nct", "Softmax", "N", False),
    )
]


@pytest.mark.parametrize("form", SEQUENCES, ids=lambda form: "-".join(map(str, form.values())))
def test_predict_gives_the_best_class_of_each_step_of_each_picture(form):
    proto = heads.sequence(**form)
    net = opened(proto)
    pictures = [photo(seed) for seed in range(4)]
    x = net.prepare(pictures)
    assert (net.end.kind, net.end.steps, net.end.classes) == ("sequence", 8, 5)
    size = form["batch"] if isinstance(form["batch"], int) else 1
    for picture, found in zip(x, net.predict(pictures), strict=True):
        raw = run(proto, np.repeat(picture[None], size, axis=0))  # each picture alone
        rows = {"tnc": lambda a: a[:, 0], "ntc": lambda a: a[0], "nct": lambda a: a[0].T}[form["form"]](raw)
        rows = {"": soft, "Softmax": np.asarray, "LogSoftmax": np.exp}[form["end"]](rows)
        assert [q.index for q in found] == rows.argmax(axis=1).tolist()
        assert np.abs(np.array([q.probability for q in found]) - rows.max(axis=1)).max() < 1e-4


def test_a_step_is_explained_by_its_number():
    proto = heads.sequence("tnc", "Softmax")
    net = opened(proto)
    x = net.prepare(photo())
    conv = [n for n in proto.graph.node if n.op_type == "Conv"][1]
    w = weights(proto)[conv.input[1]][:, :, 0]
    best = int(run(proto, x)[5, 0].argmax())
    exact = gradient(proto, x, lambda torch, maps: maps.mean(2)[:, :, 5] @ torch.tensor(w[best]))[0]
    exact = exact.sum(axis=0)
    for asked in (
        {"neuron": 5},
        {"neuron": (5,), "target": best},
        {"objective": of.part(net.end.logits, 5, best)},
        {"objective": f"part({net.end.logits}, 5, {best})"},
        {"objective": of.step(net.end.logits, 5)},
    ):
        found = onnxviz.saliency(net, photo(), method="gradient", **asked)
        assert alike(found.values, exact) > 0.9999
        assert np.abs(found.values - exact).max() < 1e-4 * np.abs(exact).max()
    named = onnxviz.saliency(net, photo(), neuron=5)
    assert (named.target, named.label) == (best, f"step 5: class {best}")
    assert named.score == pytest.approx(float(run(proto, x)[5, 0, best]), abs=1e-5)


def test_steps_of_several_pictures_have_their_own_best_class():
    net = opened(heads.sequence("tnc", "", recurrent=True))
    pictures = [photo(seed) for seed in range(4)]
    for picture, one in zip(pictures, onnxviz.saliency(net, pictures, neuron=2), strict=True):
        alone = onnxviz.saliency(net, picture, neuron=2)
        assert one.target == alone.target
        near(one.values, alone.values)


def test_occlusion_of_a_step_is_the_fall_of_its_probability():
    proto = heads.sequence("tnc", "Softmax")
    net = opened(proto)
    x = net.prepare(photo())
    found = onnxviz.occlusion(net, photo(), neuron=3, window=16, stride=16, fill="zero")
    whole, hidden = run(proto, x)[3, 0], run(proto, np.zeros_like(x))[3, 0]
    best = whole.argmax()
    assert found.values == pytest.approx(whole[best] - hidden[best], abs=1e-5)


def test_a_sequence_without_a_step_is_refused_with_an_example_that_works():
    net = opened(heads.sequence("tnc", "Softmax"))
    for call in (onnxviz.saliency, onnxviz.cam, onnxviz.occlusion, onnxviz.segment):
        told = r"is a sequence.*objective=\"part\('\w+', 4, 0\)\""
        with pytest.raises(ModelUnsuitable, match=told) as caught:
            call(net, photo())
    explains(net, example_of(caught))
    assert np.abs(onnxviz.cam(net, photo(), objective=example_of(caught), signed=True).values).max() > 0
    with pytest.raises(UsageError, match="8 steps, from 0"):
        onnxviz.saliency(net, photo(), neuron=8)
    with pytest.raises(ModelUnsuitable, match="is a sequence"):
        onnxviz.saliency(net, photo(), objective=of.logit(1))


def test_a_sheet_of_a_step():
    net = opened(heads.sequence("tnc", "Softmax"))
    sheet = onnxviz.attributions(net, [photo(0), photo(1)], ["saliency", "grad-cam"], neuron=3)
    alone = onnxviz.saliency(net, photo(0), neuron=3)
    assert np.abs(sheet.grid[0][0].values - alone.values).max() < 1e-6 * np.abs(alone.values).max() + 1e-7
    assert sheet.values.shape == (2, 2, 16, 16)


def test_channels_of_a_layer_with_pictures_on_another_axis_are_refused():
    net = opened(heads.sequence("tnc", "Softmax"))
    for call in (onnxviz.saliency, onnxviz.occlusion):
        with pytest.raises(UsageError, match=r"pictures on axis 1.*part\('y', 0, 2\)"):
            call(net, photo(), layer="y", channel=2)


def test_a_sequence_has_no_one_row_of_features():
    for form in ("tnc", "ntc"):
        net = opened(heads.sequence(form, "Softmax", recurrent=True))
        with pytest.raises(ModelUnsuitable, match="choose a layer of feature maps with layer="):
            onnxviz.embed(net, [photo()])
        conv = next(layer.name for layer in net.layers if layer.op == "Relu")
        assert onnxviz.embed(net, [photo(0), photo(1)], layer=conv).values.shape == (2, 8)


def test_ascent_of_both_classes_of_one_score():
    net = opened(heads.one("sigmoid"))

    def climbed(target):
        found = onnxviz.ascent(net, target=target, preset="simonyan", steps=30, start=photo())
        return net.probabilities(net.preprocessing.normalise(np.rint(255 * found.values).astype(np.uint8)))[
            0, 1
        ]

    assert climbed(1) > climbed(0) + 0.05


def test_layers_with_pictures_on_another_axis_come_picture_by_picture():
    proto = heads.sequence("tnc", "", recurrent=True)
    net = opened(proto)
    x = net.prepare([photo(0), photo(1), photo(2)])
    name = next(n.output[0] for n in proto.graph.node if n.op_type == "Transpose")  # (T, N, 8)
    found = net.run(x, [name], batch=2)[name]
    assert np.abs(found - np.moveaxis(run(proto, x, name), 1, 0)).max() < 1e-5


# --- numbers, detections, and what is assumed -----------------------------------------------------


@pytest.mark.parametrize(
    "proto",
    [
        heads.row(3, "pose"),
        heads.row(4, "bbox_pred"),
        heads.row(4, "boxes", end="Sigmoid"),
        heads.row(10, "landmarks"),
        heads.row(3, end="Tanh"),
        heads.row(3, end="Relu"),
        heads.row(6, end="LpNormalization"),
        heads.row(1, "age"),
        heads.row(1, end="Softplus"),
        heads.row(128, "embedding"),
    ],
    ids=lambda proto: proto.graph.output[0].name,
)
def test_quantities_are_no_classes_and_can_be_explained(proto):
    net = opened(proto)
    assert net.end.kind == "numbers"
    with pytest.raises(ModelUnsuitable, match="holds no class scores of a picture") as caught:
        net.predict(photo())
    alive = run(proto, net.prepare(photo())).reshape(-1)[0] != 0  # not a ReLU that is off
    assert (np.abs(onnxviz.saliency(net, photo(), objective=example_of(caught)).values).max() > 0) == alive
    for call in (onnxviz.saliency, onnxviz.cam, onnxviz.occlusion, onnxviz.rise, onnxviz.segment):
        with pytest.raises(ModelUnsuitable):
            call(net, photo())
    assert len(onnxviz.embed(net, [photo()]).values) == 1
    assert not any("taken for" in text for text in net.warnings)


def test_labels_settle_that_numbers_are_classes():
    proto = heads.row(3, "pose")
    net = opened(proto, labels=["sitting", "standing", "lying"])
    x = net.prepare(photo())
    assert np.abs(net.probabilities(x) - soft(run(proto, x))).max() < 1e-5


@pytest.mark.parametrize("form", ["raw", "nms", "topk", "anchors"])
def test_detectors_are_refused_with_an_example_that_works(form):
    net = opened(heads.detector(form))
    for call in (net.predict, lambda p: onnxviz.saliency(net, p), lambda p: onnxviz.occlusion(net, p)):
        with pytest.raises(ModelUnsuitable, match="for one number") as caught:
            call(photo())
    explains(net, example_of(caught))


def test_what_is_assumed_is_told_once_and_what_is_known_is_not():
    net = opened(heads.row(5))
    onnxviz.saliency(net, photo())
    net.predict(photo())
    assert sum("taken for the scores of classes" in text for text in net.warnings) == 1
    assert net.manifest("predict")["output"]["told"] is False
    for proto in (heads.row(5, "logits"), heads.row(5, end="Softmax"), heads.row(1000)):
        known = opened(proto)
        known.predict(photo())
        assert not any("taken for" in text for text in known.warnings)
        assert known.manifest("predict")["output"]["kind"] == "classes"


def test_a_softmax_that_overflows_in_the_file_is_computed_from_its_logits():
    m = heads.Maker()
    z = heads.linear(m, heads.pooled(m), 5, spread=4000)
    e = m("Exp", z)
    proto = heads.finished(m, m("Div", e, m("ReduceSum", e, m.constant([1]), keepdims=1)))
    net = opened(proto)
    x = net.prepare(photo())
    assert np.isnan(run(proto, x)).any()
    assert np.abs(net.probabilities(x) - soft(run(proto, x, z))).max() < 1e-5


def test_probabilities_that_only_running_can_tell_whatever_their_name():
    proto = heads.average_of_softmaxes()
    for labels in (None, list("abcd")):
        net = opened(proto, labels=labels)
        x = net.prepare(photo())
        assert np.abs(net.probabilities(x) - run(proto, x)).max() < 1e-6
        assert "sum to 1" in net.end.reason
    m = heads.Maker()
    x1 = heads.pooled(m)
    both = [m("Sigmoid", heads.linear(m, x1, 1)) for _ in range(2)]
    proto = heads.finished(m, heads.renamed(m, m("Mul", *both), "p"))  # both hold: a probability, too
    net = opened(proto)
    assert net.probabilities(x)[0, 1] == pytest.approx(float(run(proto, x)[0, 0]), abs=1e-6)


# --- which output ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "index"), [("first", 0), ("second", 1)])
def test_an_output_is_chosen_when_opening_and_for_one_call(name, index):
    proto = heads.two()
    net = opened(proto)
    with pytest.raises(ModelUnsuitable, match='output="first"'):
        net.predict(photo())
    x = net.prepare(photo())
    rows = run(proto, x, name)
    best = int(rows[0].argmax())
    exact = gradient(proto, x, linear_score(proto, best, index))[0].sum(axis=0)
    for there, options in ((opened(proto, output=name), {}), (net, {"output": name})):
        assert there.predict(photo(), **options)[0][0].index == best
        for technique in ("gradient", "occlusion", "rise", "score-cam"):
            assert made(technique, there, photo(), **options).target == best
        assert onnxviz.segment(there, photo(), **options).source.target == best
        for asked in ({}, {"objective": f"logit({best})"}):
            assert alike(made("gradient", there, photo(), **asked, **options).values, exact) > 0.9999
    assert made("ascent", opened(proto, output=name), None, target=best, preset="simonyan").values.any()


def test_an_output_that_there_is_not():
    with pytest.raises(UnknownLayer, match="no output named 'third'.*'first', 'second'"):
        opened(heads.two(), output="third")
    with pytest.raises(UnknownLayer, match="no output named"):
        onnxviz.saliency(opened(heads.two()), photo(), output="firts")


# --- the same objectives forwards -----------------------------------------------------------------


@pytest.mark.parametrize("technique", ["occlusion", "rise"])
def test_forward_techniques_take_objectives_texts_and_functions(technique):
    proto = heads.row(5, "logits")
    net = opened(proto)
    call = functools.partial(made, technique, net, photo())
    objective = 2 * of.logit(3) - of.logit(1)
    found = call(objective=objective)
    expected = float(run(proto, net.prepare(photo()))[0] @ [0, -1, 0, 2, 0])
    assert found.score == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(found.values, call(objective="2*logit(3) - logit(1)").values)
    single = [call(objective=of.logit(k)).values for k in (1, 3)]
    assert np.abs(found.values - (2 * single[1] - single[0])).max() < 1e-4
    assert np.array_equal(call(objective=lambda p: p[:, 3]).values, call(target=3).values)
    assert found.manifest["parameters"]["label"] == str(objective)
    with pytest.raises(UsageError, match="give one of target=, layer= and objective="):
        call(objective=objective, target=1)


def test_occlusion_of_an_objective_is_its_fall():
    proto = heads.row(5, "logits")
    net = opened(proto)
    x = net.prepare(photo())
    found = onnxviz.occlusion(net, photo(), objective=of.logit(2), window=8, stride=8, fill="zero").values
    for top in (0, 8):
        for left in (0, 8):
            hidden = x.copy()
            hidden[:, :, top : top + 8, left : left + 8] = 0
            fall = run(proto, x)[0, 2] - run(proto, hidden)[0, 2]
            assert found[top + 2, left + 2] == pytest.approx(fall, abs=1e-4)


def sure_picks():
    """A probability that is sure of itself moves with nothing: an example of it would give an empty map."""
    m = heads.Maker()
    soft = m("Softmax", heads.linear(m, heads.pooled(m), 5, spread=4000.0), axis=1)
    best, _ = m("TopK", soft, m.constant([3]), outputs=2)
    return heads.finished(m, best, heads.trunk(m))


def squeezed_away():
    m = heads.Maker()
    return heads.finished(m, m("Squeeze", heads.linear(m, heads.pooled(m), 1)), batch=1)


@pytest.mark.parametrize("make", [sure_picks, squeezed_away])
def test_the_example_is_of_the_logits_or_the_number_before(make):
    net = onnxviz.load(make(), preprocess="unit", provider="cpu")
    with pytest.raises(ModelUnsuitable) as caught:
        net.predict(photo())
    explains(net, example_of(caught))
