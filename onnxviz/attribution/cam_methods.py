"""Class activation maps: each method as a short function of a layer's activations and the objective's gradients.

Both arrays are (N, C, H, W) float32, the gradient by the layer itself; a map is (N, H, W), before its negative part is
cut off (`cam`). To add a method: its function and one row of METHODS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: (activations, gradients), both (N, C, H, W), to (N, H, W)
Formula = Callable[[np.ndarray, np.ndarray], np.ndarray]


def grad_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Channels weighted by the mean of their gradient over all places.

    Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2.
    """
    return weighted(activations, gradients.mean(axis=(2, 3)))


def grad_cam_plus_plus(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Channels weighted by their positive gradient, the less a place has in common with many others the more it counts.

    Chattopadhay et al. 2018, arXiv:1710.11063, equations 10, 11 and 19. The paper differentiates exp(score), whose
    higher derivatives are powers of the first; the common factor exp(score) is left out, since it overflows and
    scales the whole map only.
    """
    squares = gradients**2
    cubes = squares * gradients
    below = 2 * squares + cubes * activations.sum(axis=(2, 3), keepdims=True)
    share = _ratio(squares, below)
    return weighted(activations, (share * np.maximum(gradients, 0)).sum(axis=(2, 3)))


def layer_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Each place of each channel weighted by its own positive gradient: works in shallow layers too.

    Jiang et al. 2021, doi:10.1109/TIP.2021.3089943.
    """
    return _summed(activations, np.maximum(gradients, 0))


def hires_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Each place of each channel weighted by its own gradient, whatever its sign.

    Draelos & Carin 2020, arXiv:2011.08891. Equal to Grad-CAM where a global average pool and one linear layer follow;
    elsewhere the map shows what the network really used there.
    """
    return _summed(activations, gradients)


def xgrad_cam(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Channels weighted by the mean of their gradient, each place counted by its share of the channel's activation.

    Fu et al. 2020, arXiv:2008.02312, equation 8. The map sums to Σ activation × gradient (the axiom of conservation).
    """
    above = (gradients * activations).sum(axis=(2, 3))
    return weighted(activations, _ratio(above, activations.sum(axis=(2, 3))))


def eigen_cam(activations: np.ndarray, gradients: np.ndarray | None = None) -> np.ndarray:
    """What most of the layer answers to, whatever the class: the places along the first principal component.

    Muhammad & Yeasin 2020, arXiv:2008.00299: the (places × channels) matrix times its first right singular vector, not
    centred. A singular vector has no sign of its own: the one taken makes the map's sum positive, which for
    activations of one sign makes the whole map positive. The gradients are not used.
    """
    count, channels, height, width = activations.shape
    rows = activations.reshape(count, channels, -1).astype(np.float64)  # (N, C, HW)
    # The smaller of the two Gram matrices has the same component: places are few where channels are many.
    if rows.shape[2] <= channels:
        values, vectors = np.linalg.eigh(rows.transpose(0, 2, 1) @ rows)
        maps = vectors[:, :, -1] * np.sqrt(np.maximum(values[:, -1:], 0))
    else:
        vectors = np.linalg.eigh(rows @ rows.transpose(0, 2, 1))[1]
        maps = np.einsum("ncp,nc->np", rows, vectors[:, :, -1])
    maps *= np.where(maps.sum(axis=1, keepdims=True) < 0, -1, 1)
    return maps.reshape(count, height, width).astype(np.float32)


def weighted(activations: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The sum of the channels, each times its weight: (N, C, H, W) and (N, C) to (N, H, W)."""
    maps: np.ndarray = np.einsum("nchw,nc->nhw", activations, weights)
    return maps


def _summed(activations: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    maps: np.ndarray = np.einsum("nchw,nchw->nhw", activations, gradients)
    return maps


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 0 where below is 0 or as good as."""
    fit = np.abs(below) > np.finfo(np.float32).tiny
    result: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=fit)
    return result


@dataclass(frozen=True)
class Method:
    """One way from a layer to a map.

    formula     None: it is no function of activations and gradients alone (`cam` knows how)
    summary     one line for listings
    gradients   whether it needs them
    """

    formula: Formula | None
    summary: str
    gradients: bool = True


METHODS: dict[str, Method] = {
    "grad-cam": Method(grad_cam, "channels weighted by their mean gradient (Selvaraju 2017)"),
    "grad-cam++": Method(grad_cam_plus_plus, "the same for several objects of one class (Chattopadhay 2018)"),
    "layercam": Method(layer_cam, "each place weighted by its positive gradient (Jiang 2021)"),
    "hirescam": Method(hires_cam, "each place weighted by its gradient (Draelos & Carin 2020)"),
    "xgrad-cam": Method(xgrad_cam, "gradients weighted by activation (Fu 2020)"),
    "eigencam": Method(
        eigen_cam, "the layer's first component, without a class (Muhammad 2020)", gradients=False
    ),
    "score-cam": Method(
        None, "channels weighted by the score when only they show (Wang 2020)", gradients=False
    ),
    "guided-grad-cam": Method(None, "guided backpropagation within the Grad-CAM map (Selvaraju 2017)"),
}
