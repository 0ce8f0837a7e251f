"""The checks that need pictures, each on a fault that is planted and on a sound network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import onnxviz
from onnxviz.auditing.checks import shortcut
from onnxviz.auditing.statistics import Share
from onnxviz.auditing.subject import made
from onnxviz.image.preprocessing import preset
from tests.auditing.checking import SIZE, checked, ending, opened, pooled
from tests.networks import Maker

PICTURES = made(SIZE, SIZE, 1, 32)


def check(model, name: str, images=PICTURES, preprocess="unit", **options):
    return checked(opened(model, preprocess=preprocess), name, images, **options)


def linear(weights: np.ndarray, bias=None, softmax: bool = True):
    """Scores that are sums of pixels: weights (classes, 3, 32, 32)."""
    m = Maker()
    bias = np.zeros(len(weights)) if bias is None else np.asarray(bias, float)
    x = m("Gemm", m("Flatten", "image"), weights.reshape(len(weights), -1), bias, transB=1)
    return ending(m, x, len(weights), softmax=softmax)


ALWAYS_3 = [0, 0, 0, 1e3, 0, 0]


def varied(seed: int = 0) -> np.ndarray:
    """Weights by which the pictures fall into several classes, surely."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((6, 3, 4, 4))
    coarse -= coarse.mean(axis=(1, 2, 3), keepdims=True)  # light alone decides nothing
    return np.kron(coarse, np.ones((8, 8))) / 4


@pytest.mark.parametrize(
    ("bias", "truth", "severities"),
    [(ALWAYS_3, None, ["high"]), (None, None, []), (ALWAYS_3, 3, []), (ALWAYS_3, 1, ["high"])],
)
def test_a_network_that_always_says_the_same(bias, truth, severities):
    """Labels that agree make it right."""
    given = None if truth is None else [truth] * len(PICTURES)
    found = check(linear(varied(), bias), "answers.constant", truth=given).findings
    assert [one.severity for one in found] == severities
    assert all(one.where == "class 3" for one in found)


@pytest.mark.parametrize(
    ("bias", "labels", "severity"), [(0.5, None, "low"), (1e3, None, "high"), (0.5, 6, "high")]
)
def test_numbers_that_nothing_says_are_classes_fail_no_file(bias, labels, severity):
    """The largest number of an embedding is often the same, by little; an answer of a class is sure."""
    model = linear(varied() / 1e4, bias=[0, 0, 0, bias, 0, 0], softmax=False)
    names = None if labels is None else [f"thing {i}" for i in range(labels)]
    found = checked(opened(model, labels=names), "answers.constant", PICTURES).findings
    assert [one.severity for one in found] == [severity]
    assert ("nothing says that" in found[0].sentence) == (severity == "low")


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_one_of_two_classes_or_of_many_at_once_is_told_by_labels_alone(classes):
    """An age, a finder of faults that are not there, tags of which one is the likeliest everywhere."""
    m = Maker()
    x = m("Gemm", m("Flatten", "image"), np.full((classes, 3 * SIZE * SIZE), 0.01), transB=1)
    model = ending(m, m("Sigmoid", x), classes, softmax=False)
    (one,) = check(model, "answers.constant").findings
    assert one.severity == "low"
    wrong = [1 - one.where.endswith("1")] * len(PICTURES)
    assert [one.severity for one in check(model, "answers.constant", truth=wrong).findings] == ["high"]


def test_too_few_pictures_are_said():
    one = check(linear(varied()), "answers.constant", PICTURES[:5])
    assert (one.state, one.reason) == ("not-run", "it needs 30 pictures or more, and got 5")


def test_accuracy_is_judged_by_the_policy_alone():
    model = linear(varied())
    truth = [best[0].index for best in opened(model).predict(PICTURES, top=1)]
    truth[0] = (truth[0] + 1) % 6
    one = check(model, "answers.truth", truth=truth)
    assert one.state == "clean"
    assert one.figures["top1"]["count"] == len(PICTURES) - 1
    demanding = {"truth": {"top1_at_least": 0.99}}
    one = check(model, "answers.truth", truth=truth, policy=demanding)
    assert [finding.where for finding in one.findings] == ["top1"]
    one = check(model, "answers.truth")
    assert (one.state, "(truth=)" in one.reason) == ("not-run", True)


# --- input ----------------------------------------------------------------------------------------


def quantised_input(scale: float, zero: int):
    m = Maker()
    steps = m.constant(float(scale)), m.constant(np.uint8(zero))
    x = m("DequantizeLinear", m("QuantizeLinear", "image", *steps), *steps)
    return pooled(m, m("Relu", m("Conv", x, m.random(8, 3, 3, 3))))


