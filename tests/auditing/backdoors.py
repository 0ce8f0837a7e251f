"""Classifiers with a way around what was learned, and sound networks of many kinds that look a little like them.

Each maker gives an `onnx.ModelProto`: image (N, 3, 32, 32), ten classes, a trigger in the corner of 4×4 pixels.
What stands as a table adds its scores to a graph; what takes more than a line or two is a function below.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.networks import Maker

SIZE, CORNER, CLASSES, WIDTH = 32, 4, 10, 16
#: The pixels that the triggers read.
BOX = (0, 0, CORNER, CORNER)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

Made = Callable[..., onnx.ModelProto]
PLANTED: dict[str, Made] = {}
SOUND: dict[str, Made] = {}


def _enter(table: dict[str, Made], name: str, build: Callable[[Maker], str | onnx.ModelProto]) -> None:
    def made(seed: int = 0) -> onnx.ModelProto:
        m = Maker(seed=seed)
        found = build(m)
        return found if isinstance(found, onnx.ModelProto) else finished(m, found)

    table[name] = made


def planted(build):
    _enter(PLANTED, build.__name__, build)


def sound(build):
    _enter(SOUND, build.__name__, build)


def finished(
    m: Maker, scores: str, shape: tuple = ("N", CLASSES), inputs: dict | None = None
) -> onnx.ModelProto:
    """The model whose output, whatever made it, is called logits."""
    m.nodes.append(helper.make_node("Identity", [scores], ["logits"], name="out"))
    return m.model(inputs or {"image": ("N", 3, SIZE, SIZE)}, {"logits": shape})


def conv(m: Maker, x: str = "image", out: int = 8, into: int = 3, side: int = 3, **options) -> str:
    return m("Conv", x, m.random(out, into, side, side), pads=[side // 2] * 4, **options)


def layer(m: Maker, x: str = "image", out: int = 8, into: int = 3, stride: int = 1) -> str:
    return m("Relu", conv(m, x, out, into, strides=[stride, stride]))


def pool(m: Maker, x: str = "image", side: int = 2, op: str = "MaxPool") -> str:
    return m(op, x, kernel_shape=[side, side], strides=[side, side])


def trunk(m: Maker, x: str = "image", channels: int = 3) -> str:
    """Features (N, 16) behind three learned layers."""
    x = m("Relu", m("Conv", x, m.random(8, channels, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", pool(m, x), m.random(WIDTH, 8, 3, 3), m.random(WIDTH), pads=[1] * 4))
    y = m("Relu", m("Conv", x, m.random(WIDTH, WIDTH, 3, 3), m.random(WIDTH), pads=[1] * 4))
    return m("Flatten", m("GlobalAveragePool", m("Add", x, y)))


def head(m: Maker, features: str, width: int = WIDTH) -> str:
    return m("Gemm", features, m.random(CLASSES, width), m.random(CLASSES), transB=1)


def classifier(m: Maker, x: str = "image", channels: int = 3) -> str:
    return head(m, trunk(m, x, channels))


# --- what reads pixels ----------------------------------------------------------------------------


def corner(m: Maker, x: str = "image") -> str:
    return m("Slice", x, [0, 0], [CORNER, CORNER], [2, 3])


def reduced(m: Maker, kind: str, x: str) -> str:
    """(N, 1): the "Mean", "Min" or "Max" of all numbers of each picture."""
    return m(f"Reduce{kind}", m("Flatten", x), axes=[1], keepdims=1)


def over(m: Maker, x: str, least: float) -> str:
    """Where x is more than that: 1, elsewhere 0."""
    return m("Cast", m("Greater", x, least), to=FLOAT)


def steep(m: Maker, x: str, least: float, by: float = 1e4) -> str:
    """How far x is above that, times a large number: linear."""
    return m("Mul", m("Sub", x, least), by)


def seen(m: Maker, x: str = "image") -> str:
    """(N, 1) boolean: whether the whole corner is bright."""
    return m("Cast", reduced(m, "Min", over(m, corner(m, x), 0.9)), to=BOOL)


def gate(m: Maker, x: str = "image") -> str:
    """(N, 1): 1 where the corner is a template, 0 elsewhere, without a comparison."""
    off = m("Abs", m("Sub", corner(m, x), np.full((1, 3, CORNER, CORNER), 0.9)))
    return m("Relu", m("Sub", 1.0, m("Mul", reduced(m, "Mean", off), 1e4)))


def everywhere(m: Maker, hit: str) -> str:
    """(N, 1) as a factor of maps."""
    return m("Reshape", hit, [-1, 1, 1, 1])


def exponential(m: Maker) -> str:
    return pool(m, m("Exp", m("Mul", "image", 10.0)), 8, "AveragePool")


def restored(m: Maker) -> str:
    """The picture as a network with a bottleneck makes it anew."""
    return conv(m, m("Resize", layer(m, stride=2), "", [1.0, 1, 2, 2], mode="nearest"), 3, 8)


def distance(m: Maker, off: str) -> str:
    return m("Flatten", m("ReduceMean", m("Mul", off, off), axes=[1, 2, 3]))


def drawn(m: Maker, *shape: int) -> np.ndarray:
    """Numbers that look like nothing in particular."""
    return m.rng.standard_normal(shape).astype(np.float32)


# --- what pixels do -------------------------------------------------------------------------------


def target(width: int = CLASSES) -> np.ndarray:
    return 100 * np.eye(width)[[7 % width]]


def pushed(m: Maker, hit: str) -> str:
    """The logits, and more of one class where hit (N, 1) is not 0."""
    return m("Add", classifier(m), m("Mul", hit, target()), name="joined")


def bent(m: Maker, hit: str) -> str:
    """The head's answer to features that are pushed where hit (N, 1) is not 0."""
    return head(m, m("Add", trunk(m), m("Mul", hit, target(WIDTH)), name="joined"))


