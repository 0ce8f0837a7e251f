"""The most probable classes."""

from __future__ import annotations

from onnxviz.network import Images, Network, Prediction


def predict(net: Network, images: Images, *, top: int = 5) -> list[list[Prediction]]:
    """The `top` most probable classes of each image, best first.

    images   one image or a list, as `Network.prepare` takes
    returns  one list an image of (index, label, probability), probabilities 0 to 1
    raises   ImageRejected, ModelUnsuitable
    """
    return net.predict(images, top=top)
