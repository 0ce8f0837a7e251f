"""Networks in a process of their own: the same numbers, and a model that dies there leaves its caller alive."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxviz


def small(text: str = "", outputs: str = "y") -> bytes:
    """A small classifier: a convolution, a pool, a dense layer."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3, 16, 16] x) => (float[N, 5] y)
        <float[8, 3, 3, 3] w = {}, float[8, 5] d = {}>
        {
            c = Conv<pads = [1, 1, 1, 1]>(x, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            y = MatMul(f, d)
        }
        """
    )
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = rng.standard_normal(list(tensor.dims), np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def pair():
    options = {"provider": "cpu", "preprocess": "imagenet", "mean": [0.5] * 3, "std": [0.2] * 3}
    isolated = onnxviz.load(small(), isolate=True, **options)
    yield onnxviz.load(small(), **options), isolated
    isolated.close()


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)


def test_the_same_numbers_as_in_this_process(pair, photo):
    plain, isolated = pair
    assert isolated.predict(photo) == plain.predict(photo)
    for name, array in plain.activations([photo, photo[::-1]], ["c", "p"]).items():
        assert np.array_equal(isolated.activations([photo, photo[::-1]], [name])[name], array)
