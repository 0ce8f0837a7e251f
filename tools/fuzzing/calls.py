"""Every operator, called in every odd way: networks of one operator on what becomes of a picture.

Where mutants hit a kind by chance, these go through it: each input left out, of another rank, type or length, taken
from the picture or stored, of values out of range; each attribute odd; outputs more and fewer; sizes declared and open.
"""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from fuzzing.parts import FLOATS, NUMBERS, TEXTS

# The inputs of a sound call. From the picture: x (N, 4, 8, 8), g (N, 4, 1, 1), t (N, 4, 64), r (N, 4, 32, 2),
# w (N, 256, 1), v (N, 4), n one number. Stored: the type, and a shape or [values]; p is positive, _ is left out.
_SOUND = """
AffineGrid f1,2,3 i[1,4,8,8]|And x:b x:b|Attention t t t|BatchNormalization x f4 f4 f4 p4|BitShift x:u u[1]
BitwiseAnd x:i x:i|BitwiseNot x:i|BitwiseOr x:i i[3]|BitwiseXor x:i i[3]|CenterCropPad x i[1,4,6,6]|Clip x f[-1] f[1]
Col2Im t i[16,16] i[2,2]|Compress x b[1,0,1,1]|Concat x x f1,4,8,8|ConstantOfShape i[1,4,8,8]|Conv x f4,4,3,3 f4
ConvInteger x:u u4,4,3,3 u[] u[]|ConvTranspose x f4,4,2,2 f4|CumSum x i[]|CumProd x i[]|DFT r i[] i[]
DeformConv x f4,4,3,3 f1,18,6,6 f4 f1,9,6,6|DequantizeLinear x:u f[] u[]|Einsum v f4,3|Expand x i[1,4,8,8]|EyeLike v
GRU t f1,9,64 f1,9,3 f1,18|Gather x i[0,2]|GatherElements x i1,4,8,8|GatherND x i2,2|Gemm v f4,3 f3
GridSample x f1,5,5,2|GroupNormalization x f4 f4|If n:b|InstanceNormalization x f4 f4|LRN x
LSTM t f1,12,64 f1,12,3 f1,24|LayerNormalization x f8 f8|Loop i[2] b[1] x|MatMul v f4,3|MatMulInteger v:u u4,3 u[] u[]
MaxRoiPool x f3,5|MaxUnpool x i1,4,8,8|Multinomial v|NegativeLogLikelihoodLoss v i[1] f4
NonMaxSuppression f1,6,4 f1,2,6 i[3] f[] f[]|Not x:b|OneHot v:i i[] f2|Or x:b x:b|PRelu x f4,1,1
Pad x i[0,0,1,1,0,0,1,1] f[] i[0,1,2,3]|QLinearMatMul v:u f[] u[] u4,3 f[] u[] f[] u[]
QLinearConv x:u f[] u[] u4,4,3,3 f[] u[] f[] u[] j4|QuantizeLinear x f[] u[]|RMSNormalization x f8
RNN t f1,3,64 f1,3,3 f1,6|Range f[0] f[9] f[2]|Reshape x i[0,-1]|Resize x _ f[1,1,2,2]|ReverseSequence x i[4,4,4,4]
RoiAlign x f3,4 i[0,0,0]|RotaryEmbedding x f8,4 f8,4|STFT w i[] f8 i[]|Scan x|Scatter x i1,4,8,8 f1,4,8,8
ScatterElements x i1,4,8,8 f1,4,8,8|ScatterND x i2,2 f2,8,8|SequenceAt x|Slice x i[1] i[6] i[2] i[1]
SoftmaxCrossEntropyLoss v i[1] f4|Split x i[2,2]|Squeeze g i[2,3]|TensorScatter x f1,4,8,8 i[0]|Tile x i[1,1,2,1]
TopK x i[3]|Trilu x i[]|Unsqueeze x i[1]|Upsample x f[1,1,2,2]|Where x:b x f1,4,1,1|Xor x:b x:b|HannWindow i[]
HammingWindow i[]|BlackmanWindow i[]|MelWeightMatrix i[] i[] i[] f[] f[]|ReduceSum x i[2,3]|ReduceMean x i[2,3]
ReduceMax x i[2,3]|ReduceL2 x i[1]|com.microsoft.FusedConv x f4,4,3,3 f4|com.microsoft.FusedGemm v f4,3 f3
com.microsoft.FusedMatMul v f4,3|com.microsoft.NhwcMaxPool x:u|com.microsoft.NhwcConv x f4,3,3,8 f4
com.microsoft.BiasGelu t f64|com.microsoft.FastGelu t f64|com.microsoft.SkipLayerNormalization t t f64 f64 f64
com.microsoft.QGemm v:u f[] u[] u4,3 f[] u[] j3 f[] u[]|com.microsoft.QLinearAdd x:u f[] u[] x:u f[] u[] f[] u[]
com.microsoft.QLinearMul x:u f[] u[] x:u f[] u[] f[] u[]|com.microsoft.QLinearConcat f[] u[] x:u f[] u[]
com.microsoft.QLinearAveragePool x:u f[] u[] f[] u[]|com.microsoft.QLinearGlobalAveragePool x:u f[] u[] f[] u[]
com.microsoft.QLinearLeakyRelu x:u f[] u[] f[] u[]|com.microsoft.QLinearSigmoid x:u f[] u[] f[] u[]
com.microsoft.QLinearSoftmax v:u f[] u[] f[] u[]|com.microsoft.QLinearWhere x:b x:u f[] u[] x:u f[] u[] f[] u[]
com.microsoft.DynamicQuantizeMatMul v u4,3 f[] u[] f3|com.microsoft.MatMulIntegerToFloat v:u u4,3 f[] f[] u[] u[] f3
com.microsoft.BiasAdd t f64 t|com.microsoft.DynamicQuantizeLSTM t u1,64,12 u1,3,12 f1,24 _ _ _ _ f[] u[] f[] u[]
"""
# Operators, and the attributes of a sound call of each.
_NEEDED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Attention", {"q_num_heads": 4, "kv_num_heads": 4}),
    ("BitShift", {"direction": "LEFT"}),
    ("Cast", {"to": 1}),
    ("Col2Im", {"strides": [2, 2]}),
    ("Concat QLinearConcat", {"axis": 1}),
    ("Constant", {"value_floats": [1.0, 2.0]}),
    ("Einsum", {"equation": "ij,jk->ik"}),
    ("FusedConv FusedGemm", {"activation": "Relu"}),
    ("GroupNormalization", {"num_groups": 2}),
    ("LRN", {"size": 3}),
    ("LSTM GRU RNN DynamicQuantizeLSTM", {"hidden_size": 3}),
    ("MaxPool AveragePool LpPool MaxUnpool NhwcMaxPool QLinearAveragePool", {"kernel_shape": [2, 2]}),
    ("MaxRoiPool", {"pooled_shape": [2, 2]}),
    ("QLinearSoftmax", {"opset": 13}),
    ("RandomNormal RandomUniform", {"shape": [1, 4, 8, 8]}),
    ("ReverseSequence", {"batch_axis": 1, "time_axis": 2}),
    ("Scan", {"num_scan_inputs": 1}),
    ("SpaceToDepth DepthToSpace", {"blocksize": 2}),
)
_TYPES = {
    "f": np.float32, "p": np.float32, "i": np.int64, "j": np.int32, "u": np.uint8, "b": np.bool_,
}  # fmt: skip
_CASTS = {"i": TensorProto.INT64, "u": TensorProto.UINT8, "b": TensorProto.BOOL}
_SOURCES = {
    "x": [], "v": [("GlobalAveragePool", {}, ()), ("Flatten", {}, ())], "g": [("GlobalAveragePool", {}, ())],
    "t": [("Reshape", {}, [0, 4, 64])], "r": [("Reshape", {}, [0, 4, 32, 2])], "w": [("Reshape", {}, [0, 256, 1])],
    "n": [("ReduceMean", {"keepdims": 0}, ())],
}  # fmt: skip
_SHAPES = (
    (), (0,), (1,), (2,), (3,), (4,), (8,), (1, 1), (4, 4), (0, 4), (1, 4, 1), (4, 1, 1), (1, 4, 1, 1), (1, 4, 8, 8),
    (2, 4, 8, 8), (1, 0, 8, 8), (1, 4, 0, 8), (1, 1, 1, 1, 1), (1,) * 9,
)  # fmt: skip
_KINDS = (np.float16, np.float64, np.float32, np.int64, np.int32, np.int8, np.uint8, np.bool_, np.object_)
_MORE_TEXTS = (
    "none tanh Relu DCR CRD mul add min reflection zeros bilinear wrap bidirectional reverse forward SAME_LOWER "
    "align_corners asymmetric half_pixel avg max tf_crop_and_resize round_prefer_ceil not_larger stretch sum mean "
    "ij,jk i...,...k->ik"
)
OPSETS = (7, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24)


