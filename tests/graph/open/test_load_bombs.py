"""Small files that would take all memory or never end: refused by a limit, quickly, naming the flag that lifts it."""

import re
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxviz.errors import LimitExceeded, ModelRejected
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile
from tests.graph.hostile import array, calls, choice, field, function, ints, local, model, raw_model

TRUE = array("c", True, np.bool_)


def limited(source, name, *words, limits=None, seconds=5):
    start = time.process_time()
    with pytest.raises(LimitExceeded) as caught:
        load(source, limits=limits or Limits())
    assert caught.value.exit_code == 4
    for word in ("limits=onnxviz.Limits", f"{name}=", *words):  # as Python writes --limit
        assert word in str(caught.value), str(caught.value)
    assert time.process_time() - start < seconds


# --- by number and depth ----------------------------------------------------------------------


def row(count):
    """As many Relu, one after the other."""
    nodes = [helper.make_node("Relu", [f"v{n}" if n else "x"], [f"v{n + 1}"]) for n in range(count)]
    return model(nodes, outputs=(f"v{count}",))


EXACT = {  # a file, a limit, and the least of it that lets the file pass
    "nodes": (row(300), "nodes", 300),
    "nodes of subgraphs": (model(choice("a = Relu(x) b = Relu(a)"), [TRUE]), "nodes", 5),
    "weights": (hostile.network(), "tensors", 4),
    "functions that multiply": (hostile.laughs(3), "nodes", 1 + 10 + 100 + 1000 + 1000),
    "nested ifs": (hostile.nested_ifs(20), "subgraph_depth", 20),
    "ifs as by default": (hostile.nested_ifs(Limits().subgraph_depth), "subgraph_depth", 8),
}


@pytest.mark.parametrize("name", EXACT)
def test_as_many_as_allowed(name):
    proto, limit, least = EXACT[name]
    limited(proto, limit, limits=Limits(**{limit: least - 1}))
    load(proto, limits=Limits(**{limit: least}))


def test_dimensions_one_by_one():
    """A shape of n entries for each of n nodes is the square of the file."""

    def grown(count: int) -> onnx.ModelProto:
        text = " ".join(f"v{n + 1} = Unsqueeze({f'v{n}' if n else 'x'}, front)" for n in range(count))
        return model(f"{text} y = ReduceSum<keepdims = 0>(v{count})", [ints("front", 0)])

    start = time.process_time()
    with pytest.raises(ModelRejected, match=r"node .*a value of 65 dimensions; at most 64"):
        load(grown(3000))
    assert time.process_time() - start < 5
    load(grown(50))


def test_functions_that_read_very_much_very_often():
    body = helper.make_node("Sum", ["a"] * 50_000, ["b"])
    functions = [function("f0", ["f1"] * 1000), function("f1", [])]
    functions[1].node[0].CopyFrom(body)
    limited(calls("f0", functions), "nodes", limits=Limits(nodes=10_000))


def test_very_many_functions_and_calls():
    """Putting their bodies in place would take minutes, more with the square of their number."""
    with pytest.raises(ModelRejected, match="defines 5000 functions"):
        load(calls("f0", [function(f"f{n}", []) for n in range(5000)]))
    with pytest.raises(ModelRejected, match="13001 times"):
        load(calls("f0", [function("f0", ["f1"] * 13_000), function("f1", [])]))


def test_functions_in_a_long_row():
    functions = [*(function(f"f{n}", [f"f{n + 1}"]) for n in range(2000)), function("f2000", [])]
    limited(calls("f0", functions), "function_depth", "2001 deep")
    load(calls("f1969", functions[1969:]), limits=Limits(function_depth=32))


def deep(depth):
    """A file of nested Ifs made byte by byte, since protobuf itself nests no deeper than 100 messages."""
    leaf = field(1, field(1, b"c") + field(2, b"y") + field(4, b"Not")) + field(12, field(1, b"y"))
    graph = leaf
    for _ in range(depth):
        both = b"".join(
            field(5, field(1, name) + field(6, branch) + b"\xa0\x01\x05")
            for name, branch in ((b"then_branch", graph), (b"else_branch", leaf))
        )
        graph = field(1, field(1, b"c") + field(2, b"y") + field(4, b"If") + both) + field(12, field(1, b"y"))
    return raw_model(graph + field(11, field(1, b"c")))


