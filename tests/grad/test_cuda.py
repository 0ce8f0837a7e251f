"""Backward graphs for other providers keep to what ONNX Runtime's CUDA provider has kernels for.

An operator that it lacks is computed on the CPU, and what it reads and gives is copied from the card and back. The list
of kernels is the provider's own (tools/cuda_kernels.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from onnxviz.errors import OnnxVizError
from onnxviz.grad.model import gradient_model
from onnxviz.grad.table import VJP_RULES
from tests import networks
from tests.grad.oracle import case, normal
from tests.grad.test_node_cases import cases, floats

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
import cuda_kernels

# Operators that rules emit though CUDA has no kernel for them: the forward operator has none either.
LACKING = {"Sinh": {"Cosh"}, "Cosh": {"Sinh"}, "AffineGrid": {"AffineGrid"}}


def backward(model: ir.Model) -> Iterator[ir.Node]:
    return (node for node in model.graph if "gradient/" in (node.name or ""))


def left_to_the_cpu(model: ir.Model) -> set[str]:
    """Backward operators without a kernel. Arithmetic on lengths is the CPU's on purpose: they lie there.

    What is newer than the table is opened by no released onnxruntime-gpu.
    """
    opset = model.graph.opset_imports[""]

    def kinds(values: object) -> list[str]:
        return [v.dtype.name.lower() if v is not None and v.dtype is not None else "" for v in values]  # type: ignore[attr-defined]

    found = set()
    for node in backward(model):
        inputs, outputs = kinds(node.inputs), kinds(node.outputs)
        lengths = {*inputs, *outputs} <= {"int64", "bool", ""}
        unknown = onnx.defs.get_schema(node.op_type, opset).since_version > cuda_kernels.newest()
        if not lengths and not unknown and not cuda_kernels.has_kernel(node.op_type, opset, inputs, outputs):
            found.add(node.op_type)
    return found


@pytest.mark.parametrize("operator", sorted(VJP_RULES))
def test_an_adjoint_is_computed_where_the_operator_is(operator: str) -> None:
    for one in cases(operator):
        of = floats(one.model.graph.output)[0]
        for value in floats(one.model.graph.input):
            try:
                made = gradient_model(ir.from_proto(one.model), of=of, wrt=value)
            except OnnxVizError:
                continue
            assert left_to_the_cpu(made) <= LACKING.get(operator, set()), one.name


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17, 19, 21, 22])
def test_in_every_opset(opset: int) -> None:
    model = onnx.version_converter.convert_version(networks.bare("squeezenet"), opset)
    assert not left_to_the_cpu(gradient_model(ir.from_proto(model)))


@pytest.mark.parametrize("name", ["inception_v1", "densenet121", "shufflenet"])
def test_whole_networks(name: str) -> None:
    made = gradient_model(ir.from_proto(networks.bare(name)))
    assert sum(1 for _ in backward(made)) > 50
    assert not left_to_the_cpu(made)


@pytest.mark.parametrize("pads", [[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 1]])
def test_no_transposed_convolution_has_unequal_pads(pads: list[int]) -> None:
    """CUDA's kernel takes none; that the gradient is right is held by test_windows."""
    conv = case("Conv", x=normal(1, 3, 8, 8), w=normal(4, 3, 3, 3), constant="w", pads=pads, strides=[2, 2])
    made = gradient_model(ir.from_proto(conv.model()))
    (found,) = [one for one in backward(made) if one.op_type == "ConvTranspose"]
    given = found.attributes["pads"].as_ints()
    assert given[:2] == given[2:]


def test_the_table_is_read_as_onnx_runtime_reads_it() -> None:
    """A kernel with an end serves all versions within, one without serves the version that it names."""
    has = cuda_kernels.has_kernel
    assert has("Conv", 18, ["float", "float"], ["float"])
    assert not has("Conv", 18, ["int8", "int8"], ["int8"])
    assert not has("Cosh", 18, ["float"], ["float"])
    assert has("ReduceProd", 18, ["int32"], ["int32"])
    assert not has("ReduceProd", 18, ["int64"], ["int64"])
    (newest,) = [one for one in cuda_kernels.kernels()["Relu"] if one.last == cuda_kernels.ANY]
    assert has("Relu", newest.first, ["float"], ["float"])
