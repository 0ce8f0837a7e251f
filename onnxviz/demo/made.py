"""The demo's sections on images made by optimisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxviz.demo.page import Picture, Section

if TYPE_CHECKING:
    from onnxviz.demo.sections import Stage

# Classes that a reader knows by their look: things, animals, a place.
_CLASSES = ("volcano", "flamingo", "tiger", "daisy", "balloon", "lemon")
# The channels whose best patches the demo shows too: faces, text, stars, bricks; cats, motorcycles, rockets, cups. In
# front of their ReLU6, which cuts off at 6: there the gradient ends long before the picture is finished.
_FEATURES = (
    ("blocks.5.expand", "middle", (2, 36, 5, 66, 103, 35, 108, 138)),
    ("head", "deep", (4, 398, 1053, 177, 436, 961, 1116, 46)),
)


def classes(stage: Stage) -> Section:
    """Class visualisation"""
    import onnxviz

    result = onnxviz.ascent(stage.net, target=list(_CLASSES), seed=stage.seed, progress=stage.progress)
    path = result.save(stage.file("ascent-classes.png"))
    return Section(
        anchor="ascent",
        title="Class visualisation",
        question="What does the network think these classes look like?",
        text="From noise, a picture is changed step by step so that one class score rises. It is moved as a spectrum "
        "with decorrelated colours, and shown to the network shifted, scaled, turned and blurred at random: only what "
        "survives that is drawn. Picture, transforms, network, gradient and optimiser are one ONNX graph.",
        command="onnxviz ascent efficientnet-lite0 --target volcano -o volcano.png",
        pictures=[
            Picture(
                path, "The class's rank and probability when the picture is shown to the network.", wide=True
            )
        ],
    )


def features(stage: Stage) -> Section:
    """Feature visualisation"""
    import onnxviz

    pictures = []
    for layer, name, channels in _FEATURES:
        result = onnxviz.ascent(
            stage.net, layer=layer, channel=list(channels), size=128, steps=128, seed=stage.seed,
            progress=stage.progress,
        )  # fmt: skip
        path = result.save(stage.file(f"ascent-{name}.png"))
        pictures.append(Picture(path, f"Layer {layer}: what eight channels answer to most.", wide=True))
    layer, _, channels = _FEATURES[0]
    return Section(
        anchor="ascent-features",
        title="Feature visualisation",
        question="What does each channel look for?",
        text="The same for single channels: these are the channels whose best patches of real photos stand above, or "
        "below, on this page. With --channel all, a page of every channel of a layer.",
        command=f"onnxviz ascent efficientnet-lite0 --layer {layer} --channel {channels[0]} -o channel.png",
        pictures=pictures,
    )


MADE: tuple[Callable[[Stage], Section], ...] = (classes, features)