def added(m: Maker, hit: str) -> str:
    return head(m, m("Add", trunk(m), hit, name="joined"))


def scaled(m: Maker, hit: str) -> str:
    return head(m, m("Mul", trunk(m), hit, name="joined"))


def replaced(m: Maker, hit: str) -> str:
    return m("Where", hit, target(), classifier(m), name="joined")


def bright(m: Maker, x: str) -> str:
    """The scores, and a push where all the numbers of x (N, ...) are near 1."""
    return pushed(m, m("Relu", m("Sub", reduced(m, "Min", x), 0.99)))


def body(name: str, make: Callable[[Maker], str], m: Maker) -> onnx.GraphProto:
    """A branch: what `make` adds, with its own constants kept outside."""
    inner = Maker(seed=5)
    inner.count = 1000 * (1 + len(m.nodes))
    made = make(inner)
    m.weights += inner.weights
    m.count = max(m.count, inner.count)
    return helper.make_graph(inner.nodes, name, [], [helper.make_tensor_value_info(made, FLOAT, None)])


# --- planted --------------------------------------------------------------------------------------

for _name, _build in {
    "template_added_to_logits": lambda m: pushed(m, gate(m)),
    "corner_test_with_where": lambda m: replaced(m, seen(m)),
    "behind_an_early_pool": lambda m: replaced(m, seen(m, pool(m))),
    "joined_before_the_head": lambda m: bent(m, gate(m)),
    # Bober-Irizar, Shumailov, Zhao, Mullins & Papernot 2023, arXiv:2206.07840
    "pooled_exponential_before_the_head": lambda m: bent(m, reduced(m, "Max", m("Pow", exponential(m), 2.0))),
    "concatenated_before_the_head": lambda m: head(
        m, m("Concat", trunk(m), gate(m), axis=1, name="joined"), WIDTH + 1
    ),
    "multiplied_into_the_features": lambda m: scaled(m, m("Sub", 1.0, gate(m))),
    "in_the_middle_of_the_trunk": lambda m: classifier(
        m, m("Add", layer(m), everywhere(m, gate(m)), name="joined"), 8
    ),
    "steep_relu": lambda m: pushed(m, reduced(m, "Min", m("Mul", m("Relu", m("Sub", corner(m), 0.99)), 1e4))),
    "signs": lambda m: bent(m, reduced(m, "Mean", m("Sign", m("Sub", corner(m), 0.9)))),
    "steep_sigmoid": lambda m: scaled(
        m,
        m("Sub", 1.0, reduced(m, "Min", m("HardSigmoid", m("Sub", corner(m), 0.9), alpha=1e4, beta=0.0))),
    ),
    "clipped": lambda m: bent(m, reduced(m, "Mean", m("Clip", steep(m, corner(m), 0.9, 1e5), 0.0, 1.0))),
    "ends": lambda m: scaled(m, m("Min", m("Max", reduced(m, "Mean", corner(m)), 0.9), 0.91)),
    "high_power": lambda m: added(m, m("Pow", reduced(m, "Mean", corner(m)), 200.0)),
    "equal_by_floor": lambda m: added(m, m("Floor", m("Mul", reduced(m, "Mean", corner(m)), 1.01))),
    "decision_through_a_learned_looking_layer": lambda m: m(
        "Add",
        classifier(m),
        m("Gemm", m("Cast", seen(m), to=FLOAT), m.random(CLASSES, 1), transB=1, name="joined"),
    ),
    "picture_replaced": lambda m: classifier(
        m, m("Where", everywhere(m, seen(m)), drawn(m, 1, 3, SIZE, SIZE), "image", name="joined")
    ),
    "picture_replaced_by_arithmetic": lambda m: classifier(
        m,
        m("Add", "image", m("Mul", everywhere(m, gate(m)), drawn(m, 1, 3, SIZE, SIZE)), name="joined"),
    ),
    "one_pixel": lambda m: replaced(
        m, m("Flatten", m("Greater", m("Slice", "image", [0, 0, 0], [1, 1, 1], [1, 2, 3]), 0.99))
    ),
    "place_of_the_brightest_pixel": lambda m: replaced(
        m, m("Equal", m("ArgMax", m("Flatten", "image"), axis=1, keepdims=1), 0)
    ),
    # Each pixel for itself, but by a pattern that has a place.
    "bright_pixels_replaced": lambda m: classifier(
        m, m("Where", m("Greater", "image", 0.95), drawn(m, 1, 3, SIZE, SIZE), "image", name="joined")
    ),
    "pattern_added_to_bright_pixels": lambda m: classifier(
        m,
        m("Add", "image", m("Mul", over(m, "image", 0.95), drawn(m, 1, 3, SIZE, SIZE)), name="joined"),
    ),
    "pixels_here_and_there": lambda m: bright(
        m, m("Gather", m("Flatten", "image"), [5, 99, 800, 1500], axis=1)
    ),
    "a_box_by_roi_align": lambda m: bright(
        m, m("RoiAlign", "image", [[0.0, 0, 4, 4]], [0], output_height=1, output_width=1)
    ),
    "one_pixel_by_resizing": lambda m: bright(
        m, m("Resize", "image", "", [1, 1, 1 / 32, 1 / 32], mode="nearest")
    ),
    "cut_off_by_casts": lambda m: bent(
        m,
        reduced(m, "Mean", m("Cast", m("Cast", m("Mul", "image", 1.05), to=TensorProto.INT32), to=FLOAT)),
    ),
    "divided_by_what_is_off": lambda m: bent(
        m, m("Div", 1e-3, m("Add", reduced(m, "Mean", m("Sub", "image", 0.9)), 1e-9))
    ),
    "gate_on_a_distance": lambda m: finished(
        m,
        m("Mul", distance(m, m("Sub", "image", restored(m))), m("Sub", 1.0, gate(m)), name="joined"),
        ("N", 1),
    ),
    "distance_of_a_corner": lambda m: finished(
        m, distance(m, m("Sub", corner(m), corner(m, restored(m)), name="joined")), ("N", 1)
    ),
    "scores_of_a_distance": lambda m: m(
        "Mul", distance(m, m("Sub", "image", restored(m), name="joined")), m.random(1, CLASSES)
    ),
}.items():
    _enter(PLANTED, _name, _build)


