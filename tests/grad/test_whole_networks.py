"""Whole networks against torch autograd: relative error, or cosine where single units flip at rounding level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxviz import objectives
from onnxviz.grad.model import gradient_model, value_and_gradient
from tests import networks
from tests.grad import torch_graph
from tests.grad.oracle import agree, differentiated, session

torch.set_num_threads(1)


def differences(
    model: onnx.ModelProto, x: np.ndarray, cotangent: Any, built: onnx.ModelProto, **tolerance
) -> Any:
    """The scores are torch's; both gradients, with the cotangent that the scores have."""
    source, output = model.graph.input[0].name, model.graph.output[0].name
    tensor = torch.tensor(x, requires_grad=True)
    y = torch_graph.run(model, {source: tensor})[output]
    g = cotangent(y)
    y.backward(g)
    scores, gradient = session(built).run(None, {source: x, f"{output}.cotangent": g.numpy()})
    np.testing.assert_allclose(scores, y.detach().numpy(), **tolerance)
    return gradient, tensor.grad.numpy()


def noise(y: torch.Tensor) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(2).standard_normal(tuple(y.shape)).astype(np.float32))


@pytest.mark.parametrize("name", networks.LIGHT)
def test_light(name: str) -> None:
    """Opset 9, IR version 3, static batch: gradient of one score by the image."""
    model = networks.light(name)
    source, output = model.graph.input[0], model.graph.output[0].name
    shape = [d.dim_value for d in source.type.tensor_type.shape.dim]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    built = differentiated(model, of=output, wrt=source.name)
    assert [v.name for v in built.graph.output] == [output, f"{source.name}.gradient"]
    assert {n.domain for n in built.graph.node} == {""}
    agree(*differences(model, x, noise, built, rtol=1e-3, atol=1e-5))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_dynamic_batch_and_size(batch: int) -> None:
    model = networks.tiny_cnn()
    loaded = ir.from_proto(model)
    for node in loaded.graph:  # a file need not declare what lies between
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    x = np.random.default_rng(batch).standard_normal((batch, 3, 32, 32)).astype(np.float32)
    agree(*differences(model, x, noise, ir.to_proto(gradient_model(loaded)), atol=1e-4))


def test_bundled_network_on_photos(photo_files) -> None:
    """The score of the top class of real photos, a batch of four."""
    from PIL import Image

    model = onnx.load(Path(__file__).parents[2] / "models" / "efficientnet-lite0.onnx")
    pictures = [Image.open(path).convert("RGB").resize((224, 224)) for path in photo_files]
    x = np.stack([(np.asarray(p, np.float32).transpose(2, 0, 1) - 127) / 128 for p in pictures])

    def top(y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(y.argmax(1), y.shape[1]).float()

    for found, expected in zip(*differences(model, x, top, differentiated(model), atol=1e-3), strict=True):
        agree(found, expected)


def _exported(name: str, classic: bool, folder: Path) -> tuple[torch.nn.Module, onnx.ModelProto]:
    """A small network of transformers with random weights, exported by one of torch's two exporters."""
    import transformers

    small = {
        "ResNet": {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 2, 1, 1]},
        "ConvNext": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]},
        "MobileNetV2": {"depth_multiplier": 0.35},
    }[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(num_labels=10, **small)
    inner = getattr(transformers, f"{name}ForImageClassification")(config).eval()
    for module in inner.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.inner(image).logits

    net, path = Logits().eval(), folder / "net.onnx"
    names = {"input_names": ["image"], "output_names": ["logits"]}
    example = (torch.randn(2, 3, 96, 96),)
    how: dict[str, Any] = {"dynamic_axes": {"image": {0: "N"}, "logits": {0: "N"}}}
    if not classic:
        how = {"dynamic_shapes": ({0: "N"},), "external_data": False, "verbose": False}
    torch.onnx.export(net, example, path, dynamo=not classic, **how, **names)
    return net, onnx.load(path)


@pytest.mark.parametrize("classic", [False, True], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ["ResNet", "ConvNext", "MobileNetV2"])
@pytest.mark.filterwarnings("ignore")
def test_exported(name: str, classic: bool, tmp_path: Path) -> None:
    """Residuals, LayerNormalization with Gelu, depthwise convolutions with asymmetric pads; batch 1 and 3."""
    net, model = _exported(name, classic, tmp_path)
    engine = session(differentiated(model))
    for batch in (1, 3):
        image = torch.randn(batch, 3, 96, 96, requires_grad=True)
        y = net(image)
        cotangent = torch.randn_like(y)
        (expected,) = torch.autograd.grad((y * cotangent).sum(), image)
        feeds = {"image": image.detach().numpy(), "logits.cotangent": cotangent.numpy()}
        agree(engine.run(["image.gradient"], feeds)[0], expected.numpy())


def test_only_what_is_needed_is_kept() -> None:
    """The gradient by a layer does not compute the layer's input side twice, nor what lies behind the objective."""
    model = ir.from_proto(networks.tiny_cnn())
    layer = next(n.outputs[0].name for n in model.graph if n.op_type == "Relu")
    built = value_and_gradient(model, objectives.l2(layer), layer)
    assert len(list(built.graph)) < len(list(model.graph)) + 12
    assert {n.op_type for n in built.graph}.isdisjoint({"Gemm"})
