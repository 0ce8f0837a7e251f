"""onnxviz: see what a convolutional network in ONNX form looks at and what it has learned."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxviz._version import __version__

# Public name -> module. Loaded at first use: `import onnxviz` must stay light, since onnx_ir alone takes 0.3 s.
_PUBLIC = {
    "load": "opening",
    "Network": "network",
    "Limits": "limits",
    "Attribution": "results",
    "Preprocessing": "image.preprocessing",
    "predict": "features.activations",
    "filters": "features.filters",
    "activations": "features.activations",
    "patches": "features.patches",
    "occlusion": "attribution.occlusion",
    "rise": "attribution.rise",
    "saliency": "attribution.saliency",
    "attributions": "attribution.methods",
    "segment": "attribution.segment",
    "cam": "attribution.cam",
    "embed": "features.embed",
    "neighbours": "features.neighbours",
    "map": "features.map",
    "inspect": "features.inspect",
    "expose": "features.graphs",
    "export": "exporting.export",
    "ascent": "synthesis.ascent",
    "texture": "synthesis.texture",
    "fool": "synthesis.fool",
    "style_apply": "synthesis.style_apply",
    "style_train": "synthesis.style_train",
    "dream": "synthesis.dream",
    "invert": "synthesis.invert",
    "style": "synthesis.style",
    "gradient_model": "features.graphs",
    "explainer_model": "attribution.explainer",
    "doctor": "health",
    "use_font": "figures.fonts",
}
_MODULES = ("errors", "objectives")

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing as Preprocessing
    from onnxviz.network import Network as Network
    from onnxviz.opening import load as load
    from onnxviz.results import Attribution as Attribution

__all__ = ["__version__", *_MODULES, *_PUBLIC]  # noqa: PLE0604 - strings all, from the table above


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"onnxviz.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"onnxviz.{name}")
    raise AttributeError(f"module 'onnxviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