DEEP = {
    "a million nodes": (lambda: hostile.many_nodes(10**6), "nodes", "100001 nodes"),
    "functions that multiply": (lambda: hostile.laughs(9), "nodes", "functions expanded"),  # 10^9 nodes
    **{f"ifs {n}": (lambda n=n: deep(n), "subgraph_depth") for n in (9, 20, 32, 50, 200, 3000)},
    # Two bytes that become a hundred when they are parsed: 4 MB would take 200 MB, 1 GB would take all.
    **{
        f"empty fields {n}": (lambda n=n: raw_model(field(n, b"") * 2_100_000), limit)
        for n, limit in ((1, "nodes"), (5, "messages"), (13, "messages"))
    },
    "empty fields within fields": (
        lambda: raw_model(field(1, field(4, b"Relu") + b"\x2a\0" * 500) * 5000),
        "messages",
    ),
    "a long text": (lambda: raw_model(field(10, b"x" * 2**26)), "structure_bytes"),
}


@pytest.mark.parametrize("name", DEEP)
def test_too_many_and_too_deep(name):
    make, *words = DEEP[name]
    limited(make(), *words, seconds=30 if name.startswith("empty fields") else 5)  # a second each, idle


def test_types_nested_without_end():
    kind = field(1, b"\x08\x01")
    for _ in range(5000):
        kind = field(4, field(1, kind))
    with pytest.raises(ModelRejected):
        load(raw_model(field(13, field(1, b"v") + field(2, kind))))


def test_a_file_that_is_too_large(tmp_path):
    limited(hostile.network(), "structure_bytes", limits=Limits(structure_bytes=100))
    path = hostile.save(hostile.network(), tmp_path)
    size = path.stat().st_size
    load(path, limits=Limits(file_bytes=size))
    for source in (path, path.read_bytes()):
        limited(source, "file_bytes", str(size), limits=Limits(file_bytes=size - 1))


# --- by size ----------------------------------------------------------------------------------


def test_weights_and_inputs_that_claim_to_be_huge():
    for dims in ([2**33], [2**32, 2**32], [2**62, 2**62, 2**62], [0, 2**62], [2**63 - 1, 2]):
        limited(
            model("y = Add(x, w)", [onnx.TensorProto(name="w", data_type=1, dims=dims)]), "tensor_elements"
        )
    limited(model("y = Relu(x)", shape=("N", 3, 2**20, 2**20)), "tensor_elements")
    proto = model("y = Add(x, w)")
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(values=array("w", [1.0]), indices=ints("i", 5), dims=[2**17, 2**17])
    )
    limited(proto, "tensor_elements")