@pytest.mark.parametrize(
    ("scale", "zero", "preprocess", "state"),
    [
        (1 / 255, 0, "unit", "clean"),
        (1 / 255, 0, "imagenet", "found"),  # beyond
        (2 / 255, 128, "tensorflow", "clean"),
        (2 / 255, 128, "unit", "found"),  # half of the range
        (1, 0, "raw", "clean"),
        (1 / 255, 0, "raw", "found"),
    ],
)
def test_the_range_of_the_files_own_input_quantiser(scale, zero, preprocess, state):
    pictures = [*PICTURES, np.zeros((SIZE, SIZE, 3), np.uint8), np.full((SIZE, SIZE, 3), 255, np.uint8)]
    one = check(quantised_input(scale, zero), "input.range", pictures, preprocess)
    assert one.state == state, one
    assert {finding.severity for finding in one.findings} <= {"high"}
    assert all(finding.evidence[0].picture and "scale" in finding.headline for finding in one.findings)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("input.range", "not-applicable"),
        ("input.statistics", "not-applicable"),
        ("input.confidence", "clean"),
    ],
)
def test_a_float_file_without_norms_tells_nothing_of_its_input(name, state):
    assert check(linear(varied()), name).state == state


RED = [np.clip(picture * np.float32([1.3, 1, 0.5]), 0, 255).astype(np.uint8) for picture in PICTURES]


def with_norms(recipe: str):
    """Four layers with BatchNormalization whose statistics are those of red pictures under a recipe."""
    seen = replace(preset(recipe), size=(SIZE, SIZE))
    x = seen.normalise(np.stack([seen.view(picture) for picture in RED])).astype(np.float32)
    statistics: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(5):
        m = Maker(seed=2)
        value, width, inputs = "image", 3, []
        for at in range(4):
            value = m("Conv", value, m.random(8, width, 3, 3, name=f"w{at}"), pads=[1] * 4)
            inputs.append(value)
            mean, var = statistics[at] if at < len(statistics) else (np.zeros(8), np.ones(8))
            ends = np.ones(8), np.zeros(8), mean.astype(float), var.astype(float)
            value, width = m("Relu", m("BatchNormalization", value, *ends)), 8
        model = pooled(m, value)
        if len(statistics) == 4:
            return model
        model.graph.output.append(type(model.graph.output[0])(name=inputs[len(statistics)]))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run([inputs[len(statistics)]], {"image": x})[0]
        statistics.append((found.mean(axis=(0, 2, 3)), found.var(axis=(0, 2, 3))))
    raise AssertionError


@pytest.fixture(scope="module")
def trained_on_imagenet():
    return with_norms("imagenet")


def test_the_recipe_of_training_is_known_by_its_norms(trained_on_imagenet):
    one = check(trained_on_imagenet, "input.statistics", RED, "imagenet")
    assert one.state == "clean", one
    assert one.figures["divergence"]["declared"] < 0.05


@pytest.mark.parametrize("recipe", ["unit", "raw", "tensorflow"])
def test_another_recipe_is_told(trained_on_imagenet, recipe):
    one = check(trained_on_imagenet, "input.statistics", RED, recipe)
    (finding,) = one.findings
    assert finding.severity == "high"
    assert finding.where in ("imagenet RGB", "tensorflow RGB")  # these two lie close together
    assert finding.headline == f"Pictures go in on another scale than in training ({finding.where!r} fits)"


def test_the_other_order_of_colours_is_told(trained_on_imagenet):
    net = opened(trained_on_imagenet, preprocess="imagenet", channels="BGR")
    one = checked(net, "input.statistics", RED)
    assert [(finding.severity, finding.where) for finding in one.findings] == [("high", "RGB")]
    assert one.findings[0].headline == "Pictures go in with red and blue exchanged"
    assert one.findings[0].evidence[0].picture.size[0] > 4 * SIZE  # what they are taken for, as pictures


def test_labels_tell_the_right_recipe():
    """A network that was made for BGR is right about all pictures in that order alone."""
    rng = np.random.default_rng(0)
    pictures = [np.full((SIZE, SIZE, 3), rng.permutation([200, 110, 20]), np.uint8) for _ in range(40)]
    weights = 0.05 * np.tile(np.eye(3)[:, :, None, None], (1, 1, SIZE, SIZE))
    truth = [int(np.argmax(picture[0, 0, ::-1])) for picture in pictures]
    one = check(linear(weights), "input.truth", pictures, truth=truth)
    assert one.state == "found"
    assert "BGR" in one.findings[0].where
    right = [int(np.argmax(picture[0, 0])) for picture in pictures]
    assert check(linear(weights), "input.truth", pictures, truth=right).state == "clean"


# --- stability and shortcuts ----------------------------------------------------------------------


