"""Feed-forward style networks: in torch, their training, and their form in ONNX. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from onnxviz._version import __version__
from onnxviz.errors import GradientNotFinite
from onnxviz.graph.tape import Tape

#: The output is centre + span · tanh, in grey levels: what the loss measures is what is shown, nothing is clipped.
CENTRE, SPAN = 127.5, 127.5


class Convolution(nn.Module):
    """Reflection padding, a convolution, and, unless it is the last, instance normalisation."""

    def __init__(
        self, given: int, made: int, side: int, *, stride: int = 1, up: int = 1, last: bool = False
    ) -> None:
        super().__init__()
        self.up, self.stride, self.pad = up, stride, side // 2
        self.convolution = nn.Conv2d(given, made, side, stride)
        self.norm = None if last else nn.InstanceNorm2d(made, affine=True)

    def forward(self, x: Any) -> Any:
        """(N, given, H, W) -> (N, made, H·up/stride, W·up/stride)"""
        if self.up > 1:
            x = nn.functional.interpolate(x, scale_factor=float(self.up), mode="nearest")
        x = self.convolution(nn.functional.pad(x, [self.pad] * 4, mode="reflect"))
        return x if self.norm is None else self.norm(x)


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3)
        self.second = Convolution(channels, channels, 3)

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> the same shape"""
        return x + self.second(torch.relu(self.first(x)))


class StyleNetwork(nn.Module):
    """From pictures (N, 3, H, W) of 0 to 255 to pictures in the trained style, 0 to 255.

    width    channels of the first layer; the residual blocks have four times as many
    blocks   residual blocks
    """

    def __init__(self, width: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        wide, widest = 2 * width, 4 * width
        first = Convolution(3, width, 9)  # weights are drawn in this order
        down = Convolution(width, wide, 3, stride=2), Convolution(wide, widest, 3, stride=2)
        self.down = nn.ModuleList([first, *down])
        self.middle = nn.ModuleList([Residual(widest) for _ in range(blocks)])
        self.up = nn.ModuleList([Convolution(widest, wide, 3, up=2), Convolution(wide, width, 3, up=2)])
        self.out = Convolution(width, 3, 9, last=True)

    def forward(self, x: Any) -> Any:
        """(N, 3, H, W) -> (N, 3, H', W'), each side the next multiple of four"""
        for layer in self.down:
            x = torch.relu(layer(x))
        for block in self.middle:
            x = block(x)
        for layer in self.up:
            x = torch.relu(layer(x))
        return CENTRE + SPAN * torch.tanh(self.out(x))


#: From a batch of pictures (N, h, w, 3) to what its painted versions lose: see `PerceptualLoss`.
LossOf = Callable[[np.ndarray], Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]


def fresh(width: int, blocks: int, seed: int) -> StyleNetwork:
    """An untrained network; the process's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleNetwork(width, blocks)


def train(
    network: StyleNetwork,
    batches: Iterator[np.ndarray],
    loss_of: LossOf,
    *,
    steps: int,
    rate: float,
    tv: float,
) -> Iterator[float]:
    """Adam on the perceptual loss of painted batches, plus total variation: what each step went down.

    batches   (N, h, w, 3) uint8 each
    loss_of   called with a batch before its painted version is measured
    tv        weight of the mean squared difference of neighbouring pixels, black to white being 1
    raises    GradientNotFinite, naming the step
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for index, batch in zip(range(steps), batches, strict=False):
        x = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).to(device, torch.float32)
        loss = loss_of(batch)
        optimiser.zero_grad()
        painted = network(x)[:, :, : x.shape[2], : x.shape[3]]
        feature = perceptual(painted, loss)
        rough = tv * _total_variation(painted / 255)
        total = feature + rough
        if not bool(torch.isfinite(total)):
            raise GradientNotFinite(
                f"the loss is not finite at step {index + 1}; try a smaller learning rate, or other layers"
            )
        total.backward()
        optimiser.step()
        yield float(feature.detach()) + float(rough.detach())
    network.eval()


def _total_variation(pictures: Any) -> Any:
    """As `objectives.tv` at beta = 2: over the places that have a neighbour below and one to the right."""
    here = pictures[:, :, :-1, :-1]
    below, right = pictures[:, :, 1:, :-1] - here, pictures[:, :, :-1, 1:] - here
    return (below * below + right * right).mean()


