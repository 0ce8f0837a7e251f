"""The demo's sections on gradients: which pixels move the score, and the object that they lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxviz.demo.page import Picture, Section
from onnxviz.files import png_bytes, write_atomic

if TYPE_CHECKING:
    from onnxviz.demo.sections import Stage

# Enough for a picture, and a demo that is done in a minute; the defaults are 25 to 100.
_SAMPLES, _STEPS = 20, 24
# One of each kind, for the first look.
_FEW = ("saliency", "guided", "smoothgrad-squared", "integrated-gradients", "grad-cam")


def gradient_attributions(stage: Stage) -> Section:
    """Gradient attributions"""
    import onnxviz
    from onnxviz.techniques.attributions import Attributions

    photos = [photo.path for photo in stage.subjects[:3]]
    found = onnxviz.attributions(
        stage.net,
        photos,
        seed=stage.seed,
        samples=_SAMPLES,
        steps=_STEPS,
        progress=stage.progress,
    )
    path = found.save(stage.file("attributions.png"))
    few = Attributions(
        None,
        found.manifest,
        [[next(one for one in row if one.method == name) for name in _FEW] for row in found.grid],
        found.names,
    )
    glance = write_atomic(stage.file("attributions-few.png"), png_bytes(few.picture()))
    return Section(
        anchor="attributions",
        title="Gradient attributions",
        question="Which pixels move the score? One question, and what many methods answer.",
        text="ONNX Runtime has no gradients at inference: onnxviz differentiates the graph into another graph of "
        "standard operators, and every row below is read off it. Gradients (above) resolve single pixels, class "
        "activation maps (below) the places of the last layer. Not all of them can be trusted alike: guided "
        "backprop and the deconvnet look sharp, but hardly change when the upper layers' weights are random, and the "
        "deconvnet of a network without pooling shows mostly its strides.",
        command="onnxviz saliency efficientnet-lite0 cat.png coffee.png --method all -o attributions.png",
        pictures=[
            Picture(glance, "Five of them at a glance.", wide=True),
            Picture(
                path,
                f"{len(found.methods)} methods on {len(photos)} photos, each for the photo's top class.",
                wide=True,
            ),
        ],
    )


def cut_out(stage: Stage) -> Section:
    """Segmentation without labels"""
    import onnxviz

    pictures = []
    for photo in stage.subjects[:4]:
        result = onnxviz.segment(stage.net, photo.path, seed=stage.seed, progress=stage.progress)
        path = result.save(stage.file(f"segment-{photo.name}.png"))
        pictures.append(Picture(path, f"{photo.name}: what {result.label!r} was seen in."))
    return Section(
        anchor="segment",
        title="Segmentation without labels",
        question="Can a network that only ever saw labels outline the object?",
        text="The largest values of the map are taken for the object and the smallest for the ground; GrabCut, a "
        "mixture of colours on each side and a minimal cut through the grid of pixels, finds the border between them "
        "(Simonyan et al. 2014). The network never saw a mask.",
        command="onnxviz segment efficientnet-lite0 cat.png -o object.png",
        pictures=pictures,
    )
