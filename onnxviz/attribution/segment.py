"""Segmentation without labels: the object that a score rests on, cut out of the picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.attribution.result import Attribution
from onnxviz.attribution.targets import Channel, Neuron, Targets
from onnxviz.errors import ModelUnsuitable, UsageError, at_least, one_of
from onnxviz.features.pictures import also_unequal
from onnxviz.figures import heat
from onnxviz.figures.captions import caption
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.results import Result, Results

if TYPE_CHECKING:
    from PIL import Image

_WORKING_SIDE = 256  # pixels of the longer side that the cut is made at; the mask is enlarged to the picture
# Of the map: pixels above the first quantile are the object's, below the second the ground's. Simonyan et al. take 95 %
# and 30 %; a twentieth of the picture is more than many an object has, and the ground's colours then pass for its own.
QUANTILES: Final = {"grabcut": (0.99, 0.20), "paper": (0.95, 0.30)}
_LARGE = 0.05  # a part that the cut leaves counts as the object where the map comes up to its largest there
_TRUST = 1.5  # log-odds that the map alone gives at its two ends


# How sure a cut is: what of it stays when so much more, or less, of the map is taken for object and ground.
_MOVED = (0.5, 2.0)
_STAYS, _KEPT, _LEFT = 0.6, 0.25, 0.5


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
        return self.values > 0

    @property
    def label(self) -> str:
        """What was segmented."""
        return self.source.label

    def picture(self) -> Image.Image:
        """The photo with the object's outline, the object alone, and the map that it was found by."""
        from onnxviz.figures.draw import draw_segmentation

        return draw_segmentation(self.image, self.mask, self.source, self.manifest["figures"])


