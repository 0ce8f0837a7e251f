"""The whole machine: its gradient, draws, determinism, stops, memory; and what it refuses."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import psutil
import pytest

import onnxviz
from onnxviz import objectives as o
from onnxviz.errors import GradientNotFinite, ModelUnsuitable, UnknownLayer, UnsupportedOperator, UsageError
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.parametrise import Fourier, Pixels
from onnxviz.synthesis.transforms import Blur, Crop, Jitter, Pad, Rotate, Scale, Window
from onnxviz.synthesis.updates import Adam, Ascent, Decay, SmallContributions
from tests import networks


@pytest.fixture(scope="module")
def fixed():
    """A network whose head fits 32 × 32 pixels only."""
    m = networks.Maker(seed=2)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Gemm", m("Flatten", x), m.random(10, 8 * 16 * 16), transB=1, name="classifier")
    return onnxviz.load(m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 10)}), provider="cpu")


CHAIN = (Pad(2), Jitter(3), Rotate(10), Scale(0.9, 1.1), Blur(0.5, 1.0), Crop(32, 32))


VIEWS = (Window(36, 38, 0.8, 1.25, 4), Blur(0.5, 1.0), Rotate(10), Crop(32, 32, centred=True))
# Network, transforms of two draws, and terms on the picture.
TOGETHER = {
    "pixels": ((40, 44), Pixels(0.2, bounded=False), CHAIN),
    "waves": ((40, 44), Fourier(deviation=0.3, power=1.5), CHAIN),
    "views": ((64, 72), Fourier(deviation=0.3, power=1.5, band=0.5), VIEWS),
}


@pytest.mark.parametrize("form", TOGETHER)
def test_the_gradient_is_that_of_everything_together(tiny, form) -> None:
    """Against central differences."""
    size, way, transforms = TOGETHER[form]
    objective = o.logit(3) + 0.1 * o.layer("conv2") / 100 - 3 * o.tv() - 2 * o.norm(2)
    machine = Machine(tiny, objective, size=size, count=2, parametrise=way, transforms=transforms, draws=2)
    rng = np.random.default_rng(0)
    x, feeds = machine.start(rng), machine.plan.feeds(rng)
    found = machine.evaluate(x, feeds)
    terms = sum(found[f"term.{i}"] for i in range(4))
    np.testing.assert_allclose(found["value"], terms, rtol=1e-4, atol=1e-5)
    g = found["gradient"]
    norm = np.linalg.norm(g.reshape(2, -1).astype(np.float64), axis=1)
    np.testing.assert_allclose(found["norm"], norm, rtol=1e-4)
    along = rng.standard_normal(x.shape).astype(np.float32)
    along = along / np.linalg.norm(along) + g / np.linalg.norm(g)
    more, less = (
        machine.evaluate(x + s * along, feeds)["value"].sum(dtype=np.float64) for s in (3e-3, -3e-3)
    )
    assert float((g * along).sum()) == pytest.approx((more - less) / 6e-3, rel=0.03)


def test_views_drawn_from_the_waves_are_those_of_the_picture(tiny) -> None:
    """Sampling the spectrum directly gives what making the picture and interpolating in it gives, and its slope."""
    way, seen = Fourier(deviation=1.0, power=1.5, band=0.15), (VIEWS[0], Crop(32, 32))
    # A transform that does nothing in front keeps the machine from taking the short way.
    direct, around = (
        Machine(tiny, o.logit(3), size=(64, 72), parametrise=way, transforms=chain)
        for chain in (seen, (Pad(0), *seen))
    )
    rng = np.random.default_rng(0)
    x, feeds = direct.start(rng), direct.plan.feeds(rng)
    moved = {f"draw0.{int(name[6]) + 1}.{name[8:]}": array for name, array in feeds.items()}
    one, other = direct.evaluate(x, feeds), around.evaluate(x, moved)
    np.testing.assert_allclose(one["value"], other["value"], atol=0.02)
    cosine = (one["gradient"] * other["gradient"]).sum() / (one["norm"][0] * other["norm"][0])
    assert cosine > 0.99


def test_a_value_is_what_the_network_says_of_the_picture(tiny) -> None:
    machine = Machine(tiny, o.logit(3), count=2, parametrise=Pixels(0.1), optimiser=Ascent(0.1))
    step = next(machine.run(1, seed=1))
    x = tiny.preprocessing.normalise(step.pictures() * 255)
    wanted = tiny.run(x, [tiny.head.logits])[tiny.head.logits][:, 3]
    np.testing.assert_allclose(step.value, wanted, rtol=1e-4)
    assert step.pictures().shape == (2, 32, 32, 3)


def test_draws_are_averaged_and_feeds_are_repeated(tiny) -> None:
    """Without transforms all draws are the same, so several give what one gives; each picture has its own target."""
    fed = {"target": np.array([1, 7])}
    found = []
    for draws in (1, 3):
        machine = Machine(tiny, o.logit(o.FED), count=2, parametrise=Pixels(0.1), draws=draws)
        found.append(machine.evaluate(machine.start(np.random.default_rng(0)), machine.given(fed)))
    np.testing.assert_allclose(found[0]["value"], found[1]["value"], rtol=1e-5)
    np.testing.assert_allclose(found[0]["gradient"], found[1]["gradient"], rtol=1e-3, atol=1e-5)
    assert found[0]["value"][0] != found[0]["value"][1]


def test_the_objective_rises_and_the_same_seed_gives_the_same_bytes(tiny) -> None:
    options = {
        "count": 2,
        "size": (36, 36),
        "parametrise": Fourier(),
        "transforms": (Jitter(2), Crop(32, 32)),
    }

    def made(seed: int):
        machine = Machine(tiny, o.logit(o.FED), **options, optimiser=Adam(0.05))
        steps = list(machine.run(40, seed=seed, fed={"target": np.array([1, 7])}))
        return steps, machine.pictures().tobytes()

    steps, pictures = made(0)
    assert [step.index for step in steps] == list(range(40))
    assert (steps[-1].value > steps[0].value + 1).all()
    assert set(steps[0].terms) == {"logit(fed)"}
    assert steps[-1].seconds > steps[0].seconds > 0
    again = made(0)
    assert (again[1], again[0][-1].value.tobytes()) == (pictures, steps[-1].value.tobytes())
    assert pictures != made(1)[1]


def test_starting_from_a_picture(tiny) -> None:
    picture = np.random.default_rng(0).uniform(0.1, 0.9, (32, 32, 3)).astype(np.float32)
    machine = Machine(tiny, o.logit(3), count=2, optimiser=Ascent(0.0001))
    step = next(machine.run(1, start=picture))
    np.testing.assert_allclose(step.pictures(), [picture] * 2, atol=1e-5)
    with pytest.raises(UsageError, match="expected"):
        next(machine.run(1, start=picture[:20]))


def test_terms_with_one_label_are_told_apart(tiny) -> None:
    machine = Machine(tiny, o.logit(3) + o.logit(3) - o.tv(), optimiser=Ascent(0.1))
    assert set(next(machine.run(1)).terms) == {"0: logit(3)", "1: logit(3)", "tv(input)"}


def test_rules_between_steps_and_pruned_gradients(tiny) -> None:
    def moved(steps: int, update, *rules):
        machine = Machine(tiny, o.logit(3), optimiser=update, regularise=rules)
        assert len(list(machine.run(steps))) == steps
        return machine.parameters()

    decayed, plain = moved(1, Ascent(0.5, "rms"), Decay(0.5)), moved(1, Ascent(0.5, "rms"))
    np.testing.assert_allclose(decayed, 0.5 * plain, rtol=1e-5, atol=1e-7)
    assert (moved(3, Ascent(0.1), SmallContributions(50)) == 0).all(axis=1).mean() >= 0.4
    x = np.random.default_rng(0).normal(0, 0.2, (1, 3, 32, 32)).astype(np.float32)
    full, pruned = (Machine(tiny, o.logit(3), prune=p).evaluate(x, {})["gradient"] for p in (0, 75))
    kept = (pruned != 0).any(axis=1)
    assert kept.sum() == 32 * 32 // 4
    size = np.linalg.norm(full, axis=1)
    assert size[kept].min() >= size[~kept].max()
    np.testing.assert_array_equal(pruned, np.where(kept[:, None], full, 0))


def test_redirected_rules_only_for_the_first_steps(tiny, monkeypatch) -> None:
    machine = Machine(tiny, o.logit(3), optimiser=Ascent(0.1))
    asked: list[str] = []
    real = Machine._program
    monkeypatch.setattr(
        Machine, "_program", lambda self, rules="plain": asked.append(rules) or real(self, rules)
    )
    list(machine.run(4, redirected=2))
    assert asked == ["plain", "redirected", "redirected"]


# --- stopping -------------------------------------------------------------------------------------


def logarithm(shift: float, sign: float):
    """Of what the picture's mean, shifted, is: not finite where that has gone below zero."""
    m = networks.Maker()
    mean = m("Add", m("ReduceMean", "image", axes=[1, 2, 3], keepdims=1), m.constant(np.float32(shift)))
    x = m("Flatten", m("Mul", m("Log", mean), m.constant(np.float32(sign))))
    net = onnxviz.load(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 1)}), preprocess="unit", provider="cpu")
    return net, o.part(x)


