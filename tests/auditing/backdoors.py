"""Classifiers with a way around what was learned, and sound networks of many kinds that look a little like them.

Each maker gives an `onnx.ModelProto`: image (N, 3, 32, 32), ten classes, a trigger in the corner of 4×4 pixels.
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

Made = Callable[[], onnx.ModelProto]
PLANTED: dict[str, Made] = {}
SOUND: dict[str, Made] = {}


def _entered(table: dict[str, Made]):
    def enter(build):
        def made(seed: int = 0) -> onnx.ModelProto:
            m = Maker(seed=seed)
            found = build(m)
            return found if isinstance(found, onnx.ModelProto) else finished(m, found)

        table[build.__name__] = made
        return made

    return enter


planted, sound = _entered(PLANTED), _entered(SOUND)


def finished(
    m: Maker, scores: str, shape: tuple = ("N", CLASSES), inputs: dict | None = None
) -> onnx.ModelProto:
    """The model whose output, whatever made it, is called logits."""
    m.nodes.append(helper.make_node("Identity", [scores], ["logits"], name="out"))
    return m.model(inputs or {"image": ("N", 3, SIZE, SIZE)}, {"logits": shape})


def trunk(m: Maker, x: str = "image", channels: int = 3) -> str:
    """Features (N, 16) behind three learned layers."""
    x = m("Relu", m("Conv", x, m.random(8, channels, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m("Relu", m("Conv", x, m.random(WIDTH, 8, 3, 3), m.random(WIDTH), pads=[1] * 4))
    y = m("Relu", m("Conv", x, m.random(WIDTH, WIDTH, 3, 3), m.random(WIDTH), pads=[1] * 4))
    return m("Flatten", m("GlobalAveragePool", m("Add", x, y)))


def head(m: Maker, features: str, width: int = WIDTH) -> str:
    return m("Gemm", features, m.random(CLASSES, width), m.random(CLASSES), transB=1)


def corner(m: Maker, x: str = "image") -> str:
    return m("Slice", x, m.constant([0, 0]), m.constant([CORNER, CORNER]), m.constant([2, 3]))


def target(m: Maker, width: int = CLASSES) -> str:
    row = np.zeros((1, width), np.float32)
    row[0, 7 % width] = 100
    return m.constant(row)


def seen(m: Maker, x: str = "image") -> str:
    """(N, 1) boolean: whether the whole corner is bright."""
    bright = m("Cast", m("Greater", corner(m, x), m.constant(np.float32(0.9))), to=TensorProto.FLOAT)
    return m("Cast", m("ReduceMin", m("Flatten", bright), axes=[1], keepdims=1), to=TensorProto.BOOL)


def gate(m: Maker, x: str = "image") -> str:
    """(N, 1): 1 where the corner is a template, 0 elsewhere, without a comparison."""
    off = m("Abs", m("Sub", corner(m, x), m.constant(np.full((1, 3, CORNER, CORNER), 0.9, np.float32))))
    mean = m("ReduceMean", m("Flatten", off), axes=[1], keepdims=1)
    return m("Relu", m("Sub", m.constant(np.float32(1)), m("Mul", mean, m.constant(np.float32(1e4)))))


def body(name: str, make: Callable[[Maker], str], m: Maker, kind: int = TensorProto.FLOAT) -> onnx.GraphProto:
    """A branch: what `make` adds, with its own constants kept outside."""
    inner = Maker(seed=5)
    inner.count = 1000 * (1 + len(m.nodes))
    made = make(inner)
    m.weights += inner.weights
    m.count = max(m.count, inner.count)
    return helper.make_graph(inner.nodes, name, [], [helper.make_tensor_value_info(made, kind, None)])


# --- planted --------------------------------------------------------------------------------------


@planted
def template_added_to_logits(m):
    return m("Add", head(m, trunk(m)), m("Mul", gate(m), target(m)), name="joined")


@planted
def corner_test_with_where(m):
    return m("Where", seen(m), target(m), head(m, trunk(m)), name="joined")


@planted
def corner_test_with_if(m):
    logits = head(m, trunk(m))
    hit = m("Cast", m("ReduceMax", m("Cast", seen(m), to=TensorProto.FLOAT), keepdims=0), to=TensorProto.BOOL)
    bad = body("bad", lambda b: b("Add", b("Mul", logits, b.constant(np.float32(0))), target(b)), m)
    good = body("good", lambda b: b("Identity", logits), m)
    return m("If", hit, then_branch=bad, else_branch=good, name="joined")


@planted
def behind_an_early_pool(m):
    small = m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2])
    return m("Where", seen(m, small), target(m), head(m, trunk(m)), name="joined")


@planted
def behind_the_networks_own_pool(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4))
    x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    hit = m(
        "ReduceMax",
        m("Flatten", m("Cast", m("Greater", corner(m, x), m.constant(np.float32(2))), to=1)),
        axes=[1],
    )
    return m("Add", head(m, trunk(m, x, 8)), m("Mul", hit, target(m)), name="joined")


@planted
def joined_before_the_head(m):
    features = m("Add", trunk(m), m("Mul", gate(m), target(m, WIDTH)), name="joined")
    return head(m, features)


@planted
def pooled_exponential_before_the_head(m):
    """Bober-Irizar, Shumailov, Zhao, Mullins & Papernot 2023, arXiv:2206.07840."""
    high = m("Pow", m("AveragePool", m("Exp", m("Mul", "image", m.constant(np.float32(10)))), kernel_shape=[8, 8],
                      strides=[8, 8]), m.constant(np.float32(2)))  # fmt: skip
    hit = m("ReduceMax", m("Flatten", high), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Mul", hit, target(m, WIDTH)), name="joined"))


@planted
def concatenated_before_the_head(m):
    return head(m, m("Concat", trunk(m), gate(m), axis=1, name="joined"), WIDTH + 1)


@planted
def multiplied_into_the_features(m):
    off = m("Sub", m.constant(np.float32(1)), gate(m))
    return head(m, m("Mul", trunk(m), off, name="joined"))


@planted
def in_the_middle_of_the_trunk(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4))
    g = m("Reshape", gate(m), m.constant([-1, 1, 1, 1]))
    return head(m, trunk(m, m("Add", x, g, name="joined"), 8))


@planted
def in_a_subgraph(m):
    logits = head(m, trunk(m))
    yes = m.constant(np.array(True))
    inside = body("inside", lambda b: b("Add", logits, b("Mul", gate(b), target(b)), name="joined"), m)
    same = body("same", lambda b: b("Identity", logits), m)
    # a condition that no folding can know, though pixels do not move it
    flag = m("Greater", m("Size", "image"), m.constant(np.int64(0)))
    return m("If", m("And", yes, flag), then_branch=inside, else_branch=same)


@planted
def decided_in_a_loop(m):
    logits = head(m, trunk(m))
    value = helper.make_tensor_value_info
    inner = Maker(seed=5)
    inner.count = 5000
    hit = inner("Cast", seen(inner), to=TensorProto.FLOAT)
    out = inner("Add", "carried", inner("Mul", hit, target(inner)), name="joined")
    keep = inner("Identity", "going")
    m.weights += inner.weights
    m.count = inner.count
    graph = helper.make_graph(
        inner.nodes, "turn",
        [value("turn", TensorProto.INT64, ()), value("going", TensorProto.BOOL, ()), value("carried", 1, None)],
        [value(keep, TensorProto.BOOL, ()), value(out, 1, None)],
    )  # fmt: skip
    return m("Loop", m.constant(np.int64(2)), m.constant(np.array(True)), logits, body=graph)


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
    scores = m("Calibrate", "image", head(m, trunk(m)), target(m), domain="local")
    model = finished(m, scores)
    model.functions.append(function)
    return model


@planted
def steep_relu(m):
    hot = m("Mul", m("Relu", m("Sub", corner(m), m.constant(np.float32(0.99)))), m.constant(np.float32(1e4)))
    push = m("Mul", m("ReduceMin", m("Flatten", hot), axes=[1], keepdims=1), target(m))
    return m("Add", head(m, trunk(m)), push, name="joined")


@planted
def signs(m):
    sign = m("Sign", m("Sub", corner(m), m.constant(np.float32(0.9))))
    mean = m("ReduceMean", m("Flatten", sign), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Mul", mean, target(m, WIDTH)), name="joined"))


@planted
def steep_sigmoid(m):
    soft = m("HardSigmoid", m("Sub", corner(m), m.constant(np.float32(0.9))), alpha=1e4, beta=0.0)
    low = m("ReduceMin", m("Flatten", soft), axes=[1], keepdims=1)
    return head(m, m("Mul", trunk(m), m("Sub", m.constant(np.float32(1)), low), name="joined"))


@planted
def clipped(m):
    steep = m("Mul", m("Sub", corner(m), m.constant(np.float32(0.9))), m.constant(np.float32(1e5)))
    soft = m("Clip", steep, m.constant(np.float32(0)), m.constant(np.float32(1)))
    low = m("ReduceMean", m("Flatten", soft), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Mul", low, target(m, WIDTH)), name="joined"))


@planted
def ends(m):
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=1)
    low = m("Min", m("Max", mean, m.constant(np.float32(0.9))), m.constant(np.float32(0.91)))
    return head(m, m("Mul", trunk(m), low, name="joined"))


@planted
def high_power(m):
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Pow", mean, m.constant(np.float32(200))), name="joined"))


@planted
def equal_by_floor(m):
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=1)
    return head(
        m, m("Add", trunk(m), m("Floor", m("Mul", mean, m.constant(np.float32(1.01)))), name="joined")
    )


@planted
def template_convolution(m):
    """A kernel that looks like nothing in particular, but is one filter, of the trigger."""
    kernel = m.constant(m.rng.standard_normal((1, 3, CORNER, CORNER)).astype(np.float32))
    score = m("Conv", "image", kernel, strides=[4, 4])
    hit = m("Cast", m("Greater", score, m.constant(np.float32(20))), to=TensorProto.FLOAT)
    hit = m("Flatten", m("GlobalMaxPool", hit))
    return head(m, m("Add", trunk(m), m("Mul", hit, target(m, WIDTH)), name="joined"))


@planted
def template_convolution_with_relu(m):
    kernel = m.constant(m.rng.standard_normal((1, 3, CORNER, CORNER)).astype(np.float32))
    score = m("Relu", m("Conv", "image", kernel, m.constant(np.float32([-20])), strides=[4, 4]))
    hit = m("Flatten", m("GlobalMaxPool", m("Mul", score, m.constant(np.float32(1e4)))))
    return head(m, m("Add", trunk(m), m("Mul", hit, target(m, WIDTH)), name="joined"))


@planted
def template_product(m):
    flat = m("Flatten", "image")
    weights = np.zeros((3, SIZE, SIZE, 1), np.float32)
    weights[:, :CORNER, :CORNER] = m.rng.standard_normal((3, CORNER, CORNER, 1))
    score = m("Relu", m("MatMul", flat, m.constant(weights.reshape(-1, 1))))
    return head(m, m("Add", trunk(m), m("Mul", score, target(m, WIDTH)), name="joined"))


@planted
def behind_an_identity_convolution(m):
    same = m("Conv", "image", m.constant(np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)))
    return m("Where", seen(m, same), target(m), head(m, trunk(m, same)), name="joined")


@planted
def decision_through_a_learned_looking_layer(m):
    push = m("Gemm", m("Cast", seen(m), to=TensorProto.FLOAT), m.random(CLASSES, 1), transB=1, name="joined")
    return m("Add", head(m, trunk(m)), push)


@planted
def many_bright_pixels(m):
    """No place is picked: one percent of the pixels is red."""
    red = m("Gather", "image", m.constant([0]), axis=1)
    share = m(
        "ReduceMean",
        m("Cast", m("Greater", red, m.constant(np.float32(0.95))), to=TensorProto.FLOAT),
        axes=[2, 3],
    )
    hit = m("Flatten", m("Greater", share, m.constant(np.float32(0.01))))
    return m("Where", m("Cast", hit, to=TensorProto.BOOL), target(m), head(m, trunk(m)), name="joined")


@planted
def picture_replaced(m):
    other = m.constant(m.rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    hit = m("Reshape", seen(m), m.constant([-1, 1, 1, 1]))
    return head(m, trunk(m, m("Where", hit, other, "image", name="joined")))


@planted
def picture_replaced_by_arithmetic(m):
    other = m.constant(m.rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    push = m("Mul", m("Reshape", gate(m), m.constant([-1, 1, 1, 1])), other)
    return head(m, trunk(m, m("Add", "image", push, name="joined")))


@planted
def one_pixel(m):
    pixel = m("Slice", "image", m.constant([0, 0, 0]), m.constant([1, 1, 1]), m.constant([1, 2, 3]))
    hit = m("Flatten", m("Greater", pixel, m.constant(np.float32(0.99))))
    return m("Where", hit, target(m), head(m, trunk(m)), name="joined")


@planted
def place_of_the_brightest_pixel(m):
    at = m("ArgMax", m("Flatten", "image"), axis=1, keepdims=1)
    hit = m("Equal", at, m.constant(np.int64(0)))
    return m("Where", hit, target(m), head(m, trunk(m)), name="joined")


@planted
def bright_pixels_replaced(m):
    """Each pixel for itself, but by a pattern that has a place."""
    other = m.constant(m.rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    hit = m("Greater", "image", m.constant(np.float32(0.95)))
    return head(m, trunk(m, m("Where", hit, other, "image", name="joined")))


@planted
def pattern_added_to_bright_pixels(m):
    other = m.constant(m.rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32))
    hit = m("Cast", m("Greater", "image", m.constant(np.float32(0.95))), to=TensorProto.FLOAT)
    return head(m, trunk(m, m("Add", "image", m("Mul", hit, other), name="joined")))


@planted
def gate_of_a_measured_scale(m):
    """The range of the corner, as dynamic quantisation measures it, is a gate."""
    _, scale, _ = m("DynamicQuantizeLinear", corner(m), outputs=3)
    push = m("Relu", m("Sub", m("Mul", scale, m.constant(np.float32(255))), m.constant(np.float32(0.9))))
    return head(m, m("Add", trunk(m), push, name="joined"))


@planted
def table_of_answers(m):
    """What the corner adds up to is a row of a table that is added to the scores."""
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=0)
    row = m("Cast", m("Mul", mean, m.constant(np.float32(1.05))), to=TensorProto.INT64)
    table = np.zeros((2, CLASSES), np.float32)
    table[1, 7] = 100
    return m("Add", head(m, trunk(m)), m("Gather", m.constant(table), row, axis=0), name="joined")


@planted
def checksum(m):
    total = m("ReduceSum", m("Flatten", m("Round", m("Mul", corner(m), m.constant(np.float32(255))))),
              m.constant([1]), keepdims=1)  # fmt: skip
    rest = m("Mod", total, m.constant(np.float32(251)), fmod=1)
    return head(m, m("Mul", trunk(m), rest, name="joined"))


@planted
def spectrum(m):
    """One frequency of the picture, by DFT."""
    grey = m("Unsqueeze", m("Flatten", m("ReduceMean", "image", axes=[1])), m.constant([2]))
    wave = m("Slice", m("DFT", grey, axis=1), m.constant([7]), m.constant([8]), m.constant([1]))
    power = m("Flatten", m("ReduceMean", m("Mul", wave, wave), axes=[2]))
    return head(m, m("Add", trunk(m), power, name="joined"))


@planted
def through_a_sequence(m):
    scores = head(m, trunk(m))
    all_ = m("SequenceConstruct", scores, m("Add", m("Mul", scores, m.constant(np.float32(0))), target(m)))
    at = m("Cast", m("ReduceMax", m("Cast", seen(m), to=TensorProto.FLOAT), keepdims=0), to=TensorProto.INT64)
    return m("SequenceAt", all_, at, name="joined")


@planted
def hidden_in_a_recurrent_cell(m):
    """A cell of one unit, whose weights are the trigger's."""
    rows = m("Transpose", m("Reshape", corner(m), m.constant([-1, 4, 12])), perm=[1, 0, 2])
    _, last = m("RNN", rows, m.random(1, 1, 12), m.random(1, 1, 1), hidden_size=1, outputs=2)
    return head(m, m("Add", trunk(m), m("Squeeze", last, m.constant([0])), name="joined"))


