"""The perceptual loss of a network: how far pictures are from a style's statistics and from their content's features.

Johnson, Alahi & Fei-Fei 2016, arXiv:1603.08155. Both parts are relative errors (`objectives.likeness`), so that the
same weights do for any network: 1 means as far away as nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.image.adjoint import pixel_gradient
from onnxviz.objectives.base import Objective, fed, objective
from onnxviz.objectives.likeness import gram_of, means_of, texture
from onnxviz.synthesis.style_layers import content_layer, style_layers
from onnxviz.synthesis.style_terms import Weighted, style_terms

if TYPE_CHECKING:
    from onnxviz.network import Network

_TINY = 1e-12


def near_fed(layer: str) -> Objective:
    """Minus the relative squared error of a layer to activations that are fed as `<layer>.content`, one a picture."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        rank = 4 if value.shape is None else len(value.shape)
        wanted = fed(
            op, f"{layer}.content", ir.DataType.FLOAT, ["N", *(f"content{i}" for i in range(1, rank))]
        )
        gap = op.Sub(value, wanted)
        squares = op.ReduceSum(op.Flatten(op.Mul(gap, gap), axis=1), [1], keepdims=0)
        size = op.ReduceSum(op.Flatten(op.Mul(wanted, wanted), axis=1), [1], keepdims=0)
        return op.Neg(op.Div(squares, op.Add(size, _TINY)))

    return objective(f"near({layer})", layer, build)


def _colours(net: Network, style: np.ndarray) -> Objective:
    """Minus the relative distance of the colours' covariances and means to those of a picture (H, W, 3), 0 to 1.

    What a network made for telling things apart does not look at, such as how red black may become, it lets happen.
    """
    last = net.preprocessing.layout == "NHWC"
    x = net.preprocessing.normalise(np.asarray(style, np.float32)[None] * np.float32(255))
    centre = means_of(x.astype(np.float32), channels_last=last)
    target = gram_of(x.astype(np.float32), centre, channels_last=last)
    return texture(net.input.name, target, centre, channels_last=last)


class PerceptualLoss:
    """Called with content pictures, it gives the loss of painted ones and its gradient by their pixels.

    net            of the size that the pictures have
    style          (H, W, 3) float, 0 to 1
    style_names, content_names   layers with their weights; None: `style_layers`, `content_layer`
    gram            Gram matrices 'uncentred' (the paper's) or 'centred' on the style's means
    colour_weight   of the statistics of the style's colours themselves, beside those of the layers
    raises         UnknownLayer, UsageError, ImageRejected, ModelUnsuitable, UnsupportedOperator
    """

    def __init__(
        self,
        net: Network,
        style: np.ndarray,
        *,
        style_names: Sequence[str] | Mapping[str, float] | None = None,
        content_names: Sequence[str] | Mapping[str, float] | None = None,
        gram: str = "uncentred",
        style_weight: float = 1.0,
        content_weight: float = 1.0,
        colour_weight: float = 0.0,
    ) -> None:
        self._net = net
        self.style = Weighted.of(net, style_names, style_layers(net), "the style layers")
        self.content = Weighted.of(net, content_names, [content_layer(net)], "the content layers")
        self._weight = content_weight
        total = style_terms(net, [(style, 1.0)], self.style, style_weight, gram=gram)
        if colour_weight:
            total = total + colour_weight * _colours(net, style)
        for name, weight in self.content.weights.items():
            total = total + content_weight * weight * near_fed(name)
        self._gradients = net.gradients(total, also=self.content.names)
        self.parts = (0.0, 0.0)

    def __call__(self, pictures: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The loss function for the painted versions of pictures (N, h, w, 3) of 0 to 255.

        It takes (N, h, w, 3) float32 of 0 to 255 and gives the losses (N,) and their gradients (N, h, w, 3). `parts`
        then has the means of its style and content terms.
        """
        recipe = self._net.preprocessing
        given = self._net.run(recipe.normalise(pictures).astype(np.float32), self.content.names)
        fed_arrays = {f"{name}.content": given[name].astype(np.float32) for name in self.content.names}

        def loss(painted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            arrays = self._gradients(recipe.normalise(painted).astype(np.float32), fed_arrays)
            values = -arrays["objective"]
            content = np.zeros(len(values))
            for name, weight in self.content.weights.items():
                wanted = given[name].astype(np.float64)
                axes = tuple(range(1, wanted.ndim))
                squares = ((arrays[name] - wanted) ** 2).sum(axis=axes)
                content += self._weight * weight * squares / ((wanted**2).sum(axis=axes) + _TINY)
            self.parts = (float((values - content).mean()), float(content.mean()))
            return values, -pixel_gradient(recipe, arrays[f"{self._net.input.name}.gradient"])

        return loss
