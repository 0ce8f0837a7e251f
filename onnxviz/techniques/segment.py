"""Segmentation without labels: the object that a score rests on, cut out of the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.image import fine
from onnxviz.image.readings import reading
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, silent
from onnxviz.results import Attribution, Result
from onnxviz.techniques.aim import Position, Target

if TYPE_CHECKING:
    from PIL import Image

_WORKING_SIDE = 256  # pixels of the longer side that the cut is made at; the mask is enlarged to the picture
# Of the pixels: those with the largest map are the object, those with the smallest the ground, and a part that the
# cut leaves counts as the object where the map comes up to its largest there.
_SURE, _NEVER, _LARGE = 0.01, 0.20, 0.05
_TRUST = 1.5  # log-odds that the map alone gives at its two ends


@dataclass
class Segmentation(Result):
    """One object's pixels.

    values   (H, W) float32, 1 in the object and 0 outside
    image    (H, W, 3) uint8, the picture as the network sees it
    source   the attribution that the cut started from
    """

    image: np.ndarray = field(repr=False)
    source: Attribution = field(repr=False)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        assert self.values is not None
        return self.values > 0

    @property
    def label(self) -> str:
        """What was segmented."""
        return self.source.label

    def picture(self) -> Image.Image:
        """The photo with the object's outline, the object alone, and the map that it was found by."""
        from onnxviz.image.outline import draw

        return draw(self)


def segment(
    net: Network,
    image: Images,
    *,
    target: Target = None,
    method: str = "full-gradient",
    objective: Objective | str | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: int | None = None,
    position: Position = None,
    rounds: int = 5,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress = silent,
) -> Segmentation | list[Segmentation]:
    """The pixels of the object that a class score rests on, though nobody showed the network a mask.

    As Simonyan, Vedaldi & Zisserman 2014 (arXiv:1312.6034, section 3.2): the largest values of a saliency map are
    taken for the object, the smallest for the ground, and GrabCut (Rother, Kolmogorov & Blake 2004) finds the border
    by colour: mixtures of Gaussians and a minimal cut. The map starts from the full gradient, one backward pass whose
    map is as smooth as an object; a class activation map would be too coarse, the gradient alone too speckled. The
    cut is SciPy's maximum flow on the grid of pixels: no vision library is needed, and it is exact.

    image     (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these
    target, objective, output, layer, channel, position   what is explained, as in `onnxviz.saliency`
    method    where the map comes from: any method of `onnxviz.saliency`
    rounds    colours and cut are done in turn until nothing changes, so often at most
    returns   Segmentation, values (H, W) float32 0 or 1; a list of them where several pictures were given
    raises    what `onnxviz.saliency` raises; ModelUnsuitable where the map is zero everywhere
    """
    from onnxviz.techniques.saliency import saliency

    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    net = net.at(output)
    found = saliency(
        net,
        image,
        target=target,
        method=method,
        objective=objective,
        layer=layer,
        channel=channel,
        position=position,
        seed=seed,
        batch=batch,
        progress=progress,
    )
    if isinstance(found, Attribution):
        return _cut(net, found, rounds, seed)
    return [_cut(net, one, rounds, seed) for one in found]


def _cut(net: Network, source: Attribution, rounds: int, seed: int) -> Segmentation:
    from onnxviz.image.colour import fit
    from onnxviz.image.cut import grab
    from onnxviz.image.page import scaled

    values = source.values
    if values is None or not np.any(np.isfinite(values) & (values != 0)):
        raise ModelUnsuitable(
            f"the {source.method} map of {source.label!r} is zero everywhere, so nothing can be cut out by it; another "
            "target, layer or method may tell more"
        )
    height, width = source.image.shape[:2]
    small = np.asarray(scaled(source.image, min(width, _WORKING_SIDE), min(height, _WORKING_SIDE)))
    # Fine maps are smoothed: an object is where large values lie thick, not where single pixels are large.
    read = reading(source.method, source.signed)
    smooth = fine.smoothed(values) if read.fine else np.nan_to_num(values)
    order = fit(smooth, *small.shape[:2])
    rank = np.argsort(np.argsort(order, axis=None, kind="stable")).reshape(order.shape) / max(
        1, order.size - 1
    )
    sure, never = rank >= 1 - _SURE, rank <= _NEVER
    mask, done = grab(small, _prior(order), sure, never, rounds=rounds, seed=seed)
    mask = _parts(mask, rank >= 1 - _LARGE)
    full = fit(mask.astype(np.float32), height, width) > 0.5
    manifest = net.manifest(
        "segment",
        method=source.method,
        target=source.target,
        label=source.label,
        objective=source.manifest["parameters"]["objective"],
        rounds=rounds,
        seed=seed,
    )
    manifest["figures"] = {"score": source.score, "area": float(full.mean()), "rounds": done}
    manifest["figures"] |= _inside(values, full)
    manifest["warnings"] += [text for text in source.manifest["warnings"] if text not in manifest["warnings"]]
    return Segmentation(values=full.astype(np.float32), manifest=manifest, image=source.image, source=source)


def _prior(order: np.ndarray) -> np.ndarray:
    """Log-odds of the object by the map alone: 0 half way between its middle and its largest values."""
    low, high = np.percentile(order, (50, 98))
    place = np.clip((order - low) / max(high - low, 1e-12), 0, 1)
    return _TRUST * (2 * place - 1)


def _parts(mask: np.ndarray, large: np.ndarray) -> np.ndarray:
    """The connected parts of the mask in which the map is large, their small holes filled."""
    from scipy.ndimage import label

    numbers, _ = label(mask)
    kept = np.isin(numbers, np.setdiff1d(numbers[large], [0]))
    holes, _ = label(~kept)
    sizes = np.bincount(holes.ravel())
    small = np.flatnonzero(sizes < mask.size / 500)
    result: np.ndarray = kept | np.isin(holes, small[small > 0])
    return result


def _inside(values: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """How much of the map lies in the object."""
    magnitudes = np.abs(np.nan_to_num(values)).astype(np.float64)
    return {"map_inside": float(magnitudes[mask].sum() / max(magnitudes.sum(), 1e-12))}