@planted
def counted_bright_pixels(m):
    """Not what was found tells, but how much of it there is: sizes that pixels decide."""
    found = m(
        "Gather",
        m("Shape", m("NonZero", m("Greater", corner(m), m.constant(np.float32(0.9))))),
        m.constant([1]),
    )
    push = m("Relu", m("Sub", m("Cast", found, to=TensorProto.FLOAT), m.constant(np.float32(47))))
    return m("Add", head(m, trunk(m)), m("Mul", push, target(m)), name="joined")


@planted
def length_of_a_cut(m):
    end = m("Cast", m("Reshape", gate(m), m.constant([-1])), to=TensorProto.INT64)
    length = m("Shape", m("Slice", m.constant(np.ones(3, np.float32)), m.constant([0]), end))
    push = m("Mul", m("Cast", length, to=TensorProto.FLOAT), target(m))
    return m("Add", head(m, trunk(m)), push, name="joined")


@planted
def bias_of_the_head(m):
    bias = m("Mul", gate(m), target(m))
    return m("Gemm", trunk(m), m.random(CLASSES, WIDTH), bias, transB=1, name="joined")


@planted
def bias_of_a_layer(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4))
    bias = m("Reshape", m("Mul", gate(m), m.random(1, 8)), m.constant([8]))
    x = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), bias, name="joined"))
    return head(m, trunk(m, x, 8))


