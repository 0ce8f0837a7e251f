"""Numbers that are NaN or infinite: refused, with the weight or the layer that they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxviz.errors import NotFinite, OnnxVizError, ways

if TYPE_CHECKING:
    from onnxviz.running import Running


def require(net: Running, values: np.ndarray, what: str, x: np.ndarray | None = None) -> None:
    """Refuse values of which some are NaN or infinite.

    values   (N, ...), one entry a picture
    what     what they are, in the plural
    x        the network's input tensor that they were computed for, where it is at hand
    raises   NotFinite, naming a weight, or the layer where the numbers overflow
    """
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not bad.any():
        return
    place = int(np.argmax(bad))
    which = f" for picture {place} (from 0) of {len(bad)}" if len(bad) > 1 else ""
    example = x[place : place + 1] if x is not None and len(x) == len(bad) else None
    raise NotFinite(f"{what} are NaN or infinite{which}: {why_not(net, example)}")


def why_not(net: Running, x: np.ndarray | None = None) -> str:
    """Why what the network gives is not finite, for the end of a sentence.

    x   the network's input tensor for one picture; None: none is at hand
    """
    if net.findings:
        more = f", and {len(net.findings) - 1} weights more" if len(net.findings) > 1 else ""
        return f"{net.findings[0]}{more}" + ways("export the model again from sound weights")
    if x is not None and not np.isfinite(x).all():
        return "the given tensor holds NaN or infinities itself"
    name = None if x is None else _first(net, x)
    where = "on the way" if name is None else f"at layer {name!r}"
    return f"all weights are finite, and the numbers overflow {where}" + ways(
        "check how pictures become the input (--preprocess NAME|FILE)", "export the model in a wider type"
    )


def _first(net: Running, x: np.ndarray) -> str | None:
    names = [name for name, _ in net.sizes]
    try:
        found = net.run(x, names)
    except OnnxVizError:
        return None
    return next((name for name in names if not np.isfinite(found[name]).all()), None)