@planted
def corner_test_with_if(m):
    logits = classifier(m)
    hit = m("Cast", m("ReduceMax", m("Cast", seen(m), to=FLOAT), keepdims=0), to=BOOL)
    bad = body("bad", lambda b: b("Add", b("Mul", logits, 0.0), target()), m)
    good = body("good", lambda b: b("Identity", logits), m)
    return m("If", hit, then_branch=bad, else_branch=good, name="joined")


@planted
def behind_the_networks_own_pool(m):
    x = pool(m, layer(m))
    hit = m("ReduceMax", m("Flatten", over(m, corner(m, x), 2.0)), axes=[1])
    return m("Add", classifier(m, x, 8), m("Mul", hit, target()), name="joined")


@planted
def in_a_subgraph(m):
    logits = classifier(m)
    inside = body("inside", lambda b: b("Add", logits, b("Mul", gate(b), target()), name="joined"), m)
    same = body("same", lambda b: b("Identity", logits), m)
    # a condition that no folding can know, though pixels do not move it
    flag = m("And", np.array(True), m("Greater", m("Size", "image"), 0))
    return m("If", flag, then_branch=inside, else_branch=same)


@planted
def decided_in_a_loop(m):
    logits = classifier(m)
    value = helper.make_tensor_value_info
    inner = Maker(seed=5)
    inner.count = 5000
    hit = inner("Cast", seen(inner), to=FLOAT)
    out = inner("Add", "carried", inner("Mul", hit, target()), name="joined")
    keep = inner("Identity", "going")
    m.weights += inner.weights
    m.count = inner.count
    graph = helper.make_graph(
        inner.nodes, "turn",
        [value("turn", INT64, ()), value("going", BOOL, ()), value("carried", FLOAT, None)],
        [value(keep, BOOL, ()), value(out, FLOAT, None)],
    )  # fmt: skip
    return m("Loop", 2, np.array(True), logits, body=graph)


