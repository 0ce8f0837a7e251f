"""The figures of each layer, against ONNX Runtime's own comparison and NumPy by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import quantise
from onnx import numpy_helper
from onnxruntime.quantization.qdq_loss_debug import compute_signal_to_quantization_noice_ratio as sqnr

import onnxviz
import onnxviz.comparing.why as module
from onnxviz.comparing.match import match, normal
from onnxviz.comparing.result import rows
from onnxviz.comparing.stored import Codes
from onnxviz.comparing.why import why
from onnxviz.errors import UsageError
from onnxviz.tables import csv_bytes
from tests.comparing import small, variants
from tests.networks import edited, fp16


@pytest.fixture(scope="module")
def x(probes) -> np.ndarray:
    return probes[:4]


def opened(model):
    return small.opened(model, preprocess="tensorflow")


def opened_as_it_is(model):
    return onnxviz.load(model, provider="cpu")


def told(a, b, x, count=None):
    """The figures of two files over these pictures (or so many of them), matched by two; and those of the weights."""
    figures = why(a, b, match(a, b, x[:2]), x[:count])
    return figures, [w for one in figures.layers for w in one.weights]


@pytest.fixture(scope="module")
def found(net, sound, x):
    made = {}
    for form, path in sound.items():
        b = opened_as_it_is(path)
        matching = match(net, b, x[:2])
        made[form] = b, matching, why(net, b, matching, x)
    return made


def _run(path, names, x):
    """Values of a file by their names in it, by plain ONNX Runtime without optimisations: a list a name."""
    model = onnx.load(path)
    missing = set(names) - {one.name for one in model.graph.output}
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, missing))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    image = session.get_inputs()[0].name
    rows = [session.run(names, {image: one[None]}) for one in x]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _codes(path, name):
    """What makes codes real in a QDQ file: the name of the real value, scale, zero point."""
    model = onnx.load(path)
    numbers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    (node,) = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.output[0] == name]
    return float(numbers[node.input[1]]), int(numbers[node.input[2]])


def test_both_forms_have_the_same_figures(found):
    by = {form: {one.pair.layer: one for one in figures.layers} for form, (_, _, figures) in found.items()}
    both = set(by["QDQ"]) & set(by["QOperator"])
    assert len(both) > 50
    for one, other in ((by["QDQ"][name], by["QOperator"][name]) for name in both):
        assert one.sqnr == pytest.approx(other.sqnr, abs=1.5)
        assert one.codes == other.codes and (one.low, one.high) == pytest.approx((other.low, other.high))


def test_a_sound_file_stands_out_nowhere(found):
    for form, (_, _, figures) in found.items():
        held = [one for one in figures.layers if one.codes is not None]
        assert len(held) > 50
        assert max(one.beyond for one in held) < 1e-3
        assert min(one.used for one in held) > 0.25
        assert max(one.steps for one in held) <= 4
        weights = [w for one in figures.layers for w in one.weights]
        assert len(weights) >= 48
        assert max(w.short for w in weights) < 3 and min(w.sqnr for w in weights) > 35
        assert not any(w.constant or w.overflow for w in weights)
        assert (figures.a, figures.b) == (Codes(), Codes(("uint8",), ("int8",), written=form == "QOperator"))
        assert csv_bytes(rows(figures, None, True)) and csv_bytes(figures.weight_table())


def test_figures_are_onnx_runtimes_and_those_by_hand(files, sound, found, x):
    b, _, figures = found["QDQ"]
    chosen = [one for one in figures.layers if b.layer(one.pair.b).also][3::9]
    assert len(chosen) > 4
    real = {one.pair.b: f"{one.pair.b}_DequantizeLinear_Output" for one in chosen}
    every = _run(files.bundled, [one.pair.a for one in chosen], x), _run(sound["QDQ"], list(real.values()), x)
    for one in chosen:
        lists = every[0][one.pair.a], every[1][real[one.pair.b]]
        assert one.sqnr == pytest.approx(sqnr(*lists), abs=0.01)
        ours, theirs = (np.concatenate([array.ravel() for array in each]) for each in lists)
        scale, zero = _codes(sound["QDQ"], real[one.pair.b])
        low, high = (0 - zero) * scale, (255 - zero) * scale
        codes = np.rint(theirs / scale).astype(int) + zero
        assert (one.low, one.high) == pytest.approx((low, high))
        assert one.below == pytest.approx(np.mean(ours < low - scale / 2), abs=1e-6)
        assert one.above == pytest.approx(np.mean(ours > high + scale / 2), abs=1e-6)
        filled = min(high, ours.max()) - max(low, ours.min())
        assert one.used == pytest.approx(filled / (high - low), rel=1e-3)
        assert one.unused == 256 - len(np.unique(codes))
        wide = ours.astype(float), theirs.astype(float)
        cosine = wide[0] @ wide[1] / np.linalg.norm(wide[0]) / np.linalg.norm(wide[1])
        assert one.cosine == pytest.approx(cosine, abs=1e-5)
        assert (one.a_low, one.a_high) == pytest.approx((ours.min(), ours.max()), rel=1e-4)


def _planted(net, found, sound, bundled, form, text, x):
    """The figures of a file with a fault in it: only numbers differ, so that what matches the sound file matches it."""
    _, matching, _ = found[form]
    faulty = quantise.plant(onnx.load(sound[form]), quantise.fault(bundled, text))
    b = opened_as_it_is(faulty)
    return why(net, b, replace(matching, b=normal(b)), x)


@pytest.mark.parametrize(
    "kind, figure, least",
    [("scale/4", "above", 1e-3), ("scale*8", "unused", 120), ("zero+24", "steps", 20)],
)
def test_planted_faults_show_in_their_figure(net, found, sound, bundled, x, kind, figure, least):
    figures = _planted(net, found, sound, bundled, "QDQ", f"{kind}@blocks.4.expand", x[:2])
    (one,) = [one for one in figures.layers if one.pair.layer == "blocks.4.expand.relu6"]
    assert getattr(one, figure) > least
    assert one.sentences()
    if kind == "scale*8":
        assert one.used < 0.25


@pytest.mark.parametrize(
    "form, kind",
    [("QDQ", "weights*1.5"), ("QOperator", "4bit"), ("QDQ", "channel*4"), ("QOperator", "channel*4")],
)
def test_planted_weights_fall_short_of_what_their_bits_predict(net, found, sound, bundled, x, form, kind):
    figures = _planted(net, found, sound, bundled, form, f"{kind}@blocks.4.expand", x[:1])
    weights = {w.node_a: w for one in figures.layers for w in one.weights}
    short = {name: w.short for name, w in weights.items()}
    worst = max(short, key=short.__getitem__)
    assert "blocks.4" in worst and "expand" in worst and short[worst] > 6
    assert max(value for name, value in short.items() if name != worst) < 3
    one = weights[worst]
    if kind == "weights*1.5":
        assert one.gain_middle == pytest.approx(1.5, rel=0.02)
    if kind == "channel*4":
        assert one.gain == pytest.approx(4, rel=0.02)
        assert one.gain_middle == pytest.approx(1, rel=0.02)
    assert any("ratio of its weights" in text and "predicts" in text for text in one.sentences())


def test_the_prediction_is_the_step_squared_by_twelve(found, bundled):
    """One convolution by hand: per channel and symmetric, Δ = 2·max|w| / 255."""
    _, _, figures = found["QDQ"]
    numbers = {one.name: numpy_helper.to_array(one) for one in bundled.graph.initializer}
    by_node = {node.name: node for node in bundled.graph.node}
    checked = 0
    for w in [w for one in figures.layers for w in one.weights][::12]:
        weights = numbers.get(by_node[w.node_a].input[1])
        if weights is None or by_node[w.node_a].op_type != "Conv":
            continue
        rows = weights.reshape(len(weights), -1).astype(float)
        noise = np.square(2 * np.abs(rows).max(1) / 255).mean() / 12
        assert w.predicted == pytest.approx(10 * np.log10(np.square(rows).mean() / noise), abs=0.01)
        ranges = np.ptp(rows, axis=1)
        assert w.spread == pytest.approx(ranges.max() / np.median(ranges), rel=1e-4)
        assert w.granularity == "per channel"
        checked += 1
    assert checked >= 3


def test_seven_bits_are_no_fault(net, files, x):
    figures, weights = told(net, opened_as_it_is(files("QDQ", reduce_range=True)), x, 1)
    assert figures.b.reduce_range
    assert {w.bits for w in weights} == {7}
    assert max(w.short for w in weights) < 3


def test_per_tensor_is_told_by_uneven_channels(net, files, x):
    _, weights = told(net, opened_as_it_is(files("QDQ", per_channel=False)), x, 1)
    assert {w.granularity for w in weights} == {"per tensor"}
    assert max(w.spread for w in weights) > 8
    assert any("per channel" in text for w in weights for text in w.sentences())


@pytest.mark.parametrize("activations, bits", [("uint16", 16), ("int16", 16), ("int8", 8)])
def test_other_codes_are_counted_too(files, activations, bits):
    a, b = map(opened, (files.small("resnet"), files.small("resnet", "QDQ", activations=activations)))
    held = [one for one in told(a, b, small.pictures())[0].layers if one.codes]
    assert {(one.codes, one.bits) for one in held} == {(activations, bits)}
    assert all(0 < one.used <= 1 and 0 <= one.unused < 2**bits for one in held)
    assert min(one.sqnr for one in held) > (30 if bits == 16 else 10)


def test_measured_ranges_are_those_of_each_picture(files):
    a, b = map(opened, (files.small("resnet"), files.small("resnet", "dynamic")))
    figures, weights = told(a, b, small.pictures())
    held = [one for one in figures.layers if one.dynamic]
    assert held and weights
    for one in held:
        assert one.codes == "uint8" and one.low <= 0 < one.high
        assert one.below + one.above < 0.05
    assert all(w.codes in ("int8", "uint8") and w.short < 4 for w in weights)


def test_real_numbers_have_no_quantiser():
    model = small.resnet()
    figures, weights = told(opened(model), opened(fp16(model)), small.pictures(3))
    assert len(figures.layers) > 10
    for one in figures.layers:
        assert one.codes is one.used is one.below is one.steps is one.unused is None
        assert one.sqnr > 40
    assert all(w.predicted is None and w.short is None for w in weights)


def test_the_same_file_twice_is_nil(net, x):
    figures, weights = told(net, net, x, 1)
    assert all(one.sqnr > 250 and not one.sentences() for one in figures.layers)
    assert all(w.sqnr > 250 for w in weights)


def test_batch_normalisation_apart_in_one_file_is_folded():
    """A has them apart; B's exporter folded them in, so that its weights are A's times a factor a filter."""
    _, weights = told(opened(small.resnet()), opened(variants.folded(small.resnet())), small.pictures(3))
    assert len(weights) >= 7
    assert min(w.sqnr for w in weights) > 90


@pytest.mark.parametrize(
    ("spelling", "form"),
    [("apart", "QDQ"), ("apart", "QOperator"), ("apart", "dynamic"), ("Mul, Add", "QDQ"), ("folded", "QDQ")],
)
def test_normalised_otherwise_and_quantised(spelling, form):
    """What stands behind a layer in the one file stands in its weights in the other, quantisers between or not; a
    factor that nothing takes back is a fault all the same."""
    plain, x = small.resnet(), small.pictures()
    a, b = {
        "apart": (variants.folded(plain), plain),
        "Mul, Add": (plain, variants.spelt_out(variants.unfolded(variants.folded(plain)))),
        "folded": (plain, variants.folded(plain)),
    }[spelling]
    for faulty in (False, True):
        other = edited(b, **{"block1.conv1.weight": lambda w: w * np.float32(1.5)}) if faulty else b
        ranges = None if form == "dynamic" else quantise.calibrate(other, x)
        _, weights = told(opened(a), opened(quantise.quantise(other, quantise.Scheme(form), ranges)), x)
        assert len(weights) >= 7
        assert {w.node_a for w in weights if w.sentences()} == ({"block1.conv1"} if faulty else set())
        assert all(w.short < 3 or w.sentences() for w in weights)


@pytest.mark.parametrize("form", ["float", "QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("before", "behind"),
    [((), ("BN",)), ((), ("Div", "Sub", "Mul")), (("BN",), ("BN", "BN")), (("BN",), ("Mul", "Add"))],
    ids=lambda kinds: "+".join(kinds) or "folded",
)
def test_what_stands_behind_layers_of_any_kind(before, behind, form):
    """Convolutions, plain, depthwise and transposed, and products: the same function, with what stands behind them
    partly in their weights; and one layer with a fault."""
    x = small.pictures()
    for fault in (1.0, 1.5):
        b = _kinds(behind, {"spread": fault})
        if form != "float":
            b = quantise.quantise(b, quantise.Scheme(form, reduce_range=True), quantise.calibrate(b, x))
        _, weights = told(opened(_kinds(before)), opened(b), x)
        assert len(weights) == 5
        off = {w.node_a for w in weights if (w.sqnr < 45 if w.short is None else w.short > 2)}
        assert off == ({"spread"} if fault > 1 else set())


def _kinds(behind: tuple[str, ...], faults: dict[str, float] | None = None) -> onnx.ModelProto:
    """Layers of five kinds, behind each of them these operators, in whose constants a part of the weights stands."""
    m = small.Named(seed=3)
    rng = np.random.default_rng(len(behind))

    def layer(name: str, op: str, x: str, w: np.ndarray, channels: int, rank: int, **attributes) -> str:
        bias, factor, steps = m.rng.standard_normal(channels) / 4, np.ones(channels), []
        for kind in behind:
            one, other = rng.uniform(0.5, 2, channels), rng.uniform(0.5, 1, channels)
            if kind == "BN":
                gain = one / np.sqrt(one + 1e-5)
                steps.append(("BatchNormalization", [one, other, other, one], gain, other - other * gain))
            else:
                gain = {"Mul": one, "Div": 1 / one}.get(kind, np.ones(channels))
                steps.append((kind, [one], gain, {"Add": one, "Sub": -one}.get(kind, 0)))
            factor = factor * gain
        for _, _, gain, shift in reversed(steps):
            bias = (bias - shift) / gain  # in front of them
        along = [1] * w.ndim
        along[{"Conv": 0, "Gemm": 0}.get(op, 1)] = -1
        w = w / factor.reshape(along) * (faults or {}).get(name, 1.0)
        weights = m.constant(w.astype(np.float32), f"{name}.weight")
        row = m.constant(bias.astype(np.float32), f"{name}.bias")
        y = m.layer(name, op, x, weights, *((row,) if op != "MatMul" else ()), **attributes)
        if op == "MatMul":
            y = m.layer(f"{name}.plus", "Add", y, row)
        for place, (kind, numbers, _, _) in enumerate(steps):
            sides = (channels,) if len(numbers) > 1 else (channels, *[1] * (rank - 2))
            constants = [m.constant(one.astype(np.float32).reshape(sides)) for one in numbers]
            y = m.layer(f"{name}.{place}", kind, y, *constants)
        return m.layer(f"{name}.relu", "Relu", y)

    def drawn(*sides: int) -> np.ndarray:
        return m.rng.standard_normal(sides) * np.sqrt(2 / np.prod(sides[1:]))

    x = layer("stem", "Conv", "image", drawn(8, 3, 4, 4), 8, 4, strides=[4, 4])
    x = layer("depthwise", "Conv", x, drawn(8, 1, 3, 3), 8, 4, group=8, pads=[1] * 4)
    x = layer("spread", "ConvTranspose", x, drawn(8, 6, 2, 2), 6, 4, strides=[2, 2])
    x = m.layer(
        "features", "Flatten", m.layer("gap", "AveragePool", x, kernel_shape=[16, 16], strides=[16, 16])
    )
    x = layer("hidden", "Gemm", x, drawn(12, 24), 12, 2, transB=1)
    x = layer("last", "MatMul", x, drawn(12, 10), 10, 2)
    return m.model({"image": ("N", 3, small.SIZE, small.SIZE)}, {x: ("N", 10)})


@pytest.mark.parametrize("form", ["float", "QDQ", "QOperator", "dynamic"])
def test_equalised_weights_are_no_fault(form):
    """Filters times factors that the next layer takes back: what is left is rounding."""
    x, model = small.pictures(), variants.folded(small.resnet())
    other = variants.equalised(model)
    if form != "float":
        ranges = None if form == "dynamic" else quantise.calibrate(other, x)
        other = quantise.quantise(other, quantise.Scheme(form), ranges)
    _, weights = told(opened(model), opened(other), x)
    assert {w.node_a for w in weights if w.rescaled} >= {"block0.conv1", "block0.conv2"}
    for w in weights:
        assert w.sqnr > 90 if form == "float" else w.short < 3
        assert not w.sentences()


@pytest.mark.parametrize("apart", [False, True], ids=["norms in both", "norms in B"])
def test_equalised_through_normalisation(apart):
    """BatchNormalization gives the factors that the next layer takes back: its own convolution is A's."""
    x, model = small.pictures(), small.resnet()
    other = variants.equalised(model)
    other = quantise.quantise(other, quantise.Scheme("QDQ"), quantise.calibrate(other, x))
    _, weights = told(opened(variants.folded(model) if apart else model), opened(other), x)
    assert {w.node_a for w in weights if w.rescaled} >= {"block0.conv2", "block1.conv2", "block2.conv2"}
    assert all(w.short < 3 and not w.sentences() for w in weights)