WIDE = 2**16 + 1
COLUMN, LINE = array("w", np.zeros((WIDE, 1))), array("v", np.zeros((1, WIDE)))
SCALES, SIZES = array("s", [1, 1, 1e5, 1e5]), ints("s", 1, 1, 2**20, 2**20)
ONE = array("w", np.ones((1, 1, 1, 1)))
START, END, STEP = (array(*each, np.int64) for each in (("a", 0), ("b", 2**40), ("c", 1)))
BOMBS = {  # what makes something huge, its weights, the opset where it is no 17
    "ConstantOfShape": ("ConstantOfShape(s)", [ints("s", 2**33)]),
    "ConstantOfShape by two": ("ConstantOfShape(s)", [ints("s", 2**17, 2**17)]),
    "Expand": ("Expand(x, s)", [ints("s", 2**33, 1, 1, 1)]),
    "Expand of one number": ("Expand(w, s)", [ints("s", 2**33), array("w", 1.0)]),
    "Tile": ("Tile(x, s)", [ints("s", 2**30, 1, 1, 1)]),
    "Range": ("Range(a, b, c)", [START, END, STEP]),
    "Range of floats": ("Range(a, b, c)", list(map(array, "abc", (0, 1e15, 1)))),
    "Range of ONNX Runtime": ("com.microsoft.Range(a, b, c)", [START, END, STEP]),
    "Pad of ONNX Runtime": ("com.microsoft.Pad(x, s)", [ints("s", 0, 0, 2**20, 2**20, 0, 0, 0, 0)]),
    "FusedMatMul of one weight read in two ways": ("com.microsoft.FusedMatMul<transA = 1>(v, v)", [LINE]),
    "Resize by scales": ('Resize(x, "", s)', [SCALES]),
    "Resize by sizes": ('Resize(x, "", "", s)', [SIZES]),
    "Resize-10": ("Resize(x, s)", [SCALES], 10),
    "Upsample-9": ("Upsample(x, s)", [SCALES], 9),
    "Upsample-7": ("Upsample<scales = [1.0, 1.0, 1e5, 1e5]>(x)", [], 7),
    "Pad": ("Pad(x, s)", [ints("s", 0, 0, 0, 0, 0, 0, 2**30, 2**30)]),
    "Pad-2": (f"Pad<pads = [0, 0, {2**31}, 0, 0, 0, 0, 0]>(x)", [], 10),
    "Conv pads": (f"Conv<pads = {[2**20] * 4}>(x, w)", [ONE]),
    "ConvTranspose strides": (f"ConvTranspose<strides = {[2**20] * 2}>(x, w)", [ONE]),
    "ConvTranspose output_shape": (f"ConvTranspose<output_shape = {[2**20] * 2}>(x, w)", [ONE]),
    "AveragePool pads": (f"AveragePool<kernel_shape = {[2**20 + 1] * 2}, pads = {[2**20] * 4}>(x)", []),
    "OneHot": ("OneHot(i, d, v)", [ints("i", *range(4)), ints("d", 2**33), array("v", [0.0, 1.0])]),
    "RandomNormal": (f"RandomNormal<shape = {[2**20] * 2}>()", []),
    "RandomUniform": (f"RandomUniform<shape = {[2**33]}>()", []),
    "Broadcast": ("Add(w, v)", [COLUMN, LINE]),
    "Outer product": ("MatMul(w, v)", [COLUMN, LINE]),
    "Einsum": ('Einsum<equation = "i,j->ij">(w, v)', [array(name, np.zeros(WIDE)) for name in "wv"]),
    "Gather": ("Gather(w, i)", [array("w", np.zeros((2, WIDE))), array("i", np.zeros(WIDE), np.int64)]),
    "Window": ("HannWindow(n)", [array("n", 2**40, np.int64)]),
    "CenterCropPad": ("CenterCropPad(x, s)", [SIZES], 18),
    "MaxUnpool": (
        "MaxUnpool<kernel_shape = [1, 1]>(x, i, s)",
        [array("i", np.zeros((1, 1, 4, 4)), np.int64), SIZES],
    ),
}


def bomb(text, weights=(), opset=17, **more):
    return model(
        f"[bomb] y = {text}", weights, opset=opset, shape=(1, 1, 4, 4), imports=[("com.microsoft", 1)], **more
    )


@pytest.mark.parametrize("name", BOMBS)
def test_operators_that_make_something_huge(name):
    proto = bomb(*BOMBS[name])
    if name == "Range":  # ONNX Runtime refuses an output that is declared to be of another type
        proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    limited(proto, "tensor_elements", "'bomb'")
    # With the limit lifted it loads: nothing was allocated for the check.
    load(proto, limits=Limits(tensor_elements=2**62, total_elements=2**62))


def test_a_range_beyond_64_bits():
    """Of which ONNX's inference makes any number."""
    limited(bomb("Range(a, b, c)", list(map(array, "abc", (0, 1e30, 1e-30)))), "tensor_elements")