def test_answers_that_hang_on_noise_are_told():
    rng = np.random.default_rng(0)
    fine = rng.standard_normal((6, 3, SIZE, SIZE))
    fine -= fine.mean(axis=(2, 3), keepdims=True)  # blind to pictures of one colour
    flat = [np.full((SIZE, SIZE, 3), 8 * i, np.uint8) for i in range(32)]
    shaky = check(linear(fine * 100, bias=[2, 0, 0, 0, 0, 0]), "stability.noise", flat)
    assert [finding.severity for finding in shaky.findings] == ["medium"]
    steady = check(linear(varied()), "stability.noise")
    assert steady.state == "clean"
    assert list(steady.figures) == [f"noise of {level} grey levels" for level in ("0.5", "1", "2")]


@pytest.mark.parametrize("name", ["shift", "jpeg", "resize", "brightness"])
def test_steady_answers_are_clean(name):
    one = check(linear(varied()), f"stability.{name}")
    assert one.state == "clean", one
    assert all(share["of"] > 0 for share in one.figures.values())


def test_answers_that_hang_on_a_shift_are_told():
    stripes = np.zeros((2, 3, SIZE, SIZE))
    stripes[0, :, :, ::2], stripes[1, :, :, 1::2] = 20, 20
    one = check(linear(stripes), "stability.shift")
    assert one.state == "found"


def marked(pictures, count: int):
    """The first of them with a bright stamp in the lower right corner."""
    found = [picture.copy() for picture in pictures]
    for picture in found[:count]:
        picture[-6:, -6:] = (255, 0, 255)
    return found


def hanging_on_a_mark():
    """Class 0 by a stamp of red without green in the corner, the others by all of the picture."""
    weights = varied()
    weights[0] = 0
    weights[0, 0, -6:, -6:], weights[0, 1, -6:, -6:] = 90, -90
    return linear(weights, bias=[-2700, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(("count", "severity"), [(5, "high"), (1, "medium")])
def test_a_mark_that_decides_is_told_with_its_region(count, severity):
    one = check(hanging_on_a_mark(), "shortcut.region", marked(PICTURES, count))
    grave = {finding.where: finding.severity for finding in one.findings}
    assert grave == {"class 0: bottom right corner": severity}  # the edges that it lies in are no second mark
    assert str(one.figure).startswith(f"{count} of ")  # pictures, however many regions share the mark
    (finding,) = [f for f in one.findings if f.where == "class 0: bottom right corner"]
    assert finding.evidence[0].picture.size[0] >= SIZE
    assert len(finding.evidence[0].table["picture"]) == count


def test_crops_of_one_photo_count_once():
    """Five pictures bear the mark, and three of them are one."""
    pictures = [*marked([PICTURES[0]] * 3 + PICTURES[1:2], 4), *PICTURES[2:]]
    one = check(hanging_on_a_mark(), "shortcut.region", pictures)
    (finding,) = [f for f in one.findings if f.where == "class 0: bottom right corner"]
    assert (finding.figure, finding.severity) == (2, "medium")
    assert "4 pictures of 'class 0' hang on" in finding.sentence
    assert "They are of 2 photos" in finding.sentence


def test_half_of_a_few_others_is_no_proof(monkeypatch):
    """Eleven of twenty may be chance: the lower limit of the share has to be over a half."""
    for count, state in ((11, "clean"), (15, "found")):
        monkeypatch.setattr(shortcut, "turned", lambda *_, count=count: Share(count, 20))
        assert check(hanging_on_a_mark(), "shortcut.region", marked(PICTURES, 1)).state == state


def test_marks_that_decide_nothing_are_no_finding():
    assert check(linear(varied()), "shortcut.region", marked(PICTURES, 5)).state == "clean"
    assert check(hanging_on_a_mark(), "shortcut.region").state == "clean"


@pytest.mark.parametrize(("dead", "severities"), [(4, ["medium"]), (3, [])])
def test_channels_that_never_change_over_the_pictures(dead, severities):
    """A third of a layer is usual where training has not looked at such pictures."""
    m = Maker()
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), [-99.0] * dead + [9.0] * (8 - dead)))
    one = check(pooled(m, x), "weights.channels")
    assert [finding.severity for finding in one.findings] == severities
    assert all("4 of the 8 channels" in finding.sentence for finding in one.findings)


def test_a_sample_is_spread_over_the_pictures():
    found = onnxviz.audit(opened(linear(varied())), PICTURES, only=["file"], sample=8)
    assert len(found.subject.images) == 8
    assert any("8 of 32" in note for note in found.notes)


def test_pictures_that_cannot_be_read_are_told_and_left_out(tmp_path):
    for number in range(5):
        (tmp_path / f"a{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"b{number:02d}.png")
    found = onnxviz.audit(opened(linear(varied())), tmp_path, only=["answers", "stability.noise"])
    assert found.verdict == "pass"
    assert sum("a4.png" in note for note in found.notes) == 1
    assert len(found.subject.views) == 4