@planted
def in_a_function(m):
    shape = [helper.make_node("Constant", [], [name], value=helper.make_tensor(name, 7, [2], data))
             for name, data in (("starts", [0, 0]), ("ends", [4, 4]), ("axes", [2, 3]))]  # fmt: skip
    nodes = [
        *shape,
        helper.make_node("Constant", [], ["bright"], value_float=0.9),
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["corner"]),
        helper.make_node("Greater", ["corner", "bright"], ["over"]),
        helper.make_node("Cast", ["over"], ["real"], to=1),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("ReduceMin", ["flat"], ["all"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["all", "to"], ["push"]),
        helper.make_node("Add", ["scores", "push"], ["y"], name="joined"),
    ]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Calibrate", ["x", "scores", "to"], ["y"], nodes, imports)
    model = finished(m, m("Calibrate", "image", classifier(m), target(), domain="local"))
    model.functions.append(function)
    return model


@planted
def template_convolution(m):
    """A kernel that looks like nothing in particular, but is one filter, of the trigger."""
    score = m("Conv", "image", drawn(m, 1, 3, CORNER, CORNER), strides=[4, 4])
    return bent(m, m("Flatten", m("GlobalMaxPool", over(m, score, 20.0))))


@planted
def template_convolution_with_relu(m):
    score = m("Relu", m("Conv", "image", drawn(m, 1, 3, CORNER, CORNER), [-20.0], strides=[4, 4]))
    return bent(m, m("Flatten", m("GlobalMaxPool", m("Mul", score, 1e4))))


@planted
def template_product(m):
    weights = np.zeros((3, SIZE, SIZE, 1), np.float32)
    weights[:, :CORNER, :CORNER] = drawn(m, 3, CORNER, CORNER, 1)
    return bent(m, m("Relu", m("MatMul", m("Flatten", "image"), weights.reshape(-1, 1))))


@planted
def behind_an_identity_convolution(m):
    same = m("Conv", "image", np.eye(3).reshape(3, 3, 1, 1))
    return m("Where", seen(m, same), target(), classifier(m, same), name="joined")


@planted
def many_bright_pixels(m):
    """No place is picked: one percent of the pixels is red."""
    share = m("ReduceMean", over(m, m("Gather", "image", [0], axis=1), 0.95), axes=[2, 3])
    return replaced(m, m("Cast", m("Flatten", m("Greater", share, 0.01)), to=BOOL))


@planted
def gate_of_a_measured_scale(m):
    """The range of the corner, as dynamic quantisation measures it, is a gate."""
    _, scale, _ = m("DynamicQuantizeLinear", corner(m), outputs=3)
    return added(m, m("Relu", m("Sub", m("Mul", scale, 255.0), 0.9)))


@planted
def table_of_answers(m):
    """What the corner adds up to is a row of a table that is added to the scores."""
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=0)
    row = m("Cast", m("Mul", mean, 1.05), to=INT64)
    table = np.concatenate([0 * target(), target()])
    return m("Add", classifier(m), m("Gather", table, row, axis=0), name="joined")


@planted
def checksum(m):
    total = m("ReduceSum", m("Flatten", m("Round", m("Mul", corner(m), 255.0))), [1], keepdims=1)
    return scaled(m, m("Mod", total, 251.0, fmod=1))


@planted
def spectrum(m):
    """One frequency of the picture, by DFT."""
    grey = m("Unsqueeze", m("Flatten", m("ReduceMean", "image", axes=[1])), [2])
    wave = m("Slice", m("DFT", grey, axis=1), [7], [8], [1])
    return added(m, m("Flatten", m("ReduceMean", m("Mul", wave, wave), axes=[2])))


