import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.errors import OutputRefused
from onnxviz.graph.metadata import save
from tests.networks import from_nodes, node


@pytest.fixture
def model():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes, shapes = [node("Conv", ["x", "w"], ["y"])], ({"x": (1, 3, 8, 8)}, {"y": (1, 4, 6, 6)})
    return ir.from_proto(from_nodes(nodes, *shapes, {"w": weight}))


@pytest.mark.parametrize("limit", [1 << 30, 10])
def test_what_is_saved_loads_again_as_the_same(model, tmp_path, limit):
    path = save(model, tmp_path / "m.onnx", one_file_bytes=limit)
    assert (tmp_path / "m.onnx.data").exists() == (limit == 10)
    onnx.checker.check_model(path)
    weights = onnxviz.load(path).model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(weights, model.graph.initializers["w"].const_value.numpy())


def test_the_callers_model_keeps_its_weights(model, tmp_path):
    save(model, tmp_path / "m.onnx", one_file_bytes=10)
    assert isinstance(model.graph.initializers["w"].const_value.numpy(), np.ndarray)


def test_a_folder_is_no_file(model, tmp_path):
    with pytest.raises(OutputRefused):
        save(model, tmp_path)