class Given(NamedTuple):
    """One input: from the picture (`source`, perhaps cast), stored (`array`), or left out."""

    source: str = ""
    array: np.ndarray | None = None


def _given(word: str) -> Given:
    if word == "_":
        return Given()
    if word.partition(":")[0] in _SOURCES:
        return Given(word)
    kind, values = word[0], re.fullmatch(r"\[(.*)\]", word[1:])
    if values is not None:
        numbers = [float(one) for one in values[1].split(",") if one]
        return Given(array=np.array(numbers if numbers else 1, _TYPES[kind]))
    shape = [int(one) for one in word[1:].split(",")]
    random = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(shape)
    return Given(
        array=(abs(random) if kind == "p" else random if kind == "f" else random * 0).astype(_TYPES[kind])
    )


@cache
def _sound() -> dict[str, list[Given]]:
    rows = [row.split() for row in _SOUND.replace("\n", "|").split("|") if row]
    return {name: [_given(word) for word in words] for name, *words in rows}


@cache
def names() -> list[str]:
    """Every operator: by its name in ONNX's own domain, with its domain in others."""
    from onnxviz.graph.open.signatures import CONTRIBUTED

    onnx_own = {one.name for one in onnx.defs.get_all_schemas_with_history() if one.domain == ""}
    ml = {f"ai.onnx.ml.{one.name}" for one in onnx.defs.get_all_schemas() if one.domain == "ai.onnx.ml"}
    return sorted(onnx_own) + sorted(ml) + sorted(f"com.microsoft.{name}" for name in CONTRIBUTED)


