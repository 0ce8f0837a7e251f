"""Small graphs, one with state, one without an end; and the host's memory in the place of a card's."""

import onnx.parser
import onnx_ir as ir

from onnxviz.graph.tape import Tape
from onnxviz.runtime import providers


def counter() -> ir.Model:
    """x.next = x + by; total = the sum of x."""
    values = [
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))
        for name, shape in (("x", (2, 3)), ("by", ()))
    ]
    graph = ir.Graph(values, [], nodes=[], name="g", opset_imports={"": 18})
    op = Tape(graph)
    following, total = op.Add(values[0], values[1]), op.ReduceSum(values[0], keepdims=0)
    following.name, total.name = "x.next", "total"
    following.shape, total.shape = ir.Shape((2, 3)), ir.Shape(())
    graph.outputs.extend([following, total])
    return ir.Model(graph, ir_version=8)


def on_host(monkeypatch, program):
    """CUDA's path on the CPU: a list of what is moved to the card, (shape, device), and ONNX Runtime's own class."""
    real = program._ort.OrtValue
    moved = []

    class OnHost(real):
        @staticmethod
        def ortvalue_from_numpy(array, device="cpu", index=0):
            moved.append((array.shape, device))
            return real.ortvalue_from_numpy(array)

    monkeypatch.setattr(program, "provider", providers.CUDA)
    monkeypatch.setattr(program._ort, "OrtValue", OnHost)
    return moved, real


def parsed(graph: str) -> ir.Model:
    """A graph, written in ONNX's text form."""
    return ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {graph}'))


def endless() -> ir.Model:
    """Short operators without an end."""
    return parsed("""
        endless (float[1000] x) => (float[1000] y) <int64 n = {4611686018427387904}> {
            y = Loop (n, , x) <body = body (int64 i, bool c, float[1000] v) => (bool c2, float[1000] v2) {
                c2 = Identity (c)
                v2 = Sin (v)
            }>
        }
    """)