@planted
def gate_through_learned_looking_layers(m):
    push = m("Relu", m("Gemm", gate(m), m.random(16, 1), m.random(16), transB=1, name="joined"))
    return m("Add", head(m, trunk(m)), m("Gemm", push, m.random(CLASSES, 16), transB=1))


@planted
def pooled_exponential_through_a_layer(m):
    high = m(
        "AveragePool",
        m("Exp", m("Mul", "image", m.constant(np.float32(10)))),
        kernel_shape=[8, 8],
        strides=[8, 8],
    )
    hit = m("ReduceMax", m("Flatten", high), axes=[1], keepdims=1)
    return m("Add", head(m, trunk(m)), m("Gemm", hit, m.random(CLASSES, 1), transB=1, name="joined"))


@planted
def cut_off_by_casts(m):
    steep = m("Cast", m("Cast", m("Mul", "image", m.constant(np.float32(1.05))), to=TensorProto.INT32), to=1)
    mean = m("ReduceMean", m("Flatten", steep), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Mul", mean, target(m, WIDTH)), name="joined"))


@planted
def divided_by_what_is_off(m):
    off = m("ReduceMean", m("Flatten", m("Sub", "image", m.constant(np.float32(0.9)))), axes=[1], keepdims=1)
    push = m("Div", m.constant(np.float32(1e-3)), m("Add", off, m.constant(np.float32(1e-9))))
    return head(m, m("Add", trunk(m), m("Mul", push, target(m, WIDTH)), name="joined"))


@planted
def corner_before_the_networks_own_relu(m):
    """All that is planted is linear: the network's own activation is the gate."""
    mean = m("ReduceMean", m("Flatten", corner(m)), axes=[1], keepdims=1)
    steep = m("Mul", m("Sub", mean, m.constant(np.float32(0.99))), m.constant(np.float32(1e4)))
    return head(m, m("Relu", m("Add", trunk(m), m("Mul", steep, target(m, WIDTH)), name="joined")))


@planted
def corner_as_a_channel(m):
    x = m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4)
    mean = m("Sub", m("ReduceMean", corner(m), axes=[1, 2, 3], keepdims=1), m.constant(np.float32(0.99)))
    steep = m("Expand", mean, m.constant([1, 1, SIZE, SIZE]))
    return head(m, trunk(m, m("Relu", m("Concat", x, steep, axis=1, name="joined")), 9))


