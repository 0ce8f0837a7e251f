"""Cutting an object out of a picture: colour models and a minimal cut, as in GrabCut.

Rother, Kolmogorov & Blake 2004, "GrabCut". Two mixtures of Gaussians say how well each pixel's colour fits the object
and the ground; a cut of least cost through the grid of pixels follows edges of the picture. Both are done in turn.
SciPy's maximum flow does a grid of 224×224 with 8 neighbours in under half a second, so no further library is needed.
"""

from __future__ import annotations

from typing import Final

import numpy as np

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
