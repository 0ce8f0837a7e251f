"""The changed answers that A was surest of, to be looked at: picture, both answers, where each network looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.attribution.cam import cam
from onnxviz.attribution.methods import METHODS
from onnxviz.attribution.saliency import saliency
from onnxviz.errors import ImageRejected, ModelRejected
from onnxviz.features.stream import source_name
from onnxviz.progress import silent
from onnxviz.provenance import unnoted
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution
    from onnxviz.comparing.answers import Answers
    from onnxviz.network import Network

_SHOWN: Final = 6


@dataclass(frozen=True)
class Flip:
    """One picture with another class in B.

    name     what it is called
    image    (h, w, 3) uint8, as A sees it
    answers  (label, probability) of A's class in A, and of B's in B
    maps     of both by method: A's map for A's class, B's for B's
    """

    name: str
    image: np.ndarray
    answers: tuple[tuple[str, float], tuple[str, float]]
    maps: dict[str, tuple[Attribution, Attribution]]


def flips(
    a: Network, b: Network, pictures: Sequence[Any], answers: Answers, methods: Sequence[str], seed: int
) -> list[Flip]:
    """The first of `answers.flips`, each with its maps, where the networks have gradients."""
    table = answers.flips
    sources = {printable(source_name(one, index)): one for index, one in enumerate(pictures)}
    found = []
    for row in range(min(_SHOWN, len(table.get("picture", ())))):
        name = table["picture"][row]
        said = [(str(table[f"{net}_label"][row]), float(table[f"{net}_probability"][row])) for net in "ab"]
        try:
            with unnoted():
                image = a.preprocessing.shown(a.pictures(sources[name])[0])
                maps = {
                    method: (
                        _map(a, sources[name], method, int(table["a"][row]), seed),
                        _map(b, sources[name], method, int(table["b"][row]), seed),
                    )
                    for method in methods
                }
        except ImageRejected:  # replaced meanwhile
            continue
        except ModelRejected:  # no gradients: the picture tells something by itself
            maps = {}
        found.append(Flip(name, image, (said[0], said[1]), maps))
    return found


def _map(net: Network, source: Any, method: str, target: int, seed: int) -> Attribution:
    given: dict[str, Any] = {"target": target, "method": method, "progress": silent}
    x = net.prepare(source)
    found = cam(net, x, **given) if METHODS[method].layered else saliency(net, x, seed=seed, **given)
    return found[0] if isinstance(found, list) else found
