"""The explainer: one ONNX file from a picture to a class and a heat map, to ship beside the model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxviz._version import __version__
from onnxviz.blame import judged
from onnxviz.errors import ModelUnsuitable, UsageError, near
from onnxviz.objectives import FED

if TYPE_CHECKING:
    import onnx

    from onnxviz.graph.layers import Layer
    from onnxviz.network import Network


def explainer_model(
    model: Network | str | os.PathLike[str] | bytes | Any,
    technique: str = "saliency",
    *,
    target: int | str | None = None,
    layer: str | None = None,
    fixed: bool = False,
    over: str = "input",
) -> onnx.ModelProto:
    """A model that takes pictures and gives each one's class and heat map: preprocessing, network, gradient and all.

    Every operator is of the standard domain, so the file runs on stock ONNX Runtime on any provider, in other
    languages, and in a browser. A batch of one picture that the network allows only stays; else any number goes.

    Inputs    image          (N, H, W, 3) uint8 RGB of any size; all pictures of a batch have the same
              target         (N,) int64, only with target='fed': the class that is explained
    Outputs   class          (N,) int64, the top class
              probability    (N,) float32, of that class
              probabilities  (N, classes) float32
              heatmap        (N, h, w) float32 at the network's input resolution, as `onnxviz.saliency` and
                             `onnxviz.cam` have it

    model      an opened Network, or what `onnxviz.load` opens; its preprocessing and labels go into the file
    technique  saliency, gradient, input-x-gradient, guided, deconvnet, grad-cam, grad-cam++, layercam, hirescam,
               xgrad-cam, eigencam or guided-grad-cam
    target     the class that is explained: index or label, 'fed' (an input), or None: each picture's top class
    layer      what a class activation map is made from; None: the last layer that has a map
    fixed      pictures come at the network's input size: nothing is resized, and what the network sees is bit for bit
               what `Network.prepare` gives. Otherwise single pixels differ from Pillow's by one level of 255
    over       'input': the heat map lies over what the network sees of the picture; 'picture': over the whole, at
               the picture's size, 0 where the network does not look
    returns    an onnx.ModelProto whose metadata hold the labels (`onnxviz.labels`), and technique, layer, target,
               preprocessing and the network's digest (`onnxviz.explainer`, JSON)
    raises     UsageError, UnknownLabel, UnknownLayer, ModelRejected, ModelUnsuitable, UnsupportedOperator
    """
    proto: onnx.ModelProto = ir.serde.serialize_model(
        explainer_graph(model, technique, target=target, layer=layer, fixed=fixed, over=over)
    )
    return proto


def explainer_graph(
    model: Any,
    technique: str = "saliency",
    *,
    target: int | str | None = None,
    layer: str | None = None,
    fixed: bool = False,
    over: str = "input",
) -> ir.Model:
    """As `explainer_model`, but an ir.Model, which may be larger than one file can hold."""
    from onnxviz.explaining.build import Order, build
    from onnxviz.explaining.techniques import TECHNIQUES
    from onnxviz.graph.metadata import Metadata, write
    from onnxviz.network import Network
    from onnxviz.opening import load

    if technique not in TECHNIQUES:
        raise UsageError(
            f"an explainer cannot be made of {technique!r}{near(str(technique), TECHNIQUES)}; it takes a technique of "
            f"one pass: {', '.join(TECHNIQUES)}"
        )
    if over not in ("input", "picture"):
        raise UsageError(f"over is 'input' or 'picture', got {over!r}")
    net = model if isinstance(model, Network) else load(model)
    net.preprocessing.require_pictures("an explainer")
    layered = TECHNIQUES[technique].layered
    if layer is not None and not layered:
        raise UsageError(
            f"{technique!r} is about the input and takes no layer: leave it out, or use grad-cam"
        )
    index = target if target in (None, FED) else net.target(target)
    chosen = _layer(net, layer) if layered else None
    size = net.preprocessing.fixed or _own_size(net)
    if fixed and size is None:
        raise UsageError(
            "this network takes pictures of any size, so there is none to fix them to; give --size"
        )
    order = Order(
        technique=technique,
        target=index,
        layer=chosen.name if chosen is not None else None,
        channels_last=chosen.channels_last if chosen is not None else False,
        size=size,
        fixed=fixed,
        whole=over == "picture" and not fixed,
    )
    notes = {
        "schema": "onnxviz.explainer/1",
        "technique": technique,
        "layer": order.layer,
        "target": index,
        "label": net.label(index) if isinstance(index, int) else None,
        "over": "picture" if order.whole else "input",
        "fixed": fixed,
        "network": {"name": net.name, "sha256": net.digest},
        "preprocessing": net.preprocessing.to_dict(),
        "onnxviz": __version__,
    }
    with judged(net.judge):
        graph = build(net.batched[0], net.input, net.preprocessing, net.head, order, notes)
    write(graph.metadata_props, Metadata(labels=tuple(net.labels) if net.labels else None))
    graph.producer_name, graph.producer_version = "onnxviz", __version__
    return graph


def _layer(net: Network, name: str | None) -> Layer:
    from onnxviz.attribution import cam_layers

    ends = (net.head.logits,)
    return cam_layers.default(net.layers, ends) if name is None else cam_layers.named(net, name, ends)


def _own_size(net: Network) -> tuple[int, int] | None:
    height, width = net.input.height, net.input.width
    if height is None and width is None and net.preprocessing.size is None:
        return None
    if height is None or width is None:
        raise ModelUnsuitable(
            "the network fixes one side of its input and leaves the other open; give --size WIDTHxHEIGHT"
        )
    return height, width
