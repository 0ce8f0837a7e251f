"""Models for the tests of safe loading: a small sound network, and makers of bad ones."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.load import load

FLOAT = TensorProto.FLOAT


def array(name: str, values: object, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype=dtype), name)


def value(name: str, shape: Iterable[object] | None = None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None if shape is None else list(shape))


def model(
    nodes: list[onnx.NodeProto],
    weights: Iterable[TensorProto] = (),
    *,
    shape: Iterable[object] = ("N", 3, 8, 8),
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    ir_version: int = 8,
    imports: Iterable[tuple[str, int]] = (),
    functions: Iterable[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model from x (float, `shape`) to `outputs`."""
    graph = helper.make_graph(
        nodes, "g", inputs or [value("x", shape)], [value(name) for name in outputs], list(weights)
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in imports)],
        ir_version=ir_version,
        functions=list(functions),
    )


def network(*, opset: int = 17, ir_version: int = 8, dtype: type = np.float32) -> onnx.ModelProto:
    """A sound network: x (N,3,8,8) -> Conv, Relu, GlobalAveragePool, Flatten, Gemm -> y (N,10)."""
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [
        array("conv.w", rng.normal(size=(16, 3, 3, 3)), dtype),
        array("conv.b", rng.normal(size=16), dtype),
        array("fc.w", rng.normal(size=(10, 16)), dtype),
        array("fc.b", rng.normal(size=10), dtype),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "net", [value("x", ("N", 3, 8, 8), kind)], [value("y", ("N", 10), kind)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


# --- external data ----------------------------------------------------------------------------


def point(tensor: TensorProto, **entries: object) -> None:
    """Make `tensor` external data with these entries, in this order; a list gives an entry several times."""
    for field in ("raw_data", "float_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, given in entries.items():
        for each in given if isinstance(given, list) else [given]:
            tensor.external_data.add(key=key, value=str(each))


def move_out(proto: onnx.ModelProto, folder: Path, location: str = "weights.bin", align: int = 64) -> Path:
    """Write `proto` with its weights in another file; the path of the model."""
    blob = bytearray()
    for tensor in proto.graph.initializer:
        data = numpy_helper.to_array(tensor).tobytes()
        blob += b"\0" * (-len(blob) % align)
        point(tensor, location=location, offset=len(blob), length=len(data))
        blob += data
    target = folder / location
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(blob)
    return save(proto, folder)


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def external(folder: Path, location: str, size: int = 16, **entries: object) -> Path:
    """A model of one weight of 4 floats, said to lie at `location`; nothing is written there."""
    weight = array("w", np.zeros(size // 4))
    point(weight, location=location, **entries)
    return save(model([helper.make_node("Add", ["x", "w"], ["y"])], [weight], shape=(1, size // 4)), folder)


# --- bombs ------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def raw_model(graph: bytes, *more: bytes) -> bytes:
    """A model file around the bytes of a graph."""
    return b"\x08\x08" + field(8, b"\x10\x11") + field(7, graph) + b"".join(more)


def many_nodes(count: int) -> bytes:
    """A file of `count` Relu nodes, made byte by byte."""
    node = field(1, field(1, b"x") + field(2, b"y") + field(4, b"Relu"))
    return raw_model(node * count + field(12, field(1, b"y")))


def nested_ifs(depth: int) -> onnx.ModelProto:
    """If in If in If."""
    name = f"y{depth}"
    graph = helper.make_graph([helper.make_node("Identity", ["x"], [name])], "leaf", [], [value(name)])
    for level in reversed(range(depth)):
        node = helper.make_node("If", ["c"], [f"y{level}"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], f"level{level}", [], [value(f"y{level}")])
        # Both branches are the same message, so the size would double at each level: keep one of them small.
        other = helper.make_graph(
            [helper.make_node("Identity", ["x"], [f"o{level}"])], "o", [], [value(f"o{level}")]
        )
        node.attribute[1].g.CopyFrom(other)
        graph.node[0].CopyFrom(node)
    last = graph.node[0].output[0]
    return model(list(graph.node), [array("c", True, np.bool_)], outputs=(last,))


def loop(
    trips: int | None,
    *,
    condition: str = "true",
    body: list[onnx.NodeProto] | None = None,
    weights: Iterable[TensorProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """A Loop over a state; `condition` is 'true' (constant), 'kept' (handed through) or 'data' (from the state)."""
    makes = {
        "true": helper.make_node("Constant", [], ["go"], value=array("", True, np.bool_)),
        "kept": helper.make_node("Identity", ["cond"], ["go"]),
        "data": helper.make_node("Less", ["total", "bound"], ["go"]),
    }[condition]
    nodes = [*(body or [helper.make_node("Identity", ["state"], ["next"])]), makes]
    if condition == "data":
        nodes.insert(
            len(nodes) - 1, helper.make_node("ReduceMax", ["state"], ["total"], name="sum", keepdims=0)
        )
    graph = helper.make_graph(
        nodes,
        "body",
        [value("i", (), TensorProto.INT64), value("cond", (), TensorProto.BOOL), value("state")],
        [value("go", (), TensorProto.BOOL), value("next")],
    )
    constants = [array("start", True, np.bool_), array("bound", 100.0), *weights]
    if trips is not None:
        constants.append(array("trips", trips, np.int64))
    node = helper.make_node(
        "Loop", ["trips" if trips is not None else "", "start", "x"], ["y"], name="loop", body=graph
    )
    return model([node], constants, opset=opset)


def function(name: str, calls: list[str], domain: str = "local") -> onnx.FunctionProto:
    """A function from a to b that calls others in a row."""
    values = ["a", *(f"v{place}" for place in range(len(calls) - 1)), "b"]
    nodes = [
        helper.make_node(callee, [values[place]], [values[place + 1]], domain=domain)
        for place, callee in enumerate(calls)
    ]
    nodes = nodes or [helper.make_node("Relu", ["a"], ["b"])]
    return helper.make_function(
        domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    )


def calls(name: str, functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    """A model that calls the function `name`."""
    node = helper.make_node(name, ["x"], ["y"], domain="local")
    return model([node], imports=[("local", 1)], functions=functions)


def laughs(levels: int, each: int = 10) -> onnx.ModelProto:
    """Functions that each call the next ten times: each^levels nodes in a file of a few lines."""
    functions = [function(f"f{level}", [f"f{level + 1}"] * each) for level in range(levels)]
    return calls("f0", [*functions, function(f"f{levels}", [])])


# --- running ----------------------------------------------------------------------------------


def run(proto: onnx.ModelProto | Path, x: np.ndarray, **more: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime computes, with the model as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = os.fspath(proto) if isinstance(proto, Path) else proto.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x, **more})


# --- loaded, or refused -----------------------------------------------------------------------

X = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)


def refused(source, *words):
    with pytest.raises(ModelRejected) as caught:
        load(source)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message, message
    return message


def proto(loaded):
    return ir.to_proto(loaded.model)


def same(loaded, original, x=X, **more):
    """Hold the loaded model's outputs against the original's, both in ONNX Runtime."""
    for got, expected in zip(run(proto(loaded), x, **more), run(original, x, **more), strict=True):
        np.testing.assert_array_equal(got, expected)


def weights(loaded):
    return {name: value.const_value for name, value in loaded.model.graph.initializers.items()}
