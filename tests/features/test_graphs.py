import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import UnknownLayer, UsageError


def test_the_gradient_model_is_standard_closed_and_right(net, cat):
    proto = onnxviz.gradient_model("efficientnet-lite0")
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert [value.name for value in proto.graph.input] == ["image", "logits.cotangent"]
    assert [value.name for value in proto.graph.output] == ["logits", "image.gradient"]
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.concatenate([net.prepare(cat)] * 2)
    cotangent = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    logits, gradient = session.run(None, {"image": x, "logits.cotangent": cotangent})
    np.testing.assert_allclose(logits, net.run(x, ["logits"])["logits"], rtol=1e-3, atol=1e-4)
    # The gradient is linear in the cotangent, and images do not see each other.
    one = np.zeros_like(cotangent)
    one[0] = cotangent[0]
    first = session.run(["image.gradient"], {"image": x, "logits.cotangent": one})[0]
    assert not first[1].any()
    np.testing.assert_allclose(first[0], gradient[0], rtol=1e-4, atol=1e-6)


def test_value_and_gradient_agree_with_a_small_step(net, cat):
    vg = net.value_and_gradient(onnxviz.objectives.logit(285))
    x = net.prepare(cat)
    value, gradient = vg(x)
    assert (value.shape, gradient.shape, value.dtype, gradient.dtype) == (
        (1,),
        x.shape,
        np.float32,
        np.float32,
    )
    np.testing.assert_allclose(value[0], net.run(x, ["logits"])["logits"][0, 285], rtol=1e-4)
    step = 1e-3 * gradient / np.linalg.norm(gradient)
    up, down = vg(x + step)[0][0], vg(x - step)[0][0]
    np.testing.assert_allclose((up - down) / 2e-3, np.linalg.norm(gradient), rtol=0.1)


def test_the_command_writes_a_model(tmp_path):
    out = tmp_path / "g.onnx"
    assert run(["gradient", "efficientnet-lite0", "--rules", "guided", "-o", str(out), "--quiet"]) == 0
    onnx.checker.check_model(onnx.load(out), full_check=True)


@pytest.mark.parametrize(
    ("options", "error"), [({"of": "logit"}, UnknownLayer), ({"rules": "magic"}, UsageError)]
)
def test_wrong_names_are_typed_errors(options, error):
    with pytest.raises(error):
        onnxviz.gradient_model("efficientnet-lite0", **options)


def test_inspect_tells_which_operators_have_rules(net):
    found = onnxviz.inspect(net)
    assert found.gradients
    assert all(found.gradients.values())
    assert "gradients   every operator has a rule" in found.lines()