COMPUTED = """
    s = Shape(x) four = Gather(s, two) m = Mul(four, big) u = Unsqueeze(m, zero) both = Concat<axis = 0>(u, u)
    [bomb] y = ConstantOfShape(both)
"""
COMPUTED_OF = [array("two", 2, np.int64), array("big", 2**16, np.int64), ints("zero", 0)]
INSIDE = "[bomb] b = ConstantOfShape(s)"
DRAWN = local("f <size> (a) => (b) { [bomb] b = RandomNormal<shape: ints = @size>() }")
HIDDEN = {  # where the size of what is made is not that easily seen
    "out of other shapes": (COMPUTED, COMPUTED_OF, []),
    "a value": (f"s = Constant<value = int64[1] {{{2**33}}}>() [bomb] y = ConstantOfShape(s)", [], []),
    "a value of integers": (f"s = Constant<value_ints = [{2**33}]>() [bomb] y = ConstantOfShape(s)", [], []),
    "in a subgraph": (choice(INSIDE), [TRUE, ints("s", 2**33)], []),
    "in a function": ("y = local.f(big)", [ints("big", 2**33)], [local(f"f (s) => (b) {{ {INSIDE} }}")]),
    "handed to a function": (f"y = local.f<size = [{2**33}]>(x)", [], [DRAWN]),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_a_size_that_is_found_elsewhere(name):
    text, weights, functions = HIDDEN[name]
    proto = model(text, weights, functions=functions, shape=(1, 1, 4, 4))
    limited(proto, "tensor_elements", "'bomb'")
    # Listed in another order it is the same.
    limited(
        model(list(proto.graph.node)[::-1], weights, functions=functions, shape=(1, 1, 4, 4)),
        "tensor_elements",
    )


def test_doubling():
    """Each Concat joins the last value with itself."""
    text = " ".join(
        f"v{n + 1} = Concat<axis = 1>({', '.join([f'v{n}' if n else 'x'] * 2)})" for n in range(40)
    )
    limited(model(text, outputs=("v40",)), "tensor_elements", "'Concat'")


def test_many_large_constants():
    """Each is allowed, together they are 2^35 elements that ONNX Runtime would fold into the model."""
    text = " ".join(f"v{n} = ConstantOfShape(s)" for n in range(32))
    text += f" y = Sum({', '.join(f'v{n}' for n in range(32))})"
    limited(model(text, [ints("s", 2**30)]), "total_elements")


def test_sizes_that_depend_on_the_input_are_not_refused():
    text = "s = Shape(x) m = Mul(s, big) y = Expand(x, m)"
    load(model(text, [array("big", 2**10, np.int64)], shape=("N", "C", "H", "W")))


# --- by time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["true", "kept"])
@pytest.mark.parametrize("trips", [2**62, 2**63 - 1, 10**7, None])
def test_a_loop_of_very_many_trips(condition, trips):
    limited(hostile.loop(trips, condition=condition), "loop_trips", "'loop'" if trips else "never ends")


def test_a_loop_of_very_many_trips_unless_its_data_ends_it():
    limited(hostile.loop(2**62, condition="data"), "loop_trips")
    # This is how exporters write a while loop; a run has its own limit.
    load(hostile.loop(2**63 - 1, condition="data"))
    load(hostile.loop(None, condition="data"))
    load(hostile.loop(10**6))


def test_loops_within_loops():
    inner = (
        "int64 j, bool more, float[] s) => (bool more2, float[] t) { t = Identity(s) more2 = Identity(more) }"
    )
    body = f"next = Loop<body = inner ({inner}>(many, cond, state)"
    many = [array("many", 2000, np.int64)]
    limited(hostile.loop(2000, body=body, weights=many), "loop_trips", str(2000 * 2000))
    load(hostile.loop(400, body=body, weights=many))


def test_a_loop_that_stacks_something_huge():
    proto = hostile.loop(
        2**12, body="next = Identity(state) slab = ConstantOfShape(s)", weights=[ints("s", 2**20)]
    )
    proto.graph.node[0].attribute[0].g.output.append(hostile.value("slab"))
    proto.graph.node[0].output.append("stack")
    limited(proto, "tensor_elements", "'loop'")


def test_a_scan():
    text = "[scan] y = Scan<num_scan_inputs = 1, body = b (float[] i) => (float[] o) { o = ConstantOfShape(s) }>(w)"
    rows = array("w", np.zeros(2**12))
    limited(model(text, [rows, ints("s", 2**20)]), "tensor_elements", "'scan'")
    limited(model(text, [rows, ints("s", 1)]), "loop_trips", "4096 trips", limits=Limits(loop_trips=4000))


# --- the limits themselves --------------------------------------------------------------------


def test_without_limits_what_is_only_large_loads():
    limits = Limits.unlimited()
    for proto in (hostile.loop(2**62), bomb(*BOMBS["Expand"]), hostile.nested_ifs(15), hostile.laughs(4)):
        assert isinstance(load(proto, limits=limits).model, ir.Model)


def test_the_flag_that_an_error_names_lets_the_model_pass():
    """As a user would: add each flag that is asked for, until the model loads."""
    proto = hostile.laughs(3)
    limits, flags = Limits(nodes=10, function_depth=1, tensors=1, messages=5), []
    for _ in range(10):
        try:
            load(proto, limits=limits)
            break
        except LimitExceeded as error:
            flags.append(re.search(r"onnxviz\.Limits.*?(\w+=[\w.]+)", str(error))[1])
            limits = Limits.parse(flags, limits)
    else:
        pytest.fail(f"still refused with {flags}")
    assert len(flags) >= 2
