"""The demo's sections on what a score rests on: gradients, class activation maps, and the object cut out."""

from __future__ import annotations

from onnxviz.demo.page import Picture, Section
from onnxviz.demo.photos import Stage
from onnxviz.files import png_bytes, write_atomic
from onnxviz.objectives import logit

# Enough for a picture, and a demo that is done in a minute; the defaults are 25 to 100.
_SAMPLES, _STEPS = 20, 24
# One of each kind, for the first look.
_FEW = ("saliency", "guided", "smoothgrad-squared", "integrated-gradients", "grad-cam")


def gradient_attributions(stage: Stage) -> Section:
    """Gradient attributions"""
    import onnxviz
    from onnxviz.attribution.result import Attributions

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
        command=f"onnxviz saliency efficientnet-lite0 {' '.join(map(stage.original, stage.subjects[:2]))} "
        "--method all -o attributions.png",
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
        command=f"onnxviz segment efficientnet-lite0 {stage.original()} -o object.png",
        pictures=pictures,
    )


# Maps of 14 × 14 places, where the methods still differ; at the last layer, 7 × 7, they are nearly one.
_MIDDLE = "blocks.10.add"
_METHODS = ("grad-cam", "layercam", "hirescam", "eigencam")


def activation_maps(stage: Stage) -> Section:
    """Class activation maps"""
    import onnxviz
    from onnxviz.attribution.sheet import cams

    photos = stage.subjects[:3]
    sheet = cams(
        stage.net,
        [photo.path for photo in photos],
        _METHODS,
        layer=_MIDDLE,
        names=[photo.name for photo in photos],
        progress=stage.progress,
    )
    path = sheet.save(stage.file("cams.png"))
    pictures = [Picture(path, f"Four methods on {_MIDDLE}, whose maps have 14×14 places.", wide=True)]
    best = stage.net.predict(stage.subject.path, top=2)[0]
    found = onnxviz.cam(
        stage.net,
        stage.subject.path,
        objective=logit(best[0].index) - logit(best[1].index),
        method="hirescam",
        signed=True,
    )
    assert not isinstance(found, list)
    found.label = f"{best[0].label} rather than {best[1].label}"
    path = found.save(stage.file("cam-difference.png"))
    said = f"Red speaks for {best[0].label!r} against {best[1].label!r}, blue the other way round."
    pictures.append(Picture(path, said, wide=True))
    return Section(
        anchor="cam",
        title="Class activation maps",
        question="Where does a deep layer find what speaks for the class, and where for this class rather than that?",
        text="A layer's channels, added up by what they mean to the class. The backward walk stops at the layer, so "
        "a map costs hardly more than a forward pass. At the last layer all methods say nearly the same (above); "
        "further up they part: HiResCAM weighs each place by its own gradient and shows what was used there, Grad-CAM "
        "spreads a channel's mean gradient over all its places. Any objective can be explained, also a difference of "
        "two classes.",
        command=f"onnxviz cam efficientnet-lite0 {stage.original()} --method hirescam --signed "
        "--objective \"logit('Egyptian cat') - logit('tiger cat')\" -o cam.png",
        pictures=pictures,
    )