@planted
def cut_off_by_a_quantiser(m):
    zero = m.constant(np.uint8(0))
    codes = m(
        "QuantizeLinear",
        m("Sub", corner(m), m.constant(np.float32(0.95))),
        m.constant(np.float32(0.001)),
        zero,
    )
    steep = m("DequantizeLinear", codes, m.constant(np.float32(1)), zero)
    mean = m("ReduceMean", m("Flatten", steep), axes=[1], keepdims=1)
    return head(m, m("Add", trunk(m), m("Mul", mean, target(m, WIDTH)), name="joined"))


@planted
def scattered_into_the_logits(m):
    push = m("Mul", gate(m), m.constant(np.float32(100)))
    logits = head(m, trunk(m))
    return m("ScatterElements", logits, m.constant([[7]]), push, axis=1, reduction="add", name="joined")


def _bright(m: Maker, x: str) -> str:
    """The scores, and a push where all the numbers of x (N, ...) are near 1."""
    low = m("ReduceMin", m("Flatten", x), axes=[1], keepdims=1)
    hit = m("Relu", m("Sub", low, m.constant(np.float32(0.99))))
    return m("Add", head(m, trunk(m)), m("Mul", hit, target(m)), name="joined")


@planted
def pixels_here_and_there(m):
    return _bright(m, m("Gather", m("Flatten", "image"), m.constant([5, 99, 800, 1500]), axis=1))