def paint(network: StyleNetwork, pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, h, w, 3) uint8 as the network paints them in torch: (N, 3, h', w') float32, 0 to 255."""
    device = next(network.parameters()).device
    was = network.training
    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device, torch.float32)
        result = np.asarray(network(x).clamp(0, 255).cpu().numpy())
    network.train(was)
    return result


#: From pictures (N, h, w, 3) float32 of 0 to 255 to the loss of each, (N,), and its gradient by them.
Loss = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class _Perceptual(torch.autograd.Function):
    """The mean loss of a batch of pictures."""

    @staticmethod
    def forward(ctx: Any, pictures: Any, loss: Loss) -> Any:
        """pictures (N, 3, h, w) -> scalar"""
        values, gradient = loss(np.ascontiguousarray(pictures.detach().cpu().numpy().transpose(0, 2, 3, 1)))
        back = np.ascontiguousarray(gradient.transpose(0, 3, 1, 2)) / len(values)
        ctx.save_for_backward(torch.from_numpy(back.astype(np.float32)).to(pictures.device))
        return pictures.new_tensor(float(values.mean(dtype=np.float64)))

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        """The saved gradient times what comes from behind."""
        (gradient,) = ctx.saved_tensors
        return outputs[0] * gradient, None


def perceptual(pictures: Any, loss: Loss) -> Any:
    """The mean loss of pictures (N, 3, h, w) of 0 to 255, a torch scalar that can be differentiated."""
    return _Perceptual.apply(pictures, loss)


_OPSET, _IR = 17, 8


def to_onnx(network: StyleNetwork) -> onnx.ModelProto:
    """The network from `image`, (N, 3, H, W) RGB of 0 to 255, to `styled`, the same kind, each side the next multiple
    of four, clipped to 0 to 255.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": _OPSET}, name="style")
    op = Tape(graph)

    def called(name: str, value: ir.Value) -> ir.Value:
        """The value, and the node that gives it, under this name."""
        node = value.producer()
        assert node is not None
        value.name = node.name = name
        return value

    def weight(name: str, values: Any) -> ir.Value:
        """A constant; torch tensors and arrays."""
        array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
        tensor = ir.tensor(np.asarray(array, order="C"), name=name)
        kind = ir.TensorType(tensor.dtype)
        held = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
        graph.register_initializer(held)
        return held

    def convolution(name: str, layer: Convolution, x: ir.Value) -> ir.Value:
        """Upsampling, padding, convolution and normalisation of one layer."""
        if layer.up > 1:
            scales = weight(f"{name}.scales", np.array([1, 1, layer.up, layer.up], np.float32))
            how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            x = called(f"{name}.larger", op.Resize(x, None, scales, mode="nearest", **how))
        p = layer.pad
        pads = weight(f"{name}.pads", np.array([0, 0, p, p, 0, 0, p, p], np.int64))
        x = called(f"{name}.padded", op.Pad(x, pads, mode="reflect"))
        kernel = weight(f"{name}.weight", layer.convolution.weight)
        bias = weight(f"{name}.bias", layer.convolution.bias)
        x = called(f"{name}.conv", op.Conv(x, kernel, bias, strides=[layer.stride] * 2))
        if layer.norm is None:
            return x
        norm = layer.norm
        scale, shift = weight(f"{name}.norm.scale", norm.weight), weight(f"{name}.norm.shift", norm.bias)
        normal = op.InstanceNormalization(x, scale, shift, epsilon=float(norm.eps))
        return called(f"{name}.norm", normal)

    x = op.input("image", ir.DataType.FLOAT, ["N", 3, "H", "W"])
    for place, layer in enumerate(network.down):
        x = called(f"down.{place}.relu", op.Relu(convolution(f"down.{place}", layer, x)))
    for place, block in enumerate(network.middle):
        name = f"block.{place}"
        y = called(f"{name}.first.relu", op.Relu(convolution(f"{name}.first", block.first, x)))
        x = called(name, op.Add(x, convolution(f"{name}.second", block.second, y)))
    for place, layer in enumerate(network.up):
        x = called(f"up.{place}.relu", op.Relu(convolution(f"up.{place}", layer, x)))
    x = called("out.tanh", op.Tanh(convolution("out", network.out, x)))
    x = called("out.span", op.Mul(x, weight("span", np.float32(SPAN))))
    x = called("out.centred", op.Add(x, weight("centre", np.float32(CENTRE))))
    x = called("styled", op.Clip(x, weight("black", np.float32(0)), weight("white", np.float32(255))))
    x.shape = ir.Shape(["N", 3, "height", "width"])
    graph.outputs.append(x)
    made = ir.Model(graph, ir_version=_IR, producer_name="onnxviz", producer_version=__version__)
    model: onnx.ModelProto = ir.to_proto(made)
    onnx.checker.check_model(model, full_check=True)
    return model
