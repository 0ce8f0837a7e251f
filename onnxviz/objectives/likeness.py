"""How near a layer is to given activations: their distance, or that of their Gram matrices.

`near` and `texture` are shares of what is given, which can be compared between layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.objectives.base import Objective, bounded, fed, gram_matrix, mean, named, objective, total


@named
def match(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus half the mean squared distance of a layer to given activations (feature inversion, embeddings).

    target   the activations, of the layer's shape with a batch of 1 or N, or without batch; None: a graph
             input `<layer>.target` of the layer's shape
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        if target is None:
            wanted: Any = fed(op, f"{layer}.target", ir.DataType.FLOAT, value.shape)
        else:
            wanted = np.asarray(target, dtype=np.float32)
            if value.shape is not None and wanted.ndim == len(value.shape) - 1:
                wanted = wanted[None]
        gap = op.Sub(value, wanted)
        return op.Mul(mean(op, op.Mul(gap, gap)), -0.5)

    return objective(f"match({layer})", layer, build)


@named
def gram(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus the mean squared distance of a layer's Gram matrix to a given one (Gatys, Ecker & Bethge 2015).

    The Gram matrix is (C, C), the channels' inner products over the map, divided by C·H·W (`gram_matrix`).

    target   (C, C) float; None: a graph input `<layer>.gram`
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        wanted = target if target is not None else fed(op, f"{layer}.gram", ir.DataType.FLOAT, ["C", "C"])
        wanted = np.asarray(wanted, dtype=np.float32) if isinstance(wanted, np.ndarray) else wanted
        gap = op.Sub(gram_matrix(op, value), wanted)
        return op.Neg(mean(op, op.Mul(gap, gap)))

    return objective(f"gram({layer})", layer, build, last=None)


@named
def near(layer: str, target: np.ndarray) -> Objective:
    """Minus the relative squared error of a layer: ‖Φ(x) − Φ₀‖² / ‖Φ₀‖².

    Mahendran & Vedaldi 2015, arXiv:1412.0035, equation 4.

    target   Φ₀, of the layer's shape with a batch of 1 or N
    """
    wanted = np.asarray(target, dtype=np.float32)
    shares = _shares(wanted, tuple(range(1, wanted.ndim)))

    def build(op: Any, value: ir.Value) -> ir.Value:
        return op.Mul(_distance(op, value, wanted), shares)

    return objective(f"near({layer})", layer, build)


@named
def texture(
    layer: str, target: np.ndarray, centre: np.ndarray | None = None, *, channels_last: bool = False
) -> Objective:
    """Minus the relative squared distance of a layer's Gram matrix to a given one: ‖G(x) − G₀‖² / ‖G₀‖².

    Gatys, Ecker & Bethge 2015, arXiv:1505.07376. With `centre` the activations are measured from the source's means
    (Novak & Nikulin 2016, arXiv:1605.04603, "activation shift"): of the uncentred matrix the means make up nearly all
    (98 % and more in EfficientNet-Lite0), so that what the channels do together weighs little.

    target          G₀, (C, C) float, as `gram_of` gives it; or (M, C, C) of several pictures at once
    centre          (C,) float, what is subtracted; None: nothing, as in the paper
    channels_last   whether the layer is (N, H, W, C)
    """
    wanted = np.asarray(target, dtype=np.float32)
    share = _shares(wanted, (-2, -1))

    def build(op: Any, value: ir.Value) -> ir.Value:
        if centre is not None:
            value = op.Sub(value, np.asarray(centre, dtype=np.float32)[:, None, None])
        return op.Mul(_distance(op, gram_matrix(op, value), wanted), share)

    return objective(f"texture({layer})", layer, build, last=channels_last)


def gram_of(
    activations: np.ndarray, centre: np.ndarray | None = None, *, channels_last: bool = False
) -> np.ndarray:
    """The Gram matrix (C, C) float32 of activations, divided by C·H·W.

    activations   (1, C, H, W), or (1, H, W, C)
    centre        (C,) that they are measured from; None: from 0
    """
    rows = _rows(activations, channels_last)
    rows = rows if centre is None else rows - np.asarray(centre, np.float64)[:, None]
    return (rows @ rows.T / rows.size).astype(np.float32)


def means_of(activations: np.ndarray, *, channels_last: bool = False) -> np.ndarray:
    """The channels' means (C,) float32 of activations (1, C, H, W), or (1, H, W, C)."""
    return np.asarray(_rows(activations, channels_last).mean(axis=1), np.float32)


def _rows(activations: np.ndarray, channels_last: bool) -> np.ndarray:
    """(C, H·W) float64."""
    maps = activations[0].astype(np.float64)
    maps = maps.transpose(2, 0, 1) if channels_last else maps
    return maps.reshape(len(maps), -1)


@named
def resemblance(layer: str, guide: np.ndarray, *, channels_last: bool = False) -> Objective:
    """How well each place of a layer is matched by the best place of a guide: the sum of the largest inner products.

    Mordvintsev, Olah & Tyka 2015 ("Inceptionism"), guided dreams: the picture takes up the guide's features where it
    has something like them.

    guide   (C, H, W) float, the layer's activations for the guiding picture; or (H, W, C) with channels_last
    """
    maps = np.moveaxis(np.asarray(guide, np.float32), -1 if channels_last else 0, 0)
    columns = maps.reshape(len(maps), -1)

    def build(op: Any, value: ir.Value) -> ir.Value:
        places = value if channels_last else op.Transpose(value, perm=[0, 2, 3, 1])
        places = op.Reshape(places, [0, -1, columns.shape[0]])  # (N, HW, C)
        products = op.MatMul(places, columns)  # (N, HW, M)
        # The choice is held fixed for the gradient, which is then the chosen place's features.
        best = op.Gather(columns.T.copy(), op.ArgMax(products, axis=2, keepdims=0), axis=0)  # (N, HW, C)
        return op.ReduceSum(op.Mul(places, best), [1, 2], keepdims=0)

    return objective(f"resemblance({layer})", layer, build)


@named
def excitement(layer: str, channels: Sequence[int], *, channels_last: bool = False) -> Objective:
    """½‖a‖² of some channels of a layer: a DeepDream of these only.

    raises   UsageError when building, for a channel that the layer does not have
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        for index in channels:
            bounded(value, 1, index, layer)
        part = op.Gather(value, [int(index) for index in channels], axis=1)
        return op.Mul(total(op, op.Mul(part, part)), 0.5)

    label = f"excitement({layer}, {', '.join(map(str, channels))})"
    return objective(label, layer, build, last=channels_last)


def _distance(op: Any, value: ir.Value, wanted: np.ndarray) -> ir.Value:
    """The squared distance over everything but the batch, (N,)."""
    gap = op.Sub(value, wanted)
    return total(op, op.Mul(gap, gap))


def _shares(wanted: np.ndarray, axes: tuple[int, ...]) -> Any:
    """Minus one over the squared norms; a target of zeros is measured by its distance alone."""
    found = np.asarray(np.square(wanted, dtype=np.float64).sum(axis=axes))
    shares = (-1.0 / np.where(found > 0, found, 1.0)).astype(np.float32)
    return float(shares) if shares.ndim == 0 else shares