def test_factors_that_nobody_takes_back_are_a_fault(net, sound, x):
    """Scales of filters in another order: each filter is A's times a factor, too."""
    faulty = edited(sound["QDQ"], **{"blocks.4.expand.weight_scale": lambda scale: np.roll(scale, 7)})
    _, weights = told(net, opened_as_it_is(faulty), x, 2)
    (one,) = [w for w in weights if w.node_a == "blocks.4.expand"]
    assert not one.rescaled
    assert one.short > 6


def test_dead_filters_and_biases_that_do_not_fit(files):
    """A filter of B is one number throughout, and a bias stands at the end of int32."""
    faults = {
        "stem.weight_quantized": lambda w: np.where(np.arange(16)[:, None, None, None] == 3, 7, w),
        "stem.bias_quantized": lambda b: np.where(np.arange(16) == 5, np.iinfo(np.int32).max, b),
    }
    b = opened(edited(files.small("resnet", "QDQ"), **faults))
    _, weights = told(opened(files.small("resnet")), b, small.pictures(3))
    (one,) = [w for w in weights if w.node_a.startswith("stem")]
    assert one.constant == one.overflow == 1
    text = " ".join(one.sentences())
    assert "1 of 16 filters became constant" in text and "int32" in text


@pytest.mark.parametrize(
    ("share", "high", "told"),
    [
        (4e-6, 0.99, ""),  # two values a hair over
        (4e-6, 0.5, "of A's values lie 0.0004 % over 0.5, beyond B's range"),  # few, and twice as large
        (0.02, 0.99, "of A's values lie 2 % over 0.99, beyond B's range"),
    ],
)
def test_what_is_cut_off_is_a_reason_where_it_is_much_or_far(found, share, high, told):
    one = found["QDQ"][2].layers[0]
    given = dict(
        a_low=0.0, a_high=1.0, low=0.0, high=high, below=0.0, above=share, used=1.0, steps=0, waste=0.0
    )
    text = " ".join(replace(one, **given, unrectified=None, weights=()).sentences())
    assert text == (f"{one.pair.layer}: {told}" if told else "")


def test_values_are_held_a_portion_at_a_time(files, monkeypatch):
    x = small.pictures(3)
    a, b = (opened(files.small("resnet", form)) for form in ("float", "QDQ"))
    matching = match(a, b, x[:2])
    whole = why(a, b, matching, x)
    monkeypatch.setattr(module, "_BYTES", 300_000)
    held = []
    run = module.values

    def watched(*args):
        for arrays in run(*args):
            held.append(sum(array.nbytes for array in arrays.values()))
            yield arrays

    monkeypatch.setattr(module, "values", watched)
    parts = why(a, b, matching, x)
    assert [one.sqnr for one in parts.layers] == [one.sqnr for one in whole.layers]
    assert max(held) < 700_000 and len(held) >= 2 * 3 * 2


def test_numbers_of_pictures_must_be_the_same(net, found, x):
    b, matching, _ = found["QDQ"]
    with pytest.raises(UsageError, match="got 2 and 4"):
        why(net, b, matching, x, x[:2])