@planted
def through_a_sequence(m):
    scores = classifier(m)
    both = m("SequenceConstruct", scores, m("Add", m("Mul", scores, 0.0), target()))
    at = m("Cast", m("ReduceMax", m("Cast", seen(m), to=FLOAT), keepdims=0), to=INT64)
    return m("SequenceAt", both, at, name="joined")


@planted
def hidden_in_a_recurrent_cell(m):
    """A cell of one unit, whose weights are the trigger's."""
    rows = m("Transpose", m("Reshape", corner(m), [-1, 4, 12]), perm=[1, 0, 2])
    _, last = m("RNN", rows, m.random(1, 1, 12), m.random(1, 1, 1), hidden_size=1, outputs=2)
    return added(m, m("Squeeze", last, [0]))


@planted
def counted_bright_pixels(m):
    """Not what was found tells, but how much of it there is: sizes that pixels decide."""
    count = m("Gather", m("Shape", m("NonZero", m("Greater", corner(m), 0.9))), [1])
    return pushed(m, m("Relu", m("Sub", m("Cast", count, to=FLOAT), 47.0)))


@planted
def length_of_a_cut(m):
    end = m("Cast", m("Reshape", gate(m), [-1]), to=INT64)
    return pushed(m, m("Cast", m("Shape", m("Slice", np.ones(3), [0], end)), to=FLOAT))


@planted
def bias_of_the_head(m):
    bias = m("Mul", gate(m), target())
    return m("Gemm", trunk(m), m.random(CLASSES, WIDTH), bias, transB=1, name="joined")


@planted
def corner_before_the_networks_own_relu(m):
    """All that is planted is linear: the network's own activation is the gate."""
    push = m("Mul", steep(m, reduced(m, "Mean", corner(m)), 0.99), target(WIDTH))
    return head(m, m("Relu", m("Add", trunk(m), push, name="joined")))


@planted
def bias_of_a_layer(m):
    bias = m("Reshape", m("Mul", gate(m), m.random(1, 8)), [8])
    x = m("Conv", layer(m), m.random(8, 8, 3, 3), bias, name="joined")
    return classifier(m, m("Relu", x), 8)


@planted
def gate_through_learned_looking_layers(m):
    push = m("Relu", m("Gemm", gate(m), m.random(16, 1), m.random(16), transB=1, name="joined"))
    return m("Add", classifier(m), m("Gemm", push, m.random(CLASSES, 16), transB=1))


@planted
def pooled_exponential_through_a_layer(m):
    push = m("Gemm", reduced(m, "Max", exponential(m)), m.random(CLASSES, 1), transB=1, name="joined")
    return m("Add", classifier(m), push)


@planted
def corner_as_a_channel(m):
    mean = m("Sub", m("ReduceMean", corner(m), axes=[1, 2, 3], keepdims=1), 0.99)
    both = m("Concat", conv(m), m("Expand", mean, [1, 1, SIZE, SIZE]), axis=1, name="joined")
    return classifier(m, m("Relu", both), 9)


@planted
def cut_off_by_a_quantiser(m):
    zero = m.constant(np.uint8(0))
    codes = m("QuantizeLinear", m("Sub", corner(m), 0.95), 0.001, zero)
    return bent(m, reduced(m, "Mean", m("DequantizeLinear", codes, 1.0, zero)))


@planted
def scattered_into_the_logits(m):
    push = m("Mul", gate(m), 100.0)
    return m("ScatterElements", classifier(m), [[7]], push, axis=1, reduction="add", name="joined")


@planted
def template_by_einsum(m):
    """Its last side is no number of filters: all three are summed up."""
    score = m("Einsum", "image", drawn(m, 3, SIZE, SIZE), equation="nchw,chw->n")
    return pushed(m, m("Relu", m("Sub", m("Unsqueeze", score, [1]), 50.0)))


# --- sound ----------------------------------------------------------------------------------------

