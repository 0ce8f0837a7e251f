"""The most probable classes."""

from __future__ import annotations

from onnxviz.network import Images, Network
from onnxviz.results import Prediction


def predict(
    net: Network, images: Images, *, top: int = 5, output: str | None = None
) -> list[list[Prediction]]:
    """The `top` most probable classes of each image, best first; of a sequence, the best class of each step.

    images   one image or a list, as `Network.prepare` takes
    output   which of the file's outputs; None: the one that looks like class scores
    returns  one list an image of (index, label, probability), probabilities 0 to 1
    raises   ImageRejected, UnknownLayer, ModelUnsuitable
    """
    return net.predict(images, top=top, output=output)
