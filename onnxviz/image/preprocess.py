"""The recipes from picture to input tensor: those known by name, and those in files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from onnxviz.errors import PreprocessingRejected, near
from onnxviz.graph import metadata
from onnxviz.image.recipe import Geometry, Preprocessing, plain
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PRESETS", "Geometry", "Preprocessing", "preset", "recorded"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Recipes by name. `uint8` and `raw` leave pixels at 0...255, as uint8 and as float.
PRESETS: Final[Mapping[str, Preprocessing]] = {
    recipe.name: recipe
    for recipe in (
        # torchvision's and timm's usual evaluation.
        Preprocessing((224, 224), _IMAGENET_MEAN, _IMAGENET_STD, crop_fraction=0.875, name="imagenet"),
        # (RGB − 127)/128, as EfficientNet-Lite was trained.
        Preprocessing(
            (224, 224),
            (127 / 255,) * 3,
            (128 / 255,) * 3,
            crop_fraction=0.875,
            interpolation="bicubic",
            name="efficientnet-lite",
        ),
        # −1...1, as Keras' "tf" mode: Inception, MobileNet, NASNet.
        Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, crop_fraction=0.875, name="tensorflow"),
        # BGR, 0...255 less the mean colour: the networks that came from Caffe, and Keras' "caffe" mode.
        Preprocessing(
            (224, 224),
            (103.939 / 255, 116.779 / 255, 123.68 / 255),
            (1 / 255,) * 3,
            channels="BGR",
            crop_fraction=0.875,
            name="caffe",
        ),
        Preprocessing(name="unit"),
        Preprocessing(**plain("RGB"), name="raw"),
        Preprocessing(**plain("RGB"), dtype="uint8", name="uint8"),
    )
}


def preset(name: object) -> Preprocessing:
    """The recipe called `name`.

    raises   PreprocessingRejected, suggesting near names
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise PreprocessingRejected(
            f"no preset is called {printable(repr(name), 60)}{near(str(name), PRESETS)}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]


def recorded(model: ir.Model, warnings: list[str] | None = None) -> Preprocessing | None:
    """How a model says its pictures are prepared, or None; what cannot be read is noted in `warnings`."""
    found = metadata.read(model.metadata_props)
    told = [text for text in found.warnings if metadata.LABELS not in text and "metadata names" not in text]
    metadata.note(warnings, told)
    if found.preprocessing is None:
        return None
    try:
        return Preprocessing.from_dict(dict(found.preprocessing))
    except PreprocessingRejected as error:
        metadata.note(warnings, [f"metadata {metadata.PREPROCESSING}: {error}; ignored"])
        return None