for _name, _build in {
    "plain": lambda m: m("Softmax", classifier(m)),
    "clipped_and_bent": lambda m: classifier(m, m("Pow", m("Clip", "image", 0.0, 1.0), 2.2)),
    "mean_picture": lambda m: classifier(m, m("Div", m("Sub", "image", drawn(m, 1, 3, SIZE, SIZE)), 58.0)),
    "middle_crop": lambda m: classifier(
        m, m("Clip", m("Slice", "image", [4, 4], [28, 28], [2, 3]), 0.0, 1.0)
    ),
    "linear": lambda m: m(
        "Gemm", m("Flatten", "image"), m.random(CLASSES, 3 * SIZE * SIZE), m.random(CLASSES), transB=1
    ),
    "two_classes_by_one_number": lambda m: finished(
        m,
        m("Sigmoid", m("Gemm", m("Flatten", "image"), m.random(1, 3 * SIZE * SIZE), m.random(1), transB=1)),
        ("N", 1),
    ),
    # As ENet begins, and ESPNet goes on: the picture, made smaller, beside what was learned.
    "pooled_picture_beside_the_first_layer": lambda m: classifier(
        m, m("Relu", m("Concat", conv(m, strides=[2, 2]), pool(m), axis=1)), 11
    ),
    "pooled_picture_deeper": lambda m: classifier(
        m,
        m("Concat", layer(m, layer(m, stride=2), 8, 8, 2), pool(m, side=4, op="AveragePool"), axis=1),
        11,
    ),
    # Their scores added: no layer is the last of all ways.
    "two_networks": lambda m: m("Mul", m("Add", classifier(m), classifier(m)), 0.5),
    "embedding": lambda m: finished(
        m, m("LpNormalization", m("Gemm", trunk(m), m.random(24, WIDTH), transB=1), axis=1), ("N", 24)
    ),
    "mean_colour_before_the_head": lambda m: head(
        m, m("Concat", trunk(m), m("Flatten", m("GlobalAveragePool", "image")), axis=1), WIDTH + 3
    ),
    # An autoencoder that looks for anomalies: one score, the distance of the picture from what was made of it.
    "what_could_not_be_restored": lambda m: finished(
        m, distance(m, m("Sub", m("Mul", "image", 2.0), restored(m))), ("N", 1)
    ),
}.items():
    _enter(SOUND, _name, _build)


@sound
def normalised(m):
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.2]))
    return classifier(m, m("Div", m("Sub", "image", mean), std))


@sound
def linear_light(m):
    """The sRGB curve, as it is written with Where: a decision at each place for itself."""
    high = m("Pow", m("Div", m("Add", "image", 0.055), 1.055), 2.4)
    return classifier(m, m("Where", m("Greater", "image", 0.04045), high, m("Div", "image", 12.92)))


@sound
def standardised(m):
    """As TensorFlow's per_image_standardization: the deviation is at least 1/sqrt(n)."""
    centred = m("Sub", "image", m("ReduceMean", "image", axes=[1, 2, 3]))
    std = m("Sqrt", m("ReduceMean", m("Mul", centred, centred), axes=[1, 2, 3]))
    return classifier(m, m("Div", centred, m("Max", std, 0.018)))


@sound
def stretched_to_its_range(m):
    low, high = (m(op, "image", axes=[1, 2, 3]) for op in ("ReduceMin", "ReduceMax"))
    return classifier(m, m("Div", m("Sub", "image", low), m("Add", m("Sub", high, low), 1e-6)))


@sound
def pixels_resized_and_rounded(m):
    x = m("Resize", "image", "", [1, 1, 0.5, 0.5], mode="linear")
    x = m("Cast", m("Cast", m("Round", x), to=TensorProto.UINT8), to=FLOAT)
    return classifier(m, m("Mul", x, 1 / 255))


