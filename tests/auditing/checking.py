"""What tests of checks share: one check of an audit, and small networks that end in classes."""

from __future__ import annotations

from typing import Any

import onnx

import onnxviz
from onnxviz.auditing.finding import Check
from tests.networks import Maker

SIZE = 32


def opened(model: Any, **options: Any) -> onnxviz.Network:
    return onnxviz.load(model, **{"preprocess": "unit", "threads": 1, **options})


def checked(model: Any, id: str, images: Any = None, **options: Any) -> Check:
    """The one check of an audit that was made."""
    net = model if isinstance(model, onnxviz.Network) else opened(model)
    return next(one for one in onnxviz.audit(net, images, only=[id], **options).checks if one.id == id)


def ending(m: Maker, scores: str, classes: int, size: int = SIZE, softmax: bool = True) -> onnx.ModelProto:
    """A classifier of pictures of this size by these scores."""
    scores = m("Softmax", scores) if softmax else scores
    return m.model({"image": ("N", 3, size, size)}, {scores: ("N", classes)})


def pooled(m: Maker, maps: str, width: int = 8, classes: int = 6, size: int = SIZE) -> onnx.ModelProto:
    """A classifier by the means of maps."""
    means = m("Flatten", m("GlobalAveragePool", maps))
    return ending(m, m("Gemm", means, m.random(classes, width), transB=1), classes, size)
