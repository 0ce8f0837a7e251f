"""Values for other inputs: repeated for each picture, pictures among them, in gradient files too."""

from __future__ import annotations

import hashlib

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, ModelUnsuitable, UsageError

RNG = np.random.default_rng(0)
SIDE = 8
PICTURES = RNG.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def alone(model, x, given="image", **fed):
    """What plain ONNX Runtime gives for each picture by itself."""
    return [session(model).run(None, {given: x[i : i + 1], **fed})[0][0] for i in range(len(x))]


def together(net) -> tuple[np.ndarray, np.ndarray]:
    """The pictures as its input, and the logits of all of them in one run."""
    x, logits = net.prepare(list(PICTURES)), net.head.logits
    return x, net.run(x, [logits], batch=3)[logits]


def joined(batch, other) -> onnx.ModelProto:
    """Features of the picture, with two numbers of its own laid beside them: nothing broadcasts there."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4))
    own = m("Relu", m("Gemm", "scale", m.random(2, 4), m.random(4)))
    x = m("Concat", m("Flatten", m("GlobalAveragePool", x)), own, axis=1)
    y = m("Gemm", x, m.random(10, 5), m.random(5))
    model = m.model({"image": (batch, 3, SIDE, SIDE), "scale": (other, 2)}, {y: (batch, 5)})
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(
    ("batch", "other"),
    [("N", "N"), ("N", None), (None, None), (1, 1)],
    ids=["named", "half", "nameless", "one"],
)
def test_a_value_for_one_picture_is_repeated(batch, other):
    model = joined(batch, other)
    net = onnxviz.load(model, feeds={"scale": [0.3, -1.2]}, input="image", provider="cpu")
    assert net.batched[1] is None
    x, logits = together(net)
    expected = alone(model, x, scale=np.array([[0.3, -1.2]], np.float32))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)
    found = onnxviz.saliency(net, list(PICTURES), target=2, batch=3)
    one = onnxviz.saliency(net, PICTURES[1], target=2)
    np.testing.assert_allclose(found[1].values, one.values, rtol=1e-4, atol=1e-8)
    assert not any("one at a time" in text for text in net.warnings)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1), (), (1, 3, 1, 1)])
@pytest.mark.parametrize("batch", ["N", 1])
def test_a_value_for_all_pictures(batch, shape):
    """What broadcasts is everybody's, whatever its first size."""
    m = networks.Maker()
    x = m("Conv", m("Mul", "image", "scale"), m.random(6, 3, 3, 3))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", m("Relu", x))), m.random(6, 5))
    model = m.model({"image": (batch, 3, SIDE, SIDE), "scale": shape}, {y: (batch, 5)})
    net = onnxviz.load(model, feeds={"scale": 2.0}, provider="cpu")
    x, logits = together(net)
    expected = alone(model, x, scale=np.full(shape, 2, np.float32))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-6)


def siamese(batch="N") -> onnx.ModelProto:
    """Two pictures, one of them grey and channels last."""
    m = networks.Maker()
    a = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", "left", m.random(6, 3, 3, 3)))))
    turned = m("Transpose", "right", perm=[0, 3, 1, 2])
    b = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", turned, m.random(6, 1, 3, 3)))))
    y = m("Gemm", m("Concat", a, b, m("Mul", a, b), axis=1), m.random(18, 4))
    return m.model({"left": (batch, 3, SIDE, SIDE), "right": (batch, 12, 10, 1)}, {y: (batch, 4)})


@pytest.mark.parametrize("batch", ["N", 1])
def test_two_pictures(batch, tmp_path):
    model = siamese(batch)
    other = Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    other.save(tmp_path / "other.png")
    grey = other.convert("L").resize((10, 12), Image.Resampling.BILINEAR)
    plane = (np.asarray(grey, np.float32) / 255)[None, :, :, None]
    np.save(tmp_path / "other.npy", plane)
    results = []
    for given in (tmp_path / "other.png", str(tmp_path / "other.png"), other, np.asarray(other), plane,
                  tmp_path / "other.npy"):  # fmt: skip
        net = onnxviz.load(model, input="left", feeds={"right": given}, preprocess="unit", provider="cpu")
        x, found = together(net)
        results.append(found)
    wanted = alone(model, x, "left", right=plane)
    for found in results:
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)
    net = onnxviz.load(model, input="right", feeds={"left": tmp_path / "other.png"}, provider="cpu")
    assert net.input.layout == "NHWC" and net.preprocessing.channels == "L"
    assert onnxviz.saliency(net, other, target=1).values.shape == (12, 10)


