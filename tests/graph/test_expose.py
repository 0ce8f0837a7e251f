"""Intermediate values as outputs."""

from __future__ import annotations

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import UnknownLayer
from onnxviz.graph.open.load import load
from onnxviz.graph.surgery import expose
from tests.graph.running import checked


def test_named_values_become_outputs_behind_the_models_own():
    model = load(tiny_cnn()).model
    before = ir.to_proto(model).SerializeToString()
    exposed = expose(model, ["relu2", "conv1", "relu2", "prob"])
    assert [v.name for v in exposed.graph.outputs] == ["prob", "relu2", "conv1"]
    found = checked(exposed, image=np.ones((2, 3, 32, 32), np.float32))
    assert found["relu2"].shape == (2, 16, 16, 16)
    assert (found["relu2"] >= 0).all()
    assert found["conv1"].min() < 0
    assert ir.to_proto(model).SerializeToString() == before


def test_all_float_values():
    exposed = expose(load(tiny_cnn()).model)
    assert len(exposed.graph.outputs) == 10
    assert all(v.dtype == ir.DataType.FLOAT and v.shape is not None for v in exposed.graph.outputs)
    assert checked(exposed, image=np.ones((1, 3, 32, 32), np.float32))["features"].shape == (1, 16)


def test_of_an_old_file_without_declared_types():
    exposed = expose(load(bare("squeezenet")).model)
    assert len(exposed.graph.outputs) == 66
    checked(exposed, data_0=np.ones((1, 3, 224, 224), np.float32))


@pytest.mark.parametrize("form", ["fp16", "qdq", "qoperator"])
def test_of_other_forms(form):
    model = load(getattr(networks, form)(networks.static_batch())).model
    dtype = np.float16 if form == "fp16" else np.float32
    coded = [one for one in model.graph if one.op_type in ("QuantizeLinear", "QLinearConv")]
    quantised = [v.name for one in coded for v in one.outputs]
    found = checked(expose(model, quantised or None), image=np.ones((1, 3, 32, 32), dtype))
    assert len(found) > 1
    if quantised:
        assert {a.dtype for name, a in found.items() if name in quantised} <= {np.dtype("u1"), np.dtype("i1")}


def test_an_input_and_a_weight_can_be_outputs():
    m = Maker()
    x = m("Mul", "image", m.constant(np.float32([2, 3]), "gain"))
    found = checked(expose(load(m.model({"image": ("N", 2)}, {x: ("N", 2)})).model, ["image", "gain"]),
                image=np.ones((1, 2), np.float32))  # fmt: skip
    np.testing.assert_array_equal(found["gain"], [2, 3])
    np.testing.assert_array_equal(found["image"], [[1, 1]])


def test_an_unknown_name():
    with pytest.raises(UnknownLayer, match="did you mean 'conv2'"):
        expose(load(tiny_cnn()).model, ["conv_2"])