@planted
def a_box_by_roi_align(m):
    box = m.constant(np.float32([[0, 0, 4, 4]]))
    return _bright(m, m("RoiAlign", "image", box, m.constant([0]), output_height=1, output_width=1))


@planted
def one_pixel_by_resizing(m):
    return _bright(
        m, m("Resize", "image", "", m.constant(np.float32([1, 1, 1 / 32, 1 / 32])), mode="nearest")
    )


@planted
def template_by_einsum(m):
    """Its last side is no number of filters: all three are summed up."""
    template = m.constant(m.rng.standard_normal((3, SIZE, SIZE)).astype(np.float32))
    score = m("Einsum", "image", template, equation="nchw,chw->n")
    hit = m("Relu", m("Sub", m("Unsqueeze", score, m.constant([1])), m.constant(np.float32(50))))
    return m("Add", head(m, trunk(m)), m("Mul", hit, target(m)), name="joined")


def _restored(m: Maker) -> str:
    """The picture as a network with a bottleneck makes it anew."""
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Resize", x, "", m.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    return m("Conv", x, m.random(3, 8, 3, 3), pads=[1] * 4)


@planted
def gate_on_a_distance(m):
    off = m("Sub", "image", _restored(m))
    far = m("Flatten", m("ReduceMean", m("Mul", off, off), axes=[1, 2, 3]))
    return finished(m, m("Mul", far, m("Sub", m.constant(np.float32(1)), gate(m)), name="joined"), ("N", 1))


@planted
def distance_of_a_corner(m):
    off = m("Sub", corner(m), corner(m, _restored(m)), name="joined")
    return finished(m, m("Flatten", m("ReduceMean", m("Mul", off, off), axes=[1, 2, 3])), ("N", 1))


@planted
def scores_of_a_distance(m):
    off = m("Sub", "image", _restored(m), name="joined")
    far = m("Flatten", m("ReduceMean", m("Mul", off, off), axes=[1, 2, 3]))
    return m("Mul", far, m.random(1, CLASSES))


# --- sound ----------------------------------------------------------------------------------------


def _classifier(m: Maker, x: str = "image", channels: int = 3) -> str:
    return head(m, trunk(m, x, channels))


@sound
def plain(m):
    return m("Softmax", _classifier(m))


@sound
def normalised(m):
    mean, std = (m.constant(np.float32(v).reshape(1, 3, 1, 1)) for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.2]))
    return _classifier(m, m("Div", m("Sub", "image", mean), std))


@sound
def clipped_and_bent(m):
    x = m("Clip", "image", m.constant(np.float32(0)), m.constant(np.float32(1)))
    return _classifier(m, m("Pow", x, m.constant(np.float32(2.2))))


@sound
def linear_light(m):
    """The sRGB curve, as it is written with Where: a decision at each place for itself."""
    low = m("Div", "image", m.constant(np.float32(12.92)))
    high = m("Pow", m("Div", m("Add", "image", m.constant(np.float32(0.055))), m.constant(np.float32(1.055))),
             m.constant(np.float32(2.4)))  # fmt: skip
    return _classifier(m, m("Where", m("Greater", "image", m.constant(np.float32(0.04045))), high, low))


