"""Techniques and methods by their names, cheaply, for tests that hold all of them to one thing on small networks."""

from __future__ import annotations

import onnxviz

SAMPLED = ("smoothgrad", "smoothgrad-squared", "vargrad", "expected-gradients")
_METHODS = {
    "saliency": (*SAMPLED, "gradient", "guided", "integrated-gradients", "full-gradient"),
    "cam": ("grad-cam", "score-cam"),
}
_CHEAP = {
    **{name: {"samples": 4} for name in SAMPLED},
    "integrated-gradients": {"steps": 4},
    "occlusion": {"window": 8, "stride": 8},
    "rise": {"masks": 16, "grid": 4},
    "ascent": {"steps": 2},
    "dream": {"layers": "relu1", "octaves": 1, "steps": 3, "jitter": 2},
    "invert": {"layers": ["pool"], "steps": 4},
    "texture": {"method": "gram", "layers": ["relu1"], "size": 32, "steps": 4},
    "fool": {"steps": 2},
}


def made(name: str, net: onnxviz.Network, images, **options):
    """What a technique, or a method of `saliency` or `cam`, gives for these images."""
    technique = next((one for one, methods in _METHODS.items() if name in methods), name)
    method = {"method": name} if technique != name else {}
    given = () if name == "ascent" else (images,)
    return getattr(onnxviz, technique)(net, *given, **{**_CHEAP.get(name, {}), **method, **options})
