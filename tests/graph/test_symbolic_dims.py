"""Names for lengths that only the run will tell."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from networks import Maker

from onnxviz.graph.naming import taken_apart
from onnxviz.graph.shapes import infer


def shapes(m: Maker, last: str, shape: tuple) -> dict[str, list]:
    model = ir.from_proto(m.model({"image": shape}, {last: None}, ir=9))
    infer(model)
    found = {}
    for node in model.graph:
        value = node.outputs[0]
        found[value.name] = [d if isinstance(d, int) else d.value for d in value.shape]
    return found


def test_both_sides_of_a_residual_have_one_shape() -> None:
    m = Maker(opset=18)
    stem = m("Conv", "image", m.random(8, 3, 3, 3), strides=[2, 2], pads=[1] * 4)
    branch = m("Relu", m("Conv", stem, m.random(8, 8, 3, 3), pads=[1] * 4))
    total = m("Add", stem, branch)
    pooled = m("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2])
    joined = m("Concat", pooled, pooled, axis=1)
    found = shapes(m, joined, ("N", 3, "H", "W"))
    assert found[stem] == found[branch] == found[total] == ["N", 8, "((H-1)//2+1)", "((W-1)//2+1)"]
    assert found[joined] == ["N", 16, "((((H-1)//2+1)-2)//2+1)", "((((W-1)//2+1)-2)//2+1)"]


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(1, 1, 0), (3, 2, 1), (3, 1, 0), (5, 3, 1), (2, 2, 0)])
@pytest.mark.parametrize("size", [11, 12, 13])
def test_the_formula_is_right(kernel, stride, pad, size) -> None:
    def length(height):
        m = Maker(opset=18)
        weights = m.random(8, 3, kernel, kernel)
        y = m("Conv", "image", weights, strides=[stride] * 2, pads=[pad] * 4)
        return shapes(m, y, ("N", 3, height, 12))[y][2]

    name = str(length("H"))
    assert eval(name, {"H": size}) == length(size)
    inner, extra, step = taken_apart(name) or ("H", 0, 0)
    assert inner == "H"
    assert (size + extra if step == 0 else (size + extra) // step + 1) == length(size)


def test_what_cannot_be_told_has_no_name() -> None:
    """A broadcast between two unlike names, a ceil_mode, a Resize to a size of the run."""
    m = Maker(opset=18)
    pooled = m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    other = m("Conv", "image", m.random(3, 3, 2, 2), strides=[2, 2])
    total = m("Add", pooled, other)
    found = shapes(m, total, ("N", 3, "H", "W"))
    assert found[pooled][2:] == [None, None]
    assert found[total][2:] == [None, None]
    assert found[other][0] == "N"


def test_a_name_of_its_own_is_not_taken_apart() -> None:
    assert taken_apart("H") is None
    assert taken_apart("batch+1") is None
    assert taken_apart("((((H-1)//2+1)-2)//2+1)") == ("((H-1)//2+1)", -2, 2)
