"""Reading layers with weights from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from onnxviz.errors import UsageError


def layer_weights(texts: Sequence[str] | None, option: str) -> dict[str, float] | None:
    """{layer: weight} from 'LAYER' (weight 1) and 'LAYER=WEIGHT'; None where nothing was given.

    raises   UsageError
    """
    if not texts:
        return None
    found: dict[str, float] = {}
    for text in texts:
        name, separator, weight = text.rpartition("=")
        try:
            found[name if separator else text] = float(weight) if separator else 1.0
        except ValueError:
            raise UsageError(
                f"{option} takes LAYER or LAYER=WEIGHT, such as stem=0.5; got {text!r}"
            ) from None
    return found
