"""The attributions of one pass, as operators: each takes a scene and gives a map of the input's size, (N, H, W).

The same methods on arrays stand in onnxviz/attribution (saliency, cam); a test holds the two to one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import onnx_ir as ir

from onnxviz.explaining import cams
from onnxviz.explaining.scene import Scene
from onnxviz.grad.overrides import DECONVNET, GUIDED

Formula = Callable[[Any, ir.Value, ir.Value], ir.Value]


def saliency(scene: Scene) -> ir.Value:
    """The largest |gradient| of the colours (Simonyan 2014, arXiv:1312.6034)."""
    return _largest(scene, scene.gradient())


def gradient(scene: Scene) -> ir.Value:
    """The gradient, summed over the colours: signed."""
    return _sum(scene, scene.gradient())


def input_x_gradient(scene: Scene) -> ir.Value:
    """The gradient times the input, summed over the colours (Shrikumar 2016, arXiv:1605.01713)."""
    found = scene.gradient()
    return _sum(scene, scene.op.Mul(found, scene.input()))


def guided(scene: Scene) -> ir.Value:
    """Guided backpropagation, the largest magnitude of the colours (Springenberg 2015, arXiv:1412.6806)."""
    return _largest(scene, scene.gradient(GUIDED))


def deconvnet(scene: Scene) -> ir.Value:
    """As `guided`, whatever a unit did (Zeiler & Fergus 2014, arXiv:1311.2901)."""
    return _largest(scene, scene.gradient(DECONVNET))


def cam(formula: Formula) -> Technique:
    """A class activation map by this formula of activations and gradients."""

    def build(scene: Scene) -> ir.Value:
        activations, gradients = scene.layer()
        return _stretched(scene, formula(scene.op, activations, gradients))

    return Technique(build, layered=True)


def eigen_cam(scene: Scene) -> ir.Value:
    """The layer's first component, whatever the class (Muhammad & Yeasin 2020, arXiv:2008.00299)."""
    return _stretched(scene, cams.eigen_cam(scene.op, scene.activation()))


def guided_grad_cam(scene: Scene) -> ir.Value:
    """Guided backpropagation within the Grad-CAM map (Selvaraju 2017, arXiv:1610.02391)."""
    activations, gradients = scene.layer()
    place = _stretched(scene, cams.grad_cam(scene.op, activations, gradients))
    return scene.op.Mul(guided(scene), place)


def _largest(scene: Scene, found: ir.Value) -> ir.Value:
    return scene.op.ReduceMax(scene.op.Abs(found), [1], keepdims=0)


def _sum(scene: Scene, found: ir.Value) -> ir.Value:
    return scene.op.ReduceSum(found, [1], keepdims=0)


def _stretched(scene: Scene, maps: ir.Value) -> ir.Value:
    """What speaks for the class, from the layer's grid (N, h, w) to the input's, bilinearly."""
    op = scene.op
    planes = op.Unsqueeze(op.Relu(maps), [1])
    sizes = op.Concat(op.Shape(planes, end=2), scene.extent(), axis=0)
    planes = op.Resize(planes, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    return op.Squeeze(planes, [1])


class Technique(NamedTuple):
    """One attribution.

    build     scene -> (N, H, W)
    layered   whether it is made from a layer (`Scene.maps`)
    """

    build: Callable[[Scene], ir.Value]
    layered: bool = False


TECHNIQUES: Final[dict[str, Technique]] = {
    "saliency": Technique(saliency),
    "gradient": Technique(gradient),
    "input-x-gradient": Technique(input_x_gradient),
    "guided": Technique(guided),
    "deconvnet": Technique(deconvnet),
    "grad-cam": cam(cams.grad_cam),
    "grad-cam++": cam(cams.grad_cam_plus_plus),
    "layercam": cam(cams.layer_cam),
    "hirescam": cam(cams.hires_cam),
    "xgrad-cam": cam(cams.xgrad_cam),
    "eigencam": Technique(eigen_cam, layered=True),
    "guided-grad-cam": Technique(guided_grad_cam, layered=True),
}