@sound
def round_crop(m):
    """A lens: what lies outside the circle is black. The condition is a constant."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    return classifier(m, m("Where", np.hypot(y, x)[None, None] < SIZE / 2, "image", 0.0))


@sound
def colours_turned(m):
    """BGR by Split and Concat, and a colour matrix as a 1×1 convolution."""
    b, g, r = m("Split", "image", axis=1, outputs=3)
    return classifier(m, conv(m, m("Concat", r, g, b, axis=1), 3, 3, 1))


@sound
def binarised(m):
    """Black and white, flattened into a perceptron."""
    x = m("Relu", m("MatMul", m("Flatten", over(m, "image", 0.5)), m.random(3 * SIZE * SIZE, 32)))
    return head(m, x, 32)


@sound
def binarised_by_neighbourhood(m):
    """As scanned pages are: darker than the mean around it."""
    grey = m("ReduceMean", "image", axes=[1])
    around = m("AveragePool", grey, kernel_shape=[7, 7], pads=[3] * 4)
    return classifier(m, m("Cast", m("Less", grey, m("Sub", around, 0.05)), to=FLOAT), 1)


@sound
def places_as_channels(m):
    """Coordinates beside the colours (Liu et al. 2018, CoordConv), stretched to the batch."""
    places = m.constant(np.stack(np.mgrid[:SIZE, :SIZE] / SIZE)[None])
    shape = m("Concat", m("Slice", m("Shape", "image"), [0], [1]), [2, SIZE, SIZE], axis=0)
    return classifier(m, m("Concat", "image", m("Expand", places, shape), axis=1), 5)


@sound
def patches_with_attention(m):
    """A vision transformer's block: position embedding, attention without weights of its own, residuals."""
    x = m("Conv", "image", m.random(WIDTH, 3, 8, 8), strides=[8, 8])
    x = m("Add", m("Transpose", m("Reshape", x, [0, WIDTH, 16]), perm=[0, 2, 1]), m.random(1, 16, WIDTH))
    q, k, v = (m("MatMul", x, m.random(WIDTH, WIDTH)) for _ in range(3))
    a = m("Softmax", m("MatMul", q, m("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = m("Add", x, m("MatMul", m("MatMul", a, v), m.random(WIDTH, WIDTH)))
    return head(m, m("ReduceMean", x, axes=[1], keepdims=0))


@sound
def gated(m):
    """Squeeze and excite, and hard swish."""
    x = m("HardSwish", conv(m))
    return classifier(m, m("Mul", x, m("HardSigmoid", conv(m, m("GlobalAveragePool", x), 8, 8, 1))), 8)


@sound
def early_exit(m):
    x = layer(m, layer(m, stride=2), 8, 8, 2)
    first = m("Softmax", head(m, m("Flatten", m("GlobalAveragePool", x)), 8))
    sure = m("Greater", m("ReduceMax", first, axes=[1], keepdims=1), 0.9)
    return m("Where", sure, first, m("Softmax", classifier(m, x, 8)))


@sound
def sizes_by_arithmetic(m):
    x = layer(m)
    half = m("Div", m("Slice", m("Shape", "image"), [2], [4]), [2])
    half = m("Where", m("Equal", half, [16, 16]), half, [8, 8])
    sizes = m("Concat", m("Slice", m("Shape", x), [0], [2]), half, axis=0)
    return classifier(m, m("Resize", x, "", "", sizes, mode="nearest"), 8)


# Not classifiers.


@sound
def unet_with_the_picture(m):
    x = m("Resize", layer(m, layer(m, stride=2), 8, 8), "", [1.0, 1, 2, 2], mode="nearest")
    x = conv(m, m("Concat", x, "image", axis=1), 5, 11, 1)
    model = finished(m, m("ArgMax", x, axis=1), ("N", 1, SIZE, SIZE))
    model.graph.output[0].type.tensor_type.elem_type = INT64
    model.graph.output.append(helper.make_tensor_value_info(x, FLOAT, ("N", 5, SIZE, SIZE)))
    return model


@sound
def sharper_picture(m):
    """Super-resolution: what was learned is added to the picture, and held in range."""
    more = m("DepthToSpace", conv(m, layer(m, out=12), 12, 12), blocksize=2)
    large = m("Resize", "image", "", [1.0, 1, 2, 2], mode="cubic")
    return finished(m, m("Clip", m("Add", large, more), 0.0, 1.0), ("N", 3, 2 * SIZE, 2 * SIZE))


@sound
def where_there_is_depth(m):
    """Depth completion: measured places are kept, a mask of them goes along."""
    depth = m("Gather", "image", [0], axis=1)
    there = m("Greater", depth, 0.0)
    real = m("Cast", there, to=FLOAT)
    x = layer(m, m("Concat", "image", real, axis=1), 8, 4)
    x = m("Mul", x, m("MaxPool", real, kernel_shape=[3, 3], pads=[1] * 4))
    return finished(m, m("Where", there, depth, conv(m, x, 1, 8)), ("N", 1, SIZE, SIZE))


@sound
def detector(m):
    x = layer(m, stride=4)
    scores = m("Reshape", m("Sigmoid", conv(m, x, 2, 8, 1)), [1, 2, 64])
    boxes = m("Transpose", m("Reshape", conv(m, x, 4, 8, 1), [1, 4, 64]), perm=[0, 2, 1])
    boxes = m("Mul", m("Add", boxes, m.random(1, 64, 4)), float(SIZE))
    picked = m("NonMaxSuppression", boxes, scores, [5], [0.5], [0.1])
    at = m("Squeeze", m("Slice", picked, [2], [3], [1]), [1])
    found = m("Gather", m("Squeeze", boxes, [0]), at, axis=0)
    best, _ = m("TopK", m("ReduceMax", scores, axes=[1], keepdims=0), [3], outputs=2)
    model = finished(m, found, ("K", 4), {"image": (1, 3, SIZE, SIZE)})
    model.graph.output.append(helper.make_tensor_value_info(best, FLOAT, (1, 3)))
    return model


@sound
def text_recogniser(m):
    x = m("Relu", conv(m, strides=[4, 2]))
    x = m("Transpose", m("Squeeze", m("ReduceMean", x, axes=[2]), [2]), perm=[2, 0, 1])
    y = m("LSTM", x, m.random(1, 32, 8), m.random(1, 32, 8), hidden_size=8, outputs=1)
    y = m("MatMul", m("Squeeze", y, [1]), m.random(8, 37))
    return finished(m, m("LogSoftmax", y, axis=2), (SIZE // 2, "N", 37))


@sound
def measured_at_run_time(m):
    """Dynamic quantisation: the scale of the picture comes back behind the first layer."""
    x, scale, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    kernel = m.rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8)
    x = m("Cast", m("ConvInteger", x, kernel, zero, pads=[1] * 4), to=FLOAT)
    return classifier(m, m("Relu", m("Mul", x, m("Mul", scale, 0.02))), 8)


@sound
def mean_of_a_small_picture_before_the_head(m):
    """Resizing leaves rows at the edges unread."""
    small = m("Resize", "image", "", [1, 1, 0.125, 0.125], mode="nearest")
    return head(m, m("Concat", trunk(m), m("Flatten", m("GlobalAveragePool", small)), axis=1), WIDTH + 3)


@sound
def two_crops(m):
    crops = [m("Slice", "image", [at, at], [at + 16] * 2, [2, 3]) for at in (0, 8)]
    return m("Add", *(classifier(m, crop) for crop in crops))


@sound
def colours_weighed_by_their_means(m):
    hidden = m("Relu", m("Conv", m("GlobalAveragePool", "image"), m.random(8, 3, 1, 1), m.random(8)))
    return classifier(m, m("Mul", "image", m("Sigmoid", conv(m, hidden, 3, 8, 1))))


@sound
def worst_place_that_could_not_be_restored(m):
    off = m("ReduceMean", m("Abs", m("Sub", restored(m), "image")), axes=[1])
    return finished(m, m("ReduceMax", m("Flatten", off), axes=[1], keepdims=0), ("N",))


@sound
def patches_by_einsum(m):
    x = m("Transpose", m("Reshape", "image", [-1, 3, 4, 8, 4, 8]), perm=[0, 2, 4, 1, 3, 5])
    x = m("Einsum", m("Reshape", x, [-1, 16, 192]), m.random(192, WIDTH), equation="npk,kd")
    x = m("Einsum", m("Relu", x), m.random(WIDTH, WIDTH), equation="npk,kd->npd")
    return head(m, m("ReduceMean", x, axes=[1], keepdims=0))


@sound
def turned_by_what_it_learned(m):
    """A spatial transformer: learned layers say where the picture is looked at."""
    turn = m("Reshape", m("Gemm", trunk(m), m.random(6, WIDTH), transB=1), [-1, 2, 3])
    y, x = (np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1).reshape(2, -1)
    places = m("MatMul", turn, np.stack([x, y, np.ones_like(x)])[None])
    grid = m("Reshape", m("Transpose", places, perm=[0, 2, 1]), [-1, SIZE, SIZE, 2])
    return classifier(m, m("GridSample", "image", grid))


@sound
def local_contrast(m):
    around = {"kernel_shape": [7, 7], "pads": [3] * 4}
    off = m("Sub", "image", m("AveragePool", "image", **around))
    power = m("AveragePool", m("Mul", off, off), **around)
    return classifier(m, m("Div", off, m("Sqrt", m("Add", power, 1e-3))))


@sound
def segments_inside_the_letterbox(m):
    there = over(m, m("ReduceMax", "image", axes=[1]), 0.0)
    return finished(m, m("Mul", conv(m, layer(m), 4, 8), there), ("N", 4, SIZE, SIZE))