GREY = np.full((8, 8, 3), 0.5, np.float32)


def test_nan_stops_with_the_last_good_picture() -> None:
    machine = Machine(*logarithm(0.35, -1), parametrise=Pixels(bounded=False), optimiser=Ascent(0.3, "mean"))
    seen = []
    with pytest.raises(GradientNotFinite, match="at step 3"):
        for step in machine.run(20, start=GREY):
            seen.append((step.value.copy(), step.parameters()))
    assert len(seen) == 3
    assert np.isfinite(seen[-1][0]).all()
    np.testing.assert_array_equal(machine.parameters(), seen[-1][1])


def test_stopping_early_keeps_the_picture(tiny) -> None:
    machine = Machine(tiny, o.logit(3), optimiser=Ascent(0.1))
    with pytest.raises(UsageError, match="no loop"):
        machine.parameters()
    for step in machine.run(100):
        if step.index == 2:
            break
    assert machine.pictures().shape == (1, 32, 32, 3)
    assert np.isfinite(machine.pictures()).all()


def test_memory_does_not_grow_with_the_steps(tiny) -> None:
    machine = Machine(tiny, o.logit(3), size=(128, 128), transforms=(Crop(32, 32),), optimiser=Adam(0.01))
    process, marks = psutil.Process(), {}
    for step in machine.run(500):
        if step.index in (100, 499):
            gc.collect()
            marks[step.index] = process.memory_info().rss
    assert marks[499] - marks[100] < 8 * 2**20