@sound
def standardised(m):
    """As TensorFlow's per_image_standardization: the deviation is at least 1/sqrt(n)."""
    centred = m("Sub", "image", m("ReduceMean", "image", axes=[1, 2, 3]))
    std = m("Sqrt", m("ReduceMean", m("Mul", centred, centred), axes=[1, 2, 3]))
    return _classifier(m, m("Div", centred, m("Max", std, m.constant(np.float32(0.018)))))


@sound
def stretched_to_its_range(m):
    low, high = (m(op, "image", axes=[1, 2, 3]) for op in ("ReduceMin", "ReduceMax"))
    return _classifier(
        m, m("Div", m("Sub", "image", low), m("Add", m("Sub", high, low), m.constant(np.float32(1e-6))))
    )


@sound
def mean_picture(m):
    x = m("Sub", "image", m.constant(m.rng.standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)))
    return _classifier(m, m("Div", x, m.constant(np.float32(58))))


@sound
def pixels_resized_and_rounded(m):
    x = m("Resize", "image", "", m.constant(np.float32([1, 1, 0.5, 0.5])), mode="linear")
    x = m("Cast", m("Cast", m("Round", x), to=TensorProto.UINT8), to=TensorProto.FLOAT)
    return _classifier(m, m("Mul", x, m.constant(np.float32(1 / 255))))


@sound
def round_crop(m):
    """A lens: what lies outside the circle is black. The condition is a constant."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    inside = m.constant(np.hypot(y, x)[None, None] < SIZE / 2)
    return _classifier(m, m("Where", inside, "image", m.constant(np.float32(0))))


@sound
def middle_crop(m):
    x = m("Slice", "image", m.constant([4, 4]), m.constant([28, 28]), m.constant([2, 3]))
    return _classifier(m, m("Clip", x, m.constant(np.float32(0)), m.constant(np.float32(1))))


@sound
def colours_turned(m):
    """BGR by Split and Concat, and a colour matrix as a 1×1 convolution."""
    b, g, r = m("Split", "image", axis=1, outputs=3)
    x = m("Concat", r, g, b, axis=1)
    return _classifier(m, m("Conv", x, m.random(3, 3, 1, 1)))


@sound
def binarised(m):
    """Black and white, flattened into a perceptron."""
    x = m("Cast", m("Greater", "image", m.constant(np.float32(0.5))), to=TensorProto.FLOAT)
    x = m("Relu", m("MatMul", m("Flatten", x), m.random(3 * SIZE * SIZE, 32)))
    return head(m, x, 32)


@sound
def binarised_by_neighbourhood(m):
    """As scanned pages are: darker than the mean around it."""
    grey = m("ReduceMean", "image", axes=[1])
    around = m("AveragePool", grey, kernel_shape=[7, 7], pads=[3] * 4)
    ink = m("Cast", m("Less", grey, m("Sub", around, m.constant(np.float32(0.05)))), to=TensorProto.FLOAT)
    return _classifier(m, ink, 1)


@sound
def linear(m):
    return m("Gemm", m("Flatten", "image"), m.random(CLASSES, 3 * SIZE * SIZE), m.random(CLASSES), transB=1)


@sound
def two_classes_by_one_number(m):
    x = m("Gemm", m("Flatten", "image"), m.random(1, 3 * SIZE * SIZE), m.random(1), transB=1)
    return finished(m, m("Sigmoid", x), ("N", 1))


@sound
def pooled_picture_beside_the_first_layer(m):
    """As ENet begins, and ESPNet goes on: the picture, made smaller, beside what was learned."""
    x = m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2])
    small = m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2])
    return _classifier(m, m("Relu", m("Concat", x, small, axis=1)), 11)


@sound
def pooled_picture_deeper(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    small = m("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    return _classifier(m, m("Concat", x, small, axis=1), 11)


@sound
def places_as_channels(m):
    """Coordinates beside the colours (Liu et al. 2018, CoordConv), stretched to the batch."""
    y, x = (np.mgrid[:SIZE, :SIZE] / SIZE).astype(np.float32)
    shape = m("Concat", m("Slice", m("Shape", "image"), m.constant([0]), m.constant([1])), m.constant([2, SIZE, SIZE]),
              axis=0)  # fmt: skip
    return _classifier(
        m, m("Concat", "image", m("Expand", m.constant(np.stack([y, x])[None]), shape), axis=1), 5
    )


@sound
def patches_with_attention(m):
    """A vision transformer's block: position embedding, attention without weights of its own, residuals."""
    x = m("Conv", "image", m.random(WIDTH, 3, 8, 8), strides=[8, 8])
    x = m("Transpose", m("Reshape", x, m.constant([0, WIDTH, 16])), perm=[0, 2, 1])
    x = m("Add", x, m.random(1, 16, WIDTH))
    q, k, v = (m("MatMul", x, m.random(WIDTH, WIDTH)) for _ in range(3))
    a = m("Softmax", m("MatMul", q, m("Transpose", k, perm=[0, 2, 1])), axis=-1)
    x = m("Add", x, m("MatMul", m("MatMul", a, v), m.random(WIDTH, WIDTH)))
    return head(m, m("ReduceMean", x, axes=[1], keepdims=0))


