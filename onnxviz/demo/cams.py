"""The demo's section on class activation maps: what a middle layer shows, and one class against another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxviz.demo.page import Picture, Section
from onnxviz.objectives import logit

if TYPE_CHECKING:
    from onnxviz.demo.sections import Stage

# Maps of 14 × 14 places, where the methods still differ; at the last layer, 7 × 7, they are nearly one.
_MIDDLE = "blocks.10.add"
_METHODS = ("grad-cam", "layercam", "hirescam", "eigencam")


def activation_maps(stage: Stage) -> Section:
    """Class activation maps"""
    import onnxviz
    from onnxviz.techniques.cam_sheet import cams

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
        command="onnxviz cam efficientnet-lite0 cat.png --method hirescam --signed "
        "--objective \"logit('Egyptian cat') - logit('tiger cat')\" -o cam.png",
        pictures=pictures,
    )