# --- L-BFGS ---------------------------------------------------------------------------------------


def test_lbfgs_matches_activations_and_keeps_the_best(tiny) -> None:
    photo = np.random.default_rng(5).uniform(0.2, 0.8, (32, 32, 3)).astype(np.float32)
    wanted = tiny.run(tiny.preprocessing.normalise(photo[None] * 255), ["conv1"])["conv1"]
    machine = Machine(tiny, o.match("conv1", wanted))
    steps = list(machine.lbfgs(60))
    assert len(steps) <= 60
    assert steps[-1].value[0] > steps[0].value[0] / 200
    best = max(float(step.value[0]) for step in steps)
    assert machine.evaluate(machine.parameters(), {})["value"][0] == pytest.approx(best, rel=1e-4)
    assert 0 <= machine.pictures().min() < machine.pictures().max() <= 1
    by_adam = Machine(tiny, o.match("conv1", wanted), optimiser=Adam(0.02))
    assert list(by_adam.run(len(steps)))[-1].value[0] < best


def test_lbfgs_may_be_left_early_and_raises_where_it_is_called(tiny) -> None:
    machine = Machine(tiny, o.logit(3) - 10 * o.norm(2))
    for step in machine.lbfgs(50):
        if step.index == 3:
            break
    assert machine.pictures().shape == (1, 32, 32, 3)
    with pytest.raises(UsageError, match="no optimiser"):
        next(machine.run(1))
    with pytest.raises(GradientNotFinite, match="at step"):
        list(Machine(*logarithm(0, -1), parametrise=Pixels(bounded=False)).lbfgs(50, start=GREY))


