"""Broken bytes of every kind: loading gives a network or a typed error, soon, and nothing else."""

import random
import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxviz.errors import OnnxVizError
from onnxviz.graph.open import protobuf_scan as wire
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile
from tests.graph.hostile import array, ints, model


def varied():
    """A small model with a bit of everything: a subgraph, a function, a loop, constants, sparse weights."""
    weights = [ints("shape", -1, 4), array("w", np.ones((16, 3, 3, 3)))]
    proto = hostile.loop(5, condition="data", weights=weights)
    proto.functions.extend([hostile.function("f", ["g", "g"]), hostile.function("g", [])])
    proto.opset_import.add(domain="local", version=1)
    text = """
        z = local.f(y) k = Constant() r = Reshape(z, shape)
        c = Conv<pads = [1, 1, 1, 1], auto_pad = "NOTSET">(x, w)
    """
    proto.graph.node.extend(hostile.nodes(text))
    proto.graph.node[2].attribute.append(helper.make_attribute("value", array("", np.ones(300))))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(array("sp", [1.0]), ints("", 0), [2]))
    proto.graph.value_info.append(hostile.value("c", (1, 16, 8, 8)))
    return proto.SerializeToString()


VARIED = varied()


def loads(content):
    """Load; whether it worked. Anything but a typed error goes through."""
    start = time.process_time()
    try:
        loaded = load(content)
        loaded.findings()
        return True
    except OnnxVizError as error:
        assert str(error).isprintable()
        return False
    finally:
        assert time.process_time() - start < 5


def test_the_varied_model_loads():
    assert loads(VARIED)


def test_every_truncation():
    assert not any(loads(VARIED[:size]) for size in range(0, len(VARIED) // 2, 3))
    for size in range(len(VARIED) // 2, len(VARIED), 3):
        loads(VARIED[:size])


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits(seed):
    chance = random.Random(seed)
    # The weights are most of the bytes and take any value: aim at the rest.
    places = [place for place in range(len(VARIED)) if VARIED[place]]
    loaded = 0
    for _ in range(600):
        content = bytearray(VARIED)
        for _ in range(chance.choice([1, 1, 1, 2, 5, 20])):
            content[chance.choice(places)] ^= 1 << chance.randrange(8)
        loaded += loads(bytes(content))
    assert 0 < loaded < 600


@pytest.mark.parametrize("seed", range(2))
def test_pieces_moved_about(seed):
    chance = random.Random(seed)
    for _ in range(400):
        a, b = sorted(chance.randrange(len(VARIED)) for _ in range(2))
        c = chance.randrange(len(VARIED))
        loads(VARIED[:c] + VARIED[a : min(b, a + 300)] + VARIED[chance.choice([c, b]) :])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(content):
    loads(content)
    loads(hostile.raw_model(content))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 7), st.binary(max_size=40)), max_size=12))
def test_any_fields(fields):
    graph = b"".join(hostile.varint(number << 3 | kind) + content for number, kind, content in fields)
    loads(hostile.raw_model(graph))
    loads(graph)


@settings(max_examples=60, deadline=None)
@given(
    dims=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**62]) | st.integers(-5, 50), max_size=4),
    kind=st.integers(0, 30),
    raw=st.none() | st.binary(max_size=64),
    floats=st.lists(st.floats(width=32), max_size=5),
    ints=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5),
)
def test_any_tensor(dims, kind, raw, floats, ints):
    tensor = onnx.TensorProto(name="w", dims=dims, float_data=floats, int32_data=ints)
    if raw is not None:
        tensor.raw_data = raw
    content = tensor.SerializeToString() + b"\x10" + bytes([kind])
    base = model("y = Relu(x)").graph.SerializeToString()
    loads(hostile.raw_model(base + hostile.field(5, content)))


OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_operator_with_any_numbers(data):
    """The pass over shapes meets operators with inputs and attributes that make no sense."""
    op = data.draw(st.sampled_from(OPERATORS))
    schema = onnx.defs.get_schema(op)
    names = ["x", "i", "f", "s", "e", ""]
    most = min(schema.max_input, 5)
    inputs = data.draw(st.lists(st.sampled_from(names), min_size=min(schema.min_input, most), max_size=most))
    number = st.sampled_from([-(2**63), -(2**31), -1, 0, 1, 2, 3, 2**31, 2**63 - 1])
    attributes = {}
    for name, attribute in schema.attributes.items():
        kind = attribute.type.name
        if kind in ("GRAPH", "TENSOR", "SPARSE_TENSOR", "TYPE_PROTO") or not data.draw(st.booleans()):
            continue
        single = {"INT": number, "FLOAT": st.floats(width=32), "STRING": st.text(max_size=5)}
        several = {f"{one}S": st.lists(each, min_size=1, max_size=5) for one, each in single.items()}
        given_kind = (single | several).get(kind)
        if given_kind is not None:
            attributes[name] = data.draw(given_kind)
    weights = [
        array("i", data.draw(st.lists(number, max_size=5)), np.int64),
        array("f", data.draw(st.lists(st.floats(width=32), max_size=5))),
        array("s", data.draw(number), np.int64),
        array("e", np.zeros((0, 3))),
    ]
    count = min(max(schema.min_output, 1), 3)
    outputs = [f"y{place}" for place in range(count)]
    node = helper.make_node(op, inputs, outputs, **attributes)
    shape = data.draw(st.sampled_from([(1, 3, 4, 4), ("N", 3), (), (0,), (2**20,)]))
    proto = model([node], weights, shape=shape, outputs=tuple(outputs), opset=28, ir_version=13)
    loads(proto.SerializeToString())


# --- the walk over the bytes ------------------------------------------------------------------


def test_cutting_and_putting_back_changes_nothing():
    proto = hostile.network()
    proto.graph.initializer.append(array("big", np.random.default_rng(0).normal(size=5000)))
    content = proto.SerializeToString()
    parts = wire.split(content, Limits())
    assert len(parts.blocks) == 2
    assert len(parts.message) < 3000
    again = onnx.ModelProto.FromString(parts.message)
    for tensor in again.graph.initializer:
        index = parts.tokens.index(tensor.raw_data)
        if index is not None:
            block = parts.blocks[index]
            tensor.raw_data = content[block.start : block.start + block.length]
    assert again == proto
    wire.count(content, Limits())


def test_what_a_file_holds_is_never_taken_for_a_token():
    proto = hostile.network()
    content = proto.SerializeToString()
    token = wire.split(content, Limits()).tokens.make(0)
    assert wire.split(content, Limits()).tokens.index(token) is None
    proto.graph.initializer.append(array("t", np.frombuffer(token, np.uint8), np.uint8))
    loaded = load(proto.SerializeToString())
    assert loaded.model.graph.initializers["t"].const_value.numpy().tobytes() == token
