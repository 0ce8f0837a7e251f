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


def ints(name: str, *values: int) -> TensorProto:
    return array(name, values, np.int64)


def nodes(text: str) -> list[onnx.NodeProto]:
    """Nodes in ONNX's own text form: '[name] y = Operator<attribute = 1>(x)', one after the other."""
    return list(onnx.parser.parse_graph(f"g () => () {{ {text} }}").node)


def choice(then: str, other: str = "", made: str = "y") -> str:
    """An If in text on `c`, whose branches (the same twice, where one is given) make `b`."""
    bodies = (("then", then), ("else", other or then))
    return f"{made} = If<{', '.join(f'{n}_branch = {n} () => (float[] b) {{ {text} }}' for n, text in bodies)}>(c)"


def local(text: str, domain: str = "local", version: int = 17) -> onnx.FunctionProto:
    """A function of the model in text: 'f <attribute> (a) => (b) { b = Relu(a) }'."""
    imports = f'"" : {version}, "local" : 1, "com.microsoft" : 1'
    return onnx.parser.parse_function(f'<domain: "{domain}", opset_import: [{imports}]> {text}')


def model(
    body: str | list[onnx.NodeProto],
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
    """A model from x (float, `shape`) to `outputs`, of nodes or their text (see `nodes`).

    What functions it has are of domains that it imports.
    """
    body, functions = nodes(body) if isinstance(body, str) else body, list(functions)
    ends = [value(name) for name in outputs]
    graph = helper.make_graph(body, "g", inputs or [value("x", shape)], ends, list(weights))
    versions = {"": opset} | {one.domain: 1 for one in functions if one.domain} | dict(imports)
    opsets = [helper.make_opsetid(*each) for each in versions.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)


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
    text = """
        [conv] c = Conv<pads = [1, 1, 1, 1]>(x, "conv.w", "conv.b")
        [relu] r = Relu(c)
        [pool] p = GlobalAveragePool(r)
        [flatten] f = Flatten(p)
        [fc] y = Gemm<transB = 1>(f, "fc.w", "fc.b")
    """
    made = model(text, weights, inputs=[value("x", ("N", 3, 8, 8), kind)], opset=opset, ir_version=ir_version)
    made.graph.output[0].CopyFrom(value("y", ("N", 10), kind))
    return made


# --- external data ----------------------------------------------------------------------------


def point(tensor: TensorProto, **entries: object) -> None:
    """Make `tensor` external data with these entries, in this order; a list gives an entry several times."""
    for field in ("raw_data", "float_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    for key, given in entries.items():
        for each in given if isinstance(given, list) else [given]:
            tensor.external_data.add(key=key, value=str(each))


def put(tensors: Iterable[TensorProto], path: Path, align: int = 64) -> None:
    """Write the elements of tensors into another file, beside the model, and make the tensors name it."""
    blob = bytearray()
    for tensor in tensors:
        data = numpy_helper.to_array(tensor).tobytes()
        blob += b"\0" * (-len(blob) % align)
        point(tensor, location=path.name, offset=len(blob), length=len(data))
        blob += data
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(blob)


def move_out(proto: onnx.ModelProto, folder: Path, location: str = "weights.bin", align: int = 64) -> Path:
    """Write `proto` with its weights in another file; the path of the model."""
    put(proto.graph.initializer, folder / location, align)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location
    return save(proto, folder)


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def external(folder: Path, location: str, size: int = 16, **entries: object) -> Path:
    """A model of one weight of 4 floats, said to lie at `location`; nothing is written there."""
    weight = array("w", np.zeros(size // 4))
    point(weight, location=location, **entries)
    return save(model("y = Add(x, w)", [weight], shape=(1, size // 4)), folder)


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
    """If in If in If; their other branches are small, or the size would double at each level."""
    text = "b = Identity(x)"
    for level in reversed(range(depth)):
        text = choice(text, "b = Identity(x)", "b" if level else "y")
    return model(text, [array("c", True, np.bool_)])


def loop(
    trips: int | None,
    *,
    condition: str = "true",
    body: str = "next = Identity(state)",
    weights: Iterable[TensorProto] = (),
) -> onnx.ModelProto:
    """A Loop over a state; `condition` is 'true' (constant), 'kept' (handed through) or 'data' (from the state)."""
    go = {
        "true": "go = Constant<value = bool {1}>()",
        "kept": "go = Identity(cond)",
        "data": "[sum] total = ReduceMax<keepdims = 0>(state) go = Less(total, bound)",
    }[condition]
    constants = [array("start", True, np.bool_), array("bound", 100.0), *weights]
    if trips is not None:
        constants.append(array("trips", trips, np.int64))
    given = "int64 i, bool cond, float[] state"
    each = f"body = body ({given}) => (bool go, float[] next) {{ {body} {go} }}"
    count = '""' if trips is None else "trips"
    return model(f"[loop] y = Loop<{each}>({count}, start, x)", constants)


def function(name: str, calls: list[str], domain: str = "local") -> onnx.FunctionProto:
    """A function from a to b that calls others in a row."""
    values = ["a", *(f"v{place}" for place in range(len(calls) - 1)), "b"]
    body = [
        helper.make_node(callee, [values[place]], [values[place + 1]], domain=domain)
        for place, callee in enumerate(calls)
    ] or nodes("b = Relu(a)")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_function(domain, name, ["a"], ["b"], body, opsets)


def calls(name: str, functions: Iterable[onnx.FunctionProto]) -> onnx.ModelProto:
    """A model that calls the function `name`."""
    return model(f"y = local.{name}(x)", functions=functions)


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
