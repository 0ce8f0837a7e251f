"""`fool` on networks of every form: what it reports is what the network says of the saved picture."""

from __future__ import annotations

import numpy as np
import pytest
from networks import fp16, nhwc, qdq, static_batch, tiny_cnn

import onnxviz

FORMS = {
    "static batch": lambda: (static_batch(batch=2), {}),
    "nhwc": lambda: (nhwc(), {"preprocess": "tensorflow"}),
    "uint8": lambda: (tiny_cnn(uint8=True), {"preprocess": "uint8"}),
    "fp16": lambda: (fp16(tiny_cnn()), {}),
    "int8": lambda: (qdq(tiny_cnn()), {}),
    "grey": lambda: (tiny_cnn(channels=1), {"preprocess": "unit"}),
    "own size": lambda: (tiny_cnn(size=("H", "W")), {"preprocess": "unit"}),
    "padded": lambda: (tiny_cnn(), {"preprocess": onnxviz.Preprocessing((32, 32), resize="pad")}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_report_is_true(form, cat, tmp_path):
    model, options = FORMS[form]()
    net = onnxviz.load(model, provider="cpu", **options)
    for method in ("gradient", "pgd"):
        result = onnxviz.fool(net, cat[:60, 40:130], method=method, steps=30 if method == "gradient" else 5)
        (outcome,) = result.outcomes
        assert outcome.l2 > 0
        assert outcome.target_after > outcome.target_before
        path = result.files(result.save(tmp_path / f"{method}.png"))[0]
        (best,) = net.predict(path, top=1)[0]
        assert best.index == outcome.top
        assert best.probability == pytest.approx(outcome.top_after, abs=1e-4)
        seen = net.pictures(path)[0]
        np.testing.assert_array_equal(seen, result.values[0])
        if form == "grey":
            assert (seen == seen[..., :1]).all()