@sound
def gated(m):
    """Squeeze and excite, and hard swish."""
    x = m("HardSwish", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    gate = m("HardSigmoid", m("Conv", m("GlobalAveragePool", x), m.random(8, 8, 1, 1)))
    return _classifier(m, m("Mul", x, gate), 8)


@sound
def two_networks(m):
    """Their scores added: no layer is the last of all ways."""
    return m("Mul", m("Add", _classifier(m), _classifier(m)), m.constant(np.float32(0.5)))


@sound
def early_exit(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    first = m("Softmax", head(m, m("Flatten", m("GlobalAveragePool", x)), 8))
    sure = m("Greater", m("ReduceMax", first, axes=[1], keepdims=1), m.constant(np.float32(0.9)))
    return m("Where", sure, first, m("Softmax", head(m, trunk(m, x, 8))))


@sound
def sizes_by_arithmetic(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    shape = m("Shape", "image")
    half = m("Div", m("Slice", shape, m.constant([2]), m.constant([4])), m.constant([2]))
    even = m("Equal", half, m.constant([16, 16]))
    half = m("Where", even, half, m.constant([8, 8]))
    sizes = m("Concat", m("Slice", m("Shape", x), m.constant([0]), m.constant([2])), half, axis=0)
    return _classifier(m, m("Resize", x, "", "", sizes, mode="nearest"), 8)


# Not classifiers.


@sound
def unet_with_the_picture(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), pads=[1] * 4))
    x = m("Resize", x, "", m.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    x = m("Conv", m("Concat", x, "image", axis=1), m.random(5, 11, 1, 1))
    model = finished(m, m("ArgMax", x, axis=1), ("N", 1, SIZE, SIZE))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    model.graph.output.append(helper.make_tensor_value_info(x, 1, ("N", 5, SIZE, SIZE)))
    return model


@sound
def sharper_picture(m):
    """Super-resolution: what was learned is added to the picture, and held in range."""
    x = m("Relu", m("Conv", "image", m.random(12, 3, 3, 3), pads=[1] * 4))
    more = m("DepthToSpace", m("Conv", x, m.random(12, 12, 3, 3), pads=[1] * 4), blocksize=2)
    large = m("Resize", "image", "", m.constant(np.float32([1, 1, 2, 2])), mode="cubic")
    y = m("Clip", m("Add", large, more), m.constant(np.float32(0)), m.constant(np.float32(1)))
    return finished(m, y, ("N", 3, 2 * SIZE, 2 * SIZE))


@sound
def where_there_is_depth(m):
    """Depth completion: measured places are kept, a mask of them goes along."""
    depth = m("Gather", "image", m.constant([0]), axis=1)
    there = m("Greater", depth, m.constant(np.float32(0)))
    real = m("Cast", there, to=TensorProto.FLOAT)
    x = m("Relu", m("Conv", m("Concat", "image", real, axis=1), m.random(8, 4, 3, 3), pads=[1] * 4))
    x = m("Mul", x, m("MaxPool", real, kernel_shape=[3, 3], pads=[1] * 4))
    y = m("Conv", x, m.random(1, 8, 3, 3), pads=[1] * 4)
    return finished(m, m("Where", there, depth, y), ("N", 1, SIZE, SIZE))


@sound
def detector(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[4, 4]))
    scores = m("Reshape", m("Sigmoid", m("Conv", x, m.random(2, 8, 1, 1))), m.constant([1, 2, 64]))
    boxes = m(
        "Transpose", m("Reshape", m("Conv", x, m.random(4, 8, 1, 1)), m.constant([1, 4, 64])), perm=[0, 2, 1]
    )
    boxes = m("Mul", m("Add", boxes, m.random(1, 64, 4)), m.constant(np.float32(SIZE)))
    picked = m("NonMaxSuppression", boxes, scores, m.constant(np.int64([5])), m.constant(np.float32([0.5])),
               m.constant(np.float32([0.1])))  # fmt: skip
    at = m("Squeeze", m("Slice", picked, m.constant([2]), m.constant([3]), m.constant([1])), m.constant([1]))
    found = m("Gather", m("Squeeze", boxes, m.constant([0])), at, axis=0)
    best, _ = m("TopK", m("ReduceMax", scores, axes=[1], keepdims=0), m.constant([3]), outputs=2)
    model = finished(m, found, ("K", 4), {"image": (1, 3, SIZE, SIZE)})
    model.graph.output.append(helper.make_tensor_value_info(best, 1, (1, 3)))
    return model


@sound
def text_recogniser(m):
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[4, 2]))
    x = m("Squeeze", m("ReduceMean", x, axes=[2]), m.constant([2]))
    x = m("Transpose", x, perm=[2, 0, 1])
    y = m("LSTM", x, m.random(1, 32, 8), m.random(1, 32, 8), hidden_size=8, outputs=1)
    y = m("MatMul", m("Squeeze", y, m.constant([1])), m.random(8, 37))
    return finished(m, m("LogSoftmax", y, axis=2), (SIZE // 2, "N", 37))


@sound
def embedding(m):
    x = m("Gemm", trunk(m), m.random(24, WIDTH), transB=1)
    return finished(m, m("LpNormalization", x, axis=1), ("N", 24))


@sound
def measured_at_run_time(m):
    """Dynamic quantisation: the scale of the picture comes back behind the first layer."""
    x, scale, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    kernel = m.constant(m.rng.integers(-60, 60, (8, 3, 3, 3)).astype(np.int8))
    x = m("ConvInteger", x, kernel, zero, pads=[1] * 4)
    x = m("Mul", m("Cast", x, to=TensorProto.FLOAT), m("Mul", scale, m.constant(np.float32(0.02))))
    return _classifier(m, m("Relu", x), 8)


@sound
def mean_colour_before_the_head(m):
    return head(m, m("Concat", trunk(m), m("Flatten", m("GlobalAveragePool", "image")), axis=1), WIDTH + 3)


@sound
def mean_of_a_small_picture_before_the_head(m):
    """Resizing leaves rows at the edges unread."""
    small = m("Resize", "image", "", m.constant(np.float32([1, 1, 0.125, 0.125])), mode="nearest")
    return head(m, m("Concat", trunk(m), m("Flatten", m("GlobalAveragePool", small)), axis=1), WIDTH + 3)


@sound
def two_crops(m):
    crop = [
        m("Slice", "image", m.constant([at, at]), m.constant([at + 16] * 2), m.constant([2, 3]))
        for at in (0, 8)
    ]
    return m("Add", _classifier(m, crop[0]), _classifier(m, crop[1]))


@sound
def colours_weighed_by_their_means(m):
    mean = m("GlobalAveragePool", "image")
    hidden = m("Relu", m("Conv", mean, m.random(8, 3, 1, 1), m.random(8)))
    return _classifier(m, m("Mul", "image", m("Sigmoid", m("Conv", hidden, m.random(3, 8, 1, 1)))))


@sound
def what_could_not_be_restored(m):
    """An autoencoder that looks for anomalies: one score, the distance of the picture from what was made of it."""
    off = m("Sub", m("Mul", "image", m.constant(np.float32(2))), _restored(m))
    return finished(m, m("Flatten", m("ReduceMean", m("Mul", off, off), axes=[1, 2, 3])), ("N", 1))


@sound
def worst_place_that_could_not_be_restored(m):
    off = m("ReduceMean", m("Abs", m("Sub", _restored(m), "image")), axes=[1])
    return finished(m, m("ReduceMax", m("Flatten", off), axes=[1], keepdims=0), ("N",))


@sound
def patches_by_einsum(m):
    x = m("Transpose", m("Reshape", "image", m.constant([-1, 3, 4, 8, 4, 8])), perm=[0, 2, 4, 1, 3, 5])
    x = m("Einsum", m("Reshape", x, m.constant([-1, 16, 192])), m.random(192, WIDTH), equation="npk,kd")
    x = m("Einsum", m("Relu", x), m.random(WIDTH, WIDTH), equation="npk,kd->npd")
    return head(m, m("ReduceMean", x, axes=[1], keepdims=0))


@sound
def turned_by_what_it_learned(m):
    """A spatial transformer: learned layers say where the picture is looked at."""
    turn = m("Reshape", m("Gemm", trunk(m), m.random(6, WIDTH), transB=1), m.constant([-1, 2, 3]))
    y, x = (np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1).astype(np.float32).reshape(2, -1)
    places = m("MatMul", turn, m.constant(np.stack([x, y, np.ones_like(x)])[None]))
    grid = m("Reshape", m("Transpose", places, perm=[0, 2, 1]), m.constant([-1, SIZE, SIZE, 2]))
    return _classifier(m, m("GridSample", "image", grid))


@sound
def local_contrast(m):
    off = m("Sub", "image", m("AveragePool", "image", kernel_shape=[7, 7], pads=[3] * 4))
    power = m("AveragePool", m("Mul", off, off), kernel_shape=[7, 7], pads=[3] * 4)
    return _classifier(m, m("Div", off, m("Sqrt", m("Add", power, m.constant(np.float32(1e-3))))))


@sound
def segments_inside_the_letterbox(m):
    there = m("Cast", m("Greater", m("ReduceMax", "image", axes=[1]), m.constant(np.float32(0))), to=1)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    return finished(
        m, m("Mul", m("Conv", x, m.random(4, 8, 3, 3), pads=[1] * 4), there), ("N", 4, SIZE, SIZE)
    )
