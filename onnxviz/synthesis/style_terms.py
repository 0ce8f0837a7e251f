"""The losses of texture synthesis and style transfer, made from the pictures that they work towards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from onnxviz.errors import ImageRejected, UsageError
from onnxviz.network import Network
from onnxviz.objectives import Objective
from onnxviz.objectives.likeness import gram_of, means_of, near, texture
from onnxviz.synthesis.feature_maps import feature_maps


@dataclass(frozen=True)
class Weighted:
    """Layers with their weights, which sum to 1."""

    weights: Mapping[str, float]

    @classmethod
    def of(
        cls,
        net: Network,
        layers: Sequence[str] | Mapping[str, float] | None,
        default: Sequence[str],
        what: str = "layers",
    ) -> Weighted:
        """From names, names with weights, or the default layers.

        raises   UnknownLayer, UsageError
        """
        given = layers if isinstance(layers, Mapping) else dict.fromkeys(layers or default, 1.0)
        found: dict[str, float] = {}
        for name, weight in given.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise UsageError(
                    f"the weight of {name!r} in {what} is {weight}: expected a number of 0 or more"
                )
            value = net.layer(name).name
            found[value] = found.get(value, 0.0) + float(weight)
        total = sum(found.values())
        if not total > 0:
            raise UsageError(f"{what} have no weight over 0: give at least one layer a weight")
        return cls({name: weight / total for name, weight in found.items() if weight > 0})

    @property
    def names(self) -> list[str]:
        """The layers' value names."""
        return list(self.weights)


#: Gram matrices as the paper has them, or of activations measured from the source's means (`objectives.likeness`).
GRAMS: Final = ("uncentred", "centred")


def checked_gram(gram: str) -> str:
    """`gram`, one of `GRAMS`.

    raises   UsageError
    """
    if gram not in GRAMS:
        raise UsageError(f"gram {gram!r}: expected {' or '.join(GRAMS)}")
    return gram


def style_terms(
    net: Network,
    pictures: Sequence[tuple[np.ndarray, float]],
    layers: Weighted,
    factor: float = 1.0,
    *,
    gram: str = "uncentred",
) -> Objective:
    """Minus the weighted relative distances of the layers' Gram matrices to those of pictures.

    pictures   (picture (H, W, 3) of 0 to 1, weight); several are mixed: their matrices are averaged
    factor     of the whole
    gram       one of `GRAMS`
    raises     ImageRejected for a picture of one colour, or one that is too small
    """
    maps = []
    for picture, _ in pictures:
        if float(np.ptp(picture, axis=(0, 1)).max()) < 2 / 255:
            raise ImageRejected(
                "the style picture has one colour only: it has no texture to take over; give a picture with structure"
            )
        maps.append(feature_maps(net, picture, layers.names))
    shares = np.array([weight for _, weight in pictures], np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UsageError(
            f"the weights of the style pictures are {shares.tolist()}: expected 0 or more, one over 0"
        )
    shares = shares / shares.sum()
    total: Objective | None = None
    for name, weight in layers.weights.items():
        last = net.layer(name).channels_last
        centre = None
        if gram == "centred":
            centre = _mixed(shares, [means_of(found[name], channels_last=last) for found in maps])
        target = _mixed(shares, [gram_of(found[name], centre, channels_last=last) for found in maps])
        term = factor * weight * texture(name, target, centre, channels_last=last)
        total = term if total is None else total + term
    assert total is not None
    return total


def _mixed(shares: np.ndarray, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The weighted mean of arrays of one shape."""
    return np.asarray(sum(share * array for share, array in zip(shares, arrays, strict=True)))


def content_terms(net: Network, picture: np.ndarray, layers: Weighted, factor: float) -> Objective:
    """Minus the weighted relative errors of the layers against those of a picture (H, W, 3), 0 to 1."""
    found = feature_maps(net, picture, layers.names)
    total: Objective | None = None
    for name, weight in layers.weights.items():
        term = factor * weight * near(name, found[name])
        total = term if total is None else total + term
    assert total is not None
    return total
