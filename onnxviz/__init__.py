"""onnxviz: see what a convolutional network in ONNX form looks at and what it has learned."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from onnxviz._version import __version__

# Public name -> module. Loaded at first use: `import onnxviz` must stay light, since onnx_ir alone takes 0.3 s.
_PUBLIC = {
    "load": "opening",
    "Network": "network",
    "Limits": "limits",
    "Attribution": "attribution.result",
    "Preprocessing": "image.preprocessing",
    "predict": "features.activations",
    "attributions": "attribution.sheet",
    "expose": "features.graphs",
    "export": "exporting.export",
    "gradient_model": "features.graphs",
    "explainer_model": "attribution.explainer",
    "audit": "auditing.run",
    "report": "auditing.album",
    "compare": "comparing.compare",
    "doctor": "health",
    "providers": "elsewhere",
    "like": "comparing.like",
    "use_font": "figures.style",
}
for _room, _names in {  # a file of its own name each
    "attribution": ("cam", "faithfulness", "occlusion", "rise", "saliency", "segment"),
    "features": ("activations", "embed", "filters", "inspect", "map", "neighbours", "patches"),
    "synthesis": ("ascent", "dream", "fool", "invert", "style", "style_apply", "style_train", "texture"),
}.items():
    _PUBLIC |= {_name: f"{_room}.{_name}" for _name in _names}
_MODULES = ("errors", "objectives")

if TYPE_CHECKING:  # what a type checker reads; a test holds it to the table
    from onnxviz import errors as errors
    from onnxviz import objectives as objectives
    from onnxviz.attribution.cam import cam as cam
    from onnxviz.attribution.explainer import explainer_model as explainer_model
    from onnxviz.attribution.faithfulness import faithfulness as faithfulness
    from onnxviz.attribution.occlusion import occlusion as occlusion
    from onnxviz.attribution.result import Attribution as Attribution
    from onnxviz.attribution.rise import rise as rise
    from onnxviz.attribution.saliency import saliency as saliency
    from onnxviz.attribution.segment import segment as segment
    from onnxviz.attribution.sheet import attributions as attributions
    from onnxviz.auditing.album import report as report
    from onnxviz.auditing.run import audit as audit
    from onnxviz.comparing.compare import compare as compare
    from onnxviz.comparing.like import like as like
    from onnxviz.elsewhere import providers as providers
    from onnxviz.exporting.export import export as export
    from onnxviz.features.activations import activations as activations
    from onnxviz.features.activations import predict as predict
    from onnxviz.features.embed import embed as embed
    from onnxviz.features.filters import filters as filters
    from onnxviz.features.graphs import expose as expose
    from onnxviz.features.graphs import gradient_model as gradient_model
    from onnxviz.features.inspect import inspect as inspect
    from onnxviz.features.map import map as map
    from onnxviz.features.neighbours import neighbours as neighbours
    from onnxviz.features.patches import patches as patches
    from onnxviz.figures.style import use_font as use_font
    from onnxviz.health import doctor as doctor
    from onnxviz.image.preprocessing import Preprocessing as Preprocessing
    from onnxviz.limits import Limits as Limits
    from onnxviz.network import Network as Network
    from onnxviz.opening import load as load
    from onnxviz.synthesis.ascent import ascent as ascent
    from onnxviz.synthesis.dream import dream as dream
    from onnxviz.synthesis.fool import fool as fool
    from onnxviz.synthesis.invert import invert as invert
    from onnxviz.synthesis.style import style as style
    from onnxviz.synthesis.style_apply import style_apply as style_apply
    from onnxviz.synthesis.style_train import style_train as style_train
    from onnxviz.synthesis.texture import texture as texture

__all__ = ["__version__", *_MODULES, *_PUBLIC]  # noqa: PLE0604 - strings all, from the table above


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(importlib.import_module(f"onnxviz.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"onnxviz.{name}")
    module = sys.modules[__name__]  # by which Python finds near names
    raise AttributeError(f"module 'onnxviz' has no attribute {name!r}", name=name, obj=module)


def __dir__() -> list[str]:
    return sorted(__all__)