def _split(name: str) -> tuple[str, str]:
    domain, _, op = name.rpartition(".")
    return domain, op


def _schema(name: str, opset: int) -> Any:
    domain, op = _split(name)
    version = opset if not domain else 3 if domain == "ai.onnx.ml" else 1
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def _usual(name: str, opset: int) -> list[Given]:
    """A call's inputs: written down above, or concluded from the schema."""
    if name in _sound():
        return list(_sound()[name])
    schema = _schema(name, opset)
    if schema is None:
        from onnxviz.graph.open.signatures import CONTRIBUTED

        places = CONTRIBUTED[_split(name)[1]][0] if name.startswith("com.microsoft") else "."
        return [
            Given("x"),
            *(Given(array=np.ones((1, 4, 8, 8), np.float32)) for kind in places[1:] if kind != "?"),
        ]
    given: list[Given] = []
    types = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
    for place, one in enumerate(schema.inputs[: max(1, schema.min_input)]):
        allowed = types.get(one.type_str, [one.type_str])
        real = "tensor(float)" in allowed
        kind = (
            "" if real else "i" if "tensor(int64)" in allowed else "b" if "tensor(bool)" in allowed else "u"
        )
        if place == 0:
            given.append(Given("x" if real else f"x:{kind}"))
        else:
            given.append(Given(array=np.ones((1, 4, 8, 8), np.float32).astype(_TYPES[kind or "f"])))
    return given


def _body(op: str) -> dict[str, Any]:
    def graph(node: str, inputs: list[Any], output: str, more: tuple[Any, ...] = ()) -> onnx.GraphProto:
        made = [helper.make_node(node, ["in_" if inputs else "x"], [output])]
        outputs = [
            *(helper.make_tensor_value_info("go", TensorProto.BOOL, ()) for _ in more),
            onnx.ValueInfoProto(name=output),
        ]
        return helper.make_graph([*more, *made], f"body_{output}", inputs, outputs)

    state = onnx.ValueInfoProto(name="in_")
    if op == "If":
        return {"then_branch": graph("Relu", [], "then_"), "else_branch": graph("Neg", [], "else_")}
    if op == "Loop":
        steer = [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
        ]
        return {
            "body": graph("Relu", [*steer, state], "out_", (helper.make_node("Identity", ["on"], ["go"]),))
        }
    return {"body": graph("Relu", [state], "out_")}