# --- sizes, layouts, and what is refused ----------------------------------------------------------


def test_another_size_than_the_networks(fixed) -> None:
    early = next(layer.name for layer in fixed.layers if layer.op == "Relu")
    machine = Machine(fixed, o.channel(early, 2), size=(20, 50), optimiser=Ascent(0.1))
    assert next(machine.run(1)).pictures().shape == (1, 20, 50, 3)
    with pytest.raises(ModelUnsuitable, match="50×20"):
        Machine(fixed, o.logit(2), size=(20, 50), optimiser=Ascent(0.1))
    cropped = Machine(fixed, o.logit(2), size=(40, 50), transforms=(Crop(32, 32),), optimiser=Ascent(0.1))
    assert len(list(cropped.run(2))) == 2


FORMS = {
    "channels last": networks.nhwc,
    "grey": lambda: networks.tiny_cnn(channels=1),
    "half": lambda: networks.fp16(networks.tiny_cnn()),
    "octets": lambda: networks.tiny_cnn(uint8=True),
    "integers": lambda: networks.qdq(networks.tiny_cnn(softmax=False)),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_layouts_and_types(form) -> None:
    machine = Machine(onnxviz.load(FORMS[form](), provider="cpu"), o.logit(3), optimiser=Ascent(0.01, "rms"))
    steps = list(machine.run(12))
    assert steps[-1].value[0] > steps[0].value[0] + 0.05


def test_a_file_of_a_batch_of_one() -> None:
    one = onnxviz.load(networks.static_batch(), provider="cpu")
    machine = Machine(one, o.logit(3), count=3, optimiser=Ascent(0.05, "rms"))
    assert next(machine.run(1)).value.shape == (3,)


@pytest.mark.parametrize(
    ("objective", "options", "error", "words"),
    [
        (o.channel("conv3", 0), {}, UnknownLayer, "conv2"),
        (o.channel("conv2", 16), {}, UsageError, "length 16"),
        (o.logit(1), {"count": 0}, UsageError, "1 or more"),
    ],
)
def test_what_cannot_be_done(tiny, objective, options, error, words) -> None:
    with pytest.raises(error, match=words):
        Machine(tiny, objective, optimiser=Adam(), **options)


def test_a_value_that_the_picture_does_not_reach() -> None:
    m = networks.Maker()
    shape = m("Cast", m("Shape", "image"), to=onnx.TensorProto.FLOAT)
    x = m("Flatten", m("ReduceMean", "image", axes=[2, 3], keepdims=0))
    model = m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 3), shape: (4,)})
    with pytest.raises(ModelUnsuitable, match="does not depend"):
        Machine(onnxviz.load(model, preprocess="unit", provider="cpu"), o.part(shape), optimiser=Adam())


def test_an_operator_without_a_rule_names_a_way_out_that_there_is():
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(4, 3, 3, 3), pads=[1] * 4))
    x = m("Gemm", m("Det", x), m.random(5, 4), transB=1)
    net = onnxviz.load(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 5)}), provider="cpu")
    with pytest.raises(UnsupportedOperator, match="Det .*images are made on native gradients only") as caught:
        Machine(net, o.logit(1, layer=x), size=(8, 8))
    assert "--backend" not in str(caught.value)