@also_unequal
@recorded
def segment(
    net: Network,
    image: Images,
    *,
    target: Targets = None,
    method: str = "full-gradient",
    objective: Objective | str | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    cut: str = "grabcut",
    foreground: float | None = None,
    background: float | None = None,
    rounds: int = 5,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Segmentation | list[Segmentation]:
    """The pixels of the object that a class score rests on, though nobody showed the network a mask.

    As Simonyan, Vedaldi & Zisserman 2014 (arXiv:1312.6034, section 3.2): the largest values of a saliency map are
    taken for the object, the smallest for the ground, and GrabCut (Rother, Kolmogorov & Blake 2004) finds the border
    by colour: mixtures of Gaussians and a minimal cut. The map starts from the full gradient, one backward pass whose
    map is as smooth as an object; a class activation map would be too coarse, the gradient alone too speckled. The
    cut is SciPy's maximum flow on the grid of pixels: no vision library is needed, and it is exact.

    Three things differ from the paper, which cut='paper' follows: the quantiles (99 % and 20 %, where the paper has
    95 % and 30 %), the pixels beyond them are held to their side while the map is a prior for those between (in the
    paper the map says only which pixels the colours are learned from), and colours are learned anew after each cut.

    image     (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these
    target, objective, output, layer, channel, neuron   what is explained, as in `onnxviz.saliency`
    method    where the map comes from: any method of `onnxviz.saliency`
    cut       'grabcut', or 'paper': colours learned from the pixels beyond the quantiles, one cut by colours alone, of
              which the largest connected part is kept
    foreground   quantile of the map above which pixels are the object's; None: 0.99, or 0.95 with `cut` 'paper'
    background   quantile of the map below which they are the ground's; None: 0.2, or 0.3 with `cut` 'paper'
    rounds    of grabcut: colours and cut are done in turn until nothing changes, so often at most
    returns   Segmentation, values (H, W) float32 0 or 1; a list of them where several pictures were given. Figures:
              `area`, a share of the picture; `map_inside`, the share of the map that lies in it; `parts` and the share
              of the largest; `agreement`, how much stays (the area of the intersection by that of the union) when half
              or twice as many pixels are taken for object and ground; of a class its probability with the object
              `alone`, on grey, and `without` it. The cut is unsure (`sure`, a warning, the picture) where less than
              60 % stays, or where the object alone keeps under a quarter of the probability or the rest over a half
    raises    what `onnxviz.saliency` raises; ModelUnsuitable where the map is zero everywhere
    """
    progress = told(progress)
    from onnxviz.attribution.saliency import saliency

    at_least("rounds", rounds)
    net = net.at(output)
    marks = _quantiles(cut, foreground, background)
    found = saliency(
        net,
        image,
        target=target,
        method=method,
        objective=objective,
        layer=layer,
        channel=channel,
        neuron=neuron,
        seed=seed,
        batch=batch,
        progress=progress,
    )
    if isinstance(found, Attribution):
        return _cut(net, found, cut, marks, rounds, seed)
    return Results(_cut(net, one, cut, marks, rounds, seed) for one in found)


def _quantiles(cut: str, foreground: float | None, background: float | None) -> tuple[float, float]:
    """(of the object, of the ground), checked."""
    one_of("cut", cut, QUANTILES)
    own = QUANTILES[cut]
    high, low = own[0] if foreground is None else foreground, own[1] if background is None else background
    if not 0 < low < high < 1:
        raise UsageError(f"quantiles of {high:g} and {low:g}: expected 0 < background < foreground < 1")
    return high, low


def _cut(
    net: Network, source: Attribution, cut: str, marks: tuple[float, float], rounds: int, seed: int
) -> Segmentation:
    from onnxviz.figures.grids import scaled
    from onnxviz.figures.heat import fit

    values = source.values
    if values is None or not np.any(np.isfinite(values) & (values != 0)):
        raise ModelUnsuitable(
            f"the {source.method} map of {source.label!r} is zero everywhere, so nothing can be cut out by it; another "
            "target, layer or method may tell more"
        )
    height, width = source.image.shape[:2]
    small = np.asarray(scaled(source.image, min(width, _WORKING_SIDE), min(height, _WORKING_SIDE)))
    # Fine maps are smoothed: an object is where large values lie thick, not where single pixels are large.
    smooth = heat.smoothed(values) if caption(source).fine else np.nan_to_num(values)
    order = fit(smooth, *small.shape[:2])
    rank = np.argsort(np.argsort(order, axis=None, kind="stable")).reshape(order.shape) / max(
        1, order.size - 1
    )

    def cut_at(object_: float, ground: float, most: int) -> tuple[np.ndarray, int]:
        """The mask with these shares of the pixels as object and ground, and the rounds."""
        sure, never = rank >= 1 - object_, rank <= ground
        if cut == "paper":
            return _largest(once(small, sure, never, seed=seed)), 1
        mask, done = grab(small, _prior(order), sure, never, rounds=most, seed=seed)
        return _parts(mask, rank >= 1 - _LARGE), done

    mask, done = cut_at(1 - marks[0], marks[1], rounds)
    moved = [cut_at((1 - marks[0]) * by, min(marks[1] * by, 0.5), 1)[0] for by in _MOVED]
    full = fit(mask.astype(np.float32), height, width) > 0.5
    manifest = net.manifest(
        "segment",
        method=source.method,
        target=source.target,
        label=source.label,
        objective=source.manifest["parameters"]["objective"],
        cut=cut,
        foreground=marks[0],
        background=marks[1],
        prior=_TRUST if cut == "grabcut" else 0.0,
        rounds=rounds,
        seed=seed,
    )
    manifest["figures"] = {"score": source.score, "area": float(full.mean()), "rounds": done}
    magnitudes = np.abs(np.nan_to_num(values)).astype(np.float64)
    manifest["figures"]["map_inside"] = float(magnitudes[full].sum() / max(magnitudes.sum(), 1e-12))
    manifest["figures"] |= _certainty(mask, moved) | _tested(net, source, full)
    doubts = _doubts(manifest["figures"])
    manifest["figures"]["sure"] = not doubts
    if doubts:
        manifest["warnings"].append(
            f"the cut is unsure, perhaps a fragment: {'; '.join(doubts)}. Another method, or other quantiles, may give "
            "another outline"
        )
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


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    numbers, _ = label(mask)
    sizes = np.bincount(numbers.ravel())
    sizes[0] = 0
    result: np.ndarray = (numbers == sizes.argmax()) & mask
    return result


def _certainty(mask: np.ndarray, moved: list[np.ndarray]) -> dict[str, Any]:
    """How many parts the object has, and how much of it stays in the other cuts."""
    from scipy.ndimage import label

    numbers, count = label(mask)
    sizes = np.bincount(numbers.ravel(), minlength=2)[1:]
    return {
        "parts": int(count),
        "largest_part": float(sizes.max() / max(sizes.sum(), 1)),
        "agreement": float(np.mean([(mask & one).sum() / max((mask | one).sum(), 1) for one in moved])),
    }


def _tested(net: Network, source: Attribution, mask: np.ndarray) -> dict[str, float]:
    """A class's probability when only the object shows, on grey (of arrays: on their mean), and all but the object."""
    if source.target is None:
        return {}
    seen = source.image if source.view is None else source.view
    # Of an array, whose numbers may be any, the mean of each channel.
    grey = np.float32(127.5) if source.view is None else seen.mean(axis=(0, 1), dtype=np.float32)
    inside = mask[:, :, None]
    shown = np.stack([np.where(inside, seen, grey), np.where(inside, grey, seen)])
    x = net.preprocessing.normalise(shown.astype(np.float32)).astype(np.float32, copy=False)
    try:
        alone, without = net.probabilities(x)[:, source.target]
    except ModelUnsuitable:  # not one choice among classes, such as a step of a sequence
        return {}
    return {"alone": float(alone), "without": float(without)}


def _doubts(figures: dict[str, Any]) -> list[str]:
    doubts = []
    if figures["agreement"] < _STAYS:
        doubts.append(
            f"{figures['agreement']:.0%} of it stays when half or twice as many pixels are taken for object and ground"
        )
    score = figures["score"]
    if "alone" in figures and score:
        if figures["alone"] < _KEPT * score:
            doubts.append(
                f"with nothing else shown, the probability is {figures['alone']:.1%}, on the whole picture {score:.1%}"
            )
        if figures["without"] > _LEFT * score:
            doubts.append(
                f"with it covered, the probability is {figures['without']:.1%}, on the whole picture {score:.1%}"
            )
    return doubts


# --- GrabCut: colour models and a minimal cut -----------------------------------------------------
#
# Rother, Kolmogorov & Blake 2004, "GrabCut". Two mixtures of Gaussians say how well each pixel's colour
# fits the object and the ground; a cut of least cost through the grid of pixels follows edges of the
# picture. Both are done in turn. SciPy's maximum flow does a grid of 224×224 with 8 neighbours in under
# half a second, so no further library is needed.


_COMPONENTS: Final = 5  # Gaussians for each side, as in the paper
_SMOOTHNESS: Final = 25.0  # the weight of edges against colours: half the paper's, for pictures half as large
_CAPACITY: Final = 100.0  # capacities are whole numbers: hundredths
_HARD: Final = 1e6
_MOST_SAMPLES: Final = 4000  # pixels that a mixture is fitted to


def grab(
    picture: np.ndarray,
    prior: np.ndarray,
    sure: np.ndarray,
    never: np.ndarray,
    *,
    rounds: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, int]:
    """The object's pixels, (H, W) bool, and the rounds it took until nothing changed.

    picture   (H, W, 3) uint8
    prior     (H, W): log-odds of the object before colours are looked at
    sure      (H, W) bool, pixels of the object; not empty
    never     (H, W) bool, pixels of the ground; not empty
    """
    colours = _opponent(picture)
    flat = colours.reshape(-1, 3)
    links = _links(colours)
    mask = sure | (~never & (prior > 0))
    done = 0
    for done in range(1, rounds + 1):  # noqa: B007 - told to the caller
        odds = _odds(flat, mask, ~mask, seed) + prior
        odds = np.where(sure, _HARD, np.where(never, -_HARD, odds))
        cut_ = minimal_cut(odds, links)
        if np.array_equal(cut_, mask):
            break
        mask = cut_
    return mask, done


def once(picture: np.ndarray, inside: np.ndarray, outside: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """One cut by colours alone, (H, W) bool: as Simonyan, Vedaldi & Zisserman 2014 do it.

    picture           (H, W, 3) uint8
    inside, outside   (H, W) bool, pixels to learn the colours of the object and of the ground from; not empty
    """
    colours = _opponent(picture)
    return minimal_cut(_odds(colours.reshape(-1, 3), inside, outside, seed), _links(colours))


def _odds(flat: np.ndarray, inside: np.ndarray, outside: np.ndarray, seed: int) -> np.ndarray:
    """Log-odds of the object by each pixel's colour, of the shape of `inside`, at most ±8."""
    odds = _likelihood(flat, inside.ravel(), seed) - _likelihood(flat, outside.ravel(), seed)
    return np.clip(odds.reshape(inside.shape), -8, 8)


def minimal_cut(odds: np.ndarray, links: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The labelling of least cost, (H, W) bool.

    odds    (H, W): the cost of calling a pixel ground less that of calling it object
    links   (pixels, neighbours, costs of parting them), pixels as flat indices
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    count = odds.size
    source, sink = count, count + 1
    flat = np.clip(odds.ravel(), -1e5, 1e5)
    pixels = np.arange(count)
    rows, columns, costs = [], [], []
    for a, b, cost in links:
        rows += [a, b]
        columns += [b, a]
        costs += [cost, cost]
    rows += [np.full(count, source), pixels]
    columns += [pixels, np.full(count, sink)]
    costs += [np.maximum(flat, 0), np.maximum(-flat, 0)]
    values = np.rint(_CAPACITY * np.concatenate(costs)).astype(np.int32)
    graph = coo_matrix(
        (values, (np.concatenate(rows), np.concatenate(columns))), shape=(count + 2, count + 2)
    ).tocsr()
    graph.eliminate_zeros()
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, directed=True, return_predecessors=False)
    mask = np.zeros(count + 2, dtype=bool)
    mask[reached] = True
    return mask[:count].reshape(odds.shape)


def _links(colours: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The 8 neighbours of every pixel: parting two costs the less, the more their colours differ."""
    height, width = colours.shape[:2]
    at = np.arange(height * width).reshape(height, width)
    pairs = [
        (at[:, :-1], at[:, 1:], 1.0),
        (at[:-1], at[1:], 1.0),
        (at[:-1, :-1], at[1:, 1:], 0.5**0.5),
        (at[:-1, 1:], at[1:, :-1], 0.5**0.5),
    ]
    flat = colours.reshape(-1, 3)
    gaps = [np.square(flat[a.ravel()] - flat[b.ravel()]).sum(axis=1) for a, b, _ in pairs]
    mean = float(np.concatenate(gaps).mean()) if gaps else 0.0
    beta = 1 / (2 * mean) if mean > 0 else 0.0
    return [
        (a.ravel(), b.ravel(), _SMOOTHNESS * near * np.exp(-beta * gap))
        for (a, b, near), gap in zip(pairs, gaps, strict=True)
    ]


def _likelihood(colours: np.ndarray, chosen: np.ndarray, seed: int) -> np.ndarray:
    """The log-likelihood of every pixel's colour, (P,), under a mixture fitted to the chosen ones."""
    from sklearn.mixture import GaussianMixture

    own = colours[chosen]
    if len(own) > _MOST_SAMPLES:
        own = own[np.random.default_rng(seed).choice(len(own), _MOST_SAMPLES, replace=False)]
    if len(own) < 2:  # no mixture fits one pixel; the prior decides
        return np.zeros(len(colours))
    count = min(_COMPONENTS, len(np.unique(own, axis=0)), len(own))
    # The floor on the variance is that of the pixels' own rounding and noise: one colour must not be a needle.
    mixture = GaussianMixture(
        count, reg_covar=4.0, random_state=seed, max_iter=50, tol=1e-2, init_params="k-means++"
    )
    found: np.ndarray = mixture.fit(own).score_samples(colours)
    return found


def _opponent(picture: np.ndarray) -> np.ndarray:
    """Colours in which distances are nearer to what is seen: lightness, red against green, yellow against blue."""
    r, g, b = np.moveaxis(picture.astype(np.float64), -1, 0)
    return np.stack([(r + g + b) / 3, (r - g), (r + g) / 2 - b], axis=-1)