class Call(NamedTuple):
    """A network around one node."""

    name: str
    inputs: list[Given]
    attributes: dict[str, Any]
    opset: int
    outputs: int | list[str] = 1
    shape: Any = ("N", 4, 8, 8)
    told: str = ""


def model(call: Call) -> bytes:
    """The network as a file's bytes: its result is what the node gives, as float32 and averaged where that can be."""
    domain, op = _split(call.name)
    nodes, stored, made = [], [], set()

    def source(word: str) -> str:
        kind, _, cast = word.partition(":")
        if word in made or word == "x":
            return word.replace(":", "_")
        made.add(word)
        value = "x"
        for place, (step, attributes, shape) in enumerate(_SOURCES[kind]):
            extra = []
            if len(shape):
                stored.append(numpy_helper.from_array(np.array(shape), f"{kind}_shape"))
                extra = [f"{kind}_shape"]
            nodes.append(helper.make_node(step, [value, *extra], [f"{word}{place}"], **attributes))
            value = f"{word}{place}"
        if cast:
            nodes.append(helper.make_node("Cast", [value], [f"{word}_cast"], to=_CASTS[cast]))
            value = f"{word}_cast"
        nodes.append(helper.make_node("Identity", [value], [word.replace(":", "_")]))
        return word.replace(":", "_")

    names = []
    for place, one in enumerate(call.inputs):
        if one.source:
            names.append(source(one.source))
        elif one.array is None:
            names.append("")
        else:
            names.append(f"in{place}")
            stored.append(numpy_helper.from_array(one.array, f"in{place}"))
    outputs = call.outputs if isinstance(call.outputs, list) else [f"y{i}" for i in range(call.outputs)]
    bodies = (
        _body(op) if op in ("If", "Loop", "Scan", "SequenceMap") and "body" not in call.attributes else {}
    )
    attributes = {key: value for key, value in {**bodies, **call.attributes}.items() if value is not None}
    node = helper.make_node(op, names, outputs, name="odd", domain=domain)
    schema = _schema(call.name, call.opset)
    kinds = {} if schema is None else {key: int(one.type.value) for key, one in schema.attributes.items()}
    for key, value in attributes.items():
        kind = kinds.get(key)
        made_one = None
        for wanted in (kind, None):
            with contextlib.suppress(Exception):
                made_one = helper.make_attribute(key, value, attr_type=wanted)
                break
        if made_one is not None:
            node.attribute.append(made_one)
    nodes.append(node)
    y = next((name for name in outputs if name), "x")
    result = onnx.ValueInfoProto(name=y)
    numbers = zlib.crc32(call.told.encode())
    if numbers % 3:  # so that a gradient comes from behind, too
        nodes.append(helper.make_node("Cast", [y], ["real"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Add" if numbers % 2 else "Mul", ["real", "real"], ["y"]))
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, call.shape)],
        [result], stored,
    )  # fmt: skip
    imports = [helper.make_opsetid("", call.opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 3 if domain == "ai.onnx.ml" else 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


def _odd_values(kind: int) -> list[Any]:
    types = AttributeProto.AttributeType
    if kind == types.INT:
        return list(NUMBERS)
    if kind == types.FLOAT:
        return [*map(float, FLOATS), 3e38, 1e-45]
    if kind == types.STRING:
        return [*TEXTS, *_MORE_TEXTS.split()]
    if kind == types.INTS:
        one = (0, -1, 1, 2, 3, 2**31 - 1, 2**40, 2**62, -(2**63))
        return [
            [],
            *([number] * many for number in one for many in (1, 2, 4)),
            [1, 2, 3],
            [0, 1, 2, 3],
            [3, 2, 1, 0],
            [1] * 1000,
        ]
    if kind == types.FLOATS:
        return [[], [0.0], [-1.0], [float("nan")] * 2, [1.0] * 4, [1e38] * 3]
    if kind == types.STRINGS:
        return [[], [""], ["x"], ["Tanh"], ["Relu", "Tanh", "Sigmoid"]]
    if kind == types.TENSOR:
        return [
            numpy_helper.from_array(np.array(value, dtype), "t")
            for value in ((), [], [1], [0, 0], -1)
            for dtype in (np.float32, np.int64, np.bool_)
        ]
    return []


def _variants(name: str, opset: int) -> Iterator[Call]:
    """The odd calls of one operator."""
    schema = _schema(name, opset)
    op = _split(name)[1]
    attributes = next((dict(given) for ops, given in _NEEDED if op in ops.split()), {})
    if schema is not None:
        attributes = {key: value for key, value in attributes.items() if key in schema.attributes}
    usual = _usual(name, opset)
    call = Call(name, usual, attributes, opset)
    for shape in (
        ("N", 4, 8, 8),
        (1, 4, 8, 8),
        ("N", 4, "H", "W"),
        None,
        ("N", 4),
        ("N", 4, 64),
        ("N", 8, 8, 4, 1),
    ):
        yield call._replace(shape=shape, told=f"shape {shape}")
    most = 1 if schema is None else min(schema.max_output, 5)
    for outputs in {0, 2, 3, most}:
        yield call._replace(outputs=outputs, told=f"{outputs} outputs")
    yield call._replace(outputs=["", "second"], told="the second output alone")
    yield call._replace(inputs=[], told="no inputs")
    yield call._replace(inputs=[*usual, usual[-1] if usual else Given("x")], told="one input more")
    yield call._replace(inputs=[*usual, Given(array=np.float32([1])), Given("x")], told="two inputs more")
    length = len(usual) if schema is None else min(max(len(usual), schema.max_input), 9)
    for place in range(length):
        padded = [*usual, *([Given()] * (place + 1 - len(usual)))]

        def put(given: Given, what: str, place: int = place, padded: list[Given] = padded) -> Call:
            return call._replace(
                inputs=[*padded[:place], given, *padded[place + 1 :]], told=f"input {place}: {what}"
            )

        yield put(Given(), "left out")
        yield call._replace(inputs=usual[:place], told=f"{place} inputs")
        for shape in _SHAPES:
            for dtype in (np.float32, np.int64):
                yield put(Given(array=np.ones(shape, dtype)), f"{np.dtype(dtype)}{shape}")
        before = padded[place].array
        like = before if before is not None else np.ones((1, 4, 8, 8), np.float32)
        for dtype in _KINDS:
            yield put(
                Given(array=like.astype(str).astype(dtype) if dtype is np.object_ else like.astype(dtype)),
                f"as {np.dtype(dtype)}",
            )
        odd = NUMBERS if like.dtype.kind in "iu" else (*FLOATS, 3e38, 1e-45, 2.0, -3.0)
        for value in odd:
            with contextlib.suppress(OverflowError):
                yield put(Given(array=np.full_like(like, value)), f"full of {value}")
        for word in ("x", "g", "t", "v", "n", "n:i", "n:b", "x:i", "x:u", "v:i"):
            yield put(Given(word), f"the picture's {word}")
    kinds = {} if schema is None else {key: int(one.type.value) for key, one in schema.attributes.items()}
    if schema is None:
        kinds = {key: AttributeProto.INT for key in ("axis", "num_heads", "transA", "block_size", "K", "N")}
    for key, kind in kinds.items():
        yield call._replace(attributes={**attributes, key: None}, told=f"without {key}")
        for number, value in enumerate(_odd_values(kind)):
            yield call._replace(
                attributes={**attributes, key: value}, told=f"{key} {number}: {str(value)[:60]}"
            )
            if number % 3 == 0:
                yield call._replace(
                    attributes={**attributes, key: value},
                    shape=None,
                    told=f"{key} {number}, open: {str(value)[:60]}",
                )


def calls(only: str = "") -> Iterator[Call]:
    """Every odd call of every form of every operator: those that `only` matches, such as 'Conv 11: input 1'."""
    wanted = re.compile(only)
    for name in names():
        opsets = [opset for opset in OPSETS if name.startswith("com.") or _schema(name, opset) is not None]
        forms: dict[int, int] = {}  # the newest opset of each form of the operator
        for opset in opsets:
            schema = _schema(name, opset)
            forms[schema.since_version if schema is not None else 1] = opset
        for opset in list(forms.values()) or [17]:
            for call in _variants(name, opset):
                told = f"{name} {opset}: {call.told}"
                if wanted.match(told):
                    yield call._replace(told=told)