def test_gradient_files_of_several_inputs(tmp_path, capsys):
    """The value is inside, repeated for each picture; the gradient is that of the file with both inputs."""
    path = tmp_path / "joined.onnx"
    model = joined("N", "N")
    onnx.save(model, path)
    scale = np.array([[0.3, -1.2]], np.float32)
    out = model.graph.output[0].name
    x = RNG.standard_normal((3, 3, SIDE, SIDE)).astype(np.float32)
    g = np.eye(5, dtype=np.float32)[[1, 2, 3]]
    whole = onnxviz.gradient_model(model, input="image")
    assert {value.name for value in whole.graph.input} == {"image", "scale", f"{out}.cotangent"}
    feeds = {"image": x, "scale": np.repeat(scale, 3, axis=0), f"{out}.cotangent": g}
    wanted = session(whole).run(["image.gradient"], feeds)[0]
    fed = onnxviz.gradient_model(model, feeds={"scale": scale})
    assert {value.name for value in fed.graph.input} == {"image", f"{out}.cotangent"}
    onnx.checker.check_model(fed, full_check=True)
    target = tmp_path / "g.onnx"
    assert run(["gradient", str(path), "--feed", "scale=0.3,-1.2", "-o", str(target)]) == 0
    for made in (fed, onnx.load(target)):
        found = session(made).run(["image.gradient"], {"image": x, f"{out}.cotangent": g})[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
    assert run(["gradient", str(path), "--input", "image", "-o", str(target)]) == 0
    assert "scale" in capsys.readouterr().out
    assert run(["gradient", str(path), "--feed", "sale=1", "-o", str(target)]) == 2
    assert "did you mean 'scale'" in capsys.readouterr().err


def test_pictures_on_the_command_line(tmp_path, capsys):
    path, left, right = tmp_path / "two.onnx", tmp_path / "left.png", tmp_path / "right.png"
    onnx.save(siamese(), path)
    for file, side in ((left, 30), (right, 20)):
        Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file)
    target = tmp_path / "s.png"
    args = [str(path), str(left), "--input", "left", "-t", "1", "-o", str(target)]
    assert run(["saliency", *args, "--feed", f"right={right}"]) == 0
    net = onnxviz.load(path, input="left", feeds={"right": right}, provider="cpu")
    np.testing.assert_allclose(
        np.load(target.with_suffix(".npy")), onnxviz.saliency(net, left, target=1).values, rtol=1e-5
    )
    np.save(tmp_path / "small.npy", np.zeros((3, 3), np.float32))
    for value, code, words in (
        ("none.png", 3, "no such file"),
        ("1,x", 2, "numbers"),
        (str(tmp_path / "small.npy"), 2, "small.npy for input right (float"),
    ):
        assert run(["saliency", *args, "--feed", f"right={value}"]) == code
        assert words in capsys.readouterr().err


def test_values_that_do_not_fit():
    model = joined("N", "N")
    for value, words in (
        ([1.0, 2.0, 3.0], r"scale.*does not fit"),
        (np.zeros((1, 3), np.float32), "shape"),
        ("photo.jpg", r"photo\.jpg for input scale .*takes no picture"),
        (Image.new("RGB", (4, 4)), "takes no picture"),
    ):
        with pytest.raises(UsageError, match=words):
            onnxviz.load(model, feeds={"scale": value}, input="image")
    with pytest.raises(ImageRejected, match="no such file"):
        onnxviz.load(siamese(), input="left", feeds={"right": "nowhere.jpg"})
    whole = joined("N", "N")
    whole.graph.input[1].type.tensor_type.elem_type = TensorProto.INT64
    (reader,) = [node for node in whole.graph.node if "scale" in node.input]
    reader.input[0] = "scale/float"
    whole.graph.node.insert(0, helper.make_node("Cast", ["scale"], ["scale/float"], to=TensorProto.FLOAT))
    with pytest.raises(UsageError, match="no whole numbers"):
        onnxviz.load(whole, feeds={"scale": [0.5, 1]}, input="image")


def test_manifests_name_what_is_fed(tmp_path):
    path = tmp_path / "other.png"
    Image.fromarray(PICTURES[1]).save(path)
    net = onnxviz.load(siamese(), input="left", feeds={"right": path}, preprocess="unit", provider="cpu")
    (fed,) = net.manifest("x")["fed"]
    assert (fed["input"], fed["path"]) == ("right", str(path))
    assert fed["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = net.model.graph.initializers["right"].const_value.numpy()
    assert fed["tensor"]["shape"] == [1, 12, 10, 1]
    assert fed["tensor"]["sha256"] == hashlib.sha256(wanted.tobytes()).hexdigest()
    numbers = onnxviz.load(joined("N", "N"), feeds={"scale": [0.5, 1.0]}, input="image", provider="cpu")
    assert numbers.manifest("x")["fed"][0]["value"] == [[0.5, 1.0]]
    assert "fed" not in onnxviz.load(networks.tiny_cnn(), provider="cpu").manifest("x")


@pytest.mark.parametrize("shape", [("N", 0, 8, 8), ("N", 3, 0, 8), ("N", 3, 8, 0), (0, 3, 8, 8)])
def test_an_input_of_no_numbers(shape):
    m = networks.Maker()
    y = m("Flatten", m("GlobalAveragePool", "x"))
    with pytest.raises(ModelUnsuitable, match="one of its sizes is 0"):
        onnxviz.load(m.model({"x": shape}, {y: None}))
