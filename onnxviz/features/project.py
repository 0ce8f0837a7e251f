"""From features of any length to two coordinates: PCA, t-SNE and UMAP on plain arrays."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxviz.errors import MissingDependency, UsageError, one_of

#: The ways to two dimensions, with how they are called in a sentence.
METHODS = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

#: Fewer points have no neighbourhoods that t-SNE or UMAP could keep.
FEWEST = 4
# Both start from so many principal components, as van der Maaten & Hinton do: most of the cost is gone.
_COMPONENTS = 50
# scikit-learn's t-SNE grows as N log N, openTSNE's as N with a larger constant: it is faster from here on.
_LARGE = 3000
# Above this many components an exact decomposition takes minutes; the randomised one is seeded.
_EXACT = 1500
# Above this many numbers a copy in double precision is too much to ask of the memory.
_IN_FLOAT64 = 1 << 26


@dataclass(frozen=True)
class Projection:
    """Points in the plane.

    points    (N, 2) float32
    axes      what the two coordinates are called
    figures   what the method says of its own result (share of variance, divergence, engine...)
    notes     what was changed because there are few points
    """

    points: np.ndarray
    axes: tuple[str, str]
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def project(
    features: np.ndarray, method: str = "pca", *, perplexity: float | None = None, seed: int = 0
) -> Projection:
    """Two coordinates for each row of `features`; rows that are alike come to lie together.

    PCA: the plane of greatest variance (Pearson 1901). t-SNE: van der Maaten & Hinton 2008, JMLR 9. UMAP:
    McInnes, Healy & Melville 2018, arXiv:1802.03426. The last two keep neighbourhoods and distort distances.

    features     (N, D) finite floats
    method       'pca', 'tsne' or 'umap'
    perplexity   about how many neighbours each point keeps close: t-SNE's perplexity (None: 30), UMAP's
                 n_neighbors (None: 15); lowered where there are too few points, with a note
    seed         of every random choice; the same seed gives the same points
    raises       UsageError, MissingDependency
    """
    check(method, perplexity)
    if method == "pca":
        return _pca(features, seed)
    if len(features) < FEWEST:
        raise UsageError(
            f"{METHODS[method]} needs at least {FEWEST} pictures, got {len(features)}; "
            "give more, or take method 'pca'"
        )
    if not np.any(features != features[0]):
        axes = (f"{METHODS[method]} 1", f"{METHODS[method]} 2")
        return Projection(np.zeros((len(features), 2), np.float32), axes, {}, ["all features are equal"])
    return (_tsne if method == "tsne" else _umap)(features, perplexity, seed)


def check(method: str, perplexity: float | None = None) -> None:
    """What can be said before any work.

    raises   UsageError for an unknown method or a perplexity below 1, MissingDependency for UMAP where
             umap-learn is not installed
    """
    one_of("method", method, METHODS)
    if perplexity is not None and not 1 <= perplexity < float("inf"):
        raise UsageError(
            f"perplexity must be at least 1 (about how many neighbours stay close), got {perplexity:g}"
        )
    if method == "umap" and not _installed("umap"):
        raise MissingDependency(
            "method 'umap' needs umap-learn: pip install \"onnxviz[maps]\", or take method 'tsne'"
        )


def _pca(features: np.ndarray, seed: int) -> Projection:
    scores, shares = principal(features, 2, seed)
    first, second = (
        f"component {i + 1} ({100 * share:.0f} % of the variance)" for i, share in enumerate(shares)
    )
    largest = np.finfo(np.float32).max
    points = np.clip(scores, -largest, largest).astype(np.float32)
    explained = [round(float(s), 6) for s in shares]
    return Projection(
        points, (first, second), {"engine": _engine("scikit-learn"), "explained_variance": explained}
    )


def principal(features: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` principal components: (N, count) scores and (count,) shares of the variance, float64.

    Where there are fewer (few points, few features, all points alike), the rest is 0.
    """
    from sklearn.decomposition import PCA

    n, d = features.shape
    scores, shares = np.zeros((n, count)), np.zeros(count)
    if n < 2 or d < 1 or not np.any(features != features[0]):
        return scores, shares
    # Centred in float64, since features may be far from 0 and their spread small; brought to about 1, since
    # the squares of features of 1e20 are no float32 numbers.
    wide = np.float64 if features.size <= _IN_FLOAT64 else np.float32
    centred = features - features.mean(axis=0, dtype=np.float64).astype(wide)
    scale = float(np.abs(centred).max())
    centred /= scale
    found = min(count, n, d)
    solver = "covariance_eigh" if n > d else "full"
    if min(n, d) > _EXACT and found < min(n, d):
        solver = "randomized"
    with _one_thread():
        model = PCA(found, svd_solver=solver, random_state=seed)
        scores[:, :found] = model.fit_transform(centred)
    shares[:found] = model.explained_variance_ratio_
    return scores * scale, shares


def _tsne(features: np.ndarray, perplexity: float | None, seed: int) -> Projection:
    n = len(features)
    wanted = 30.0 if perplexity is None else float(perplexity)
    # Both engines look at 3 × perplexity neighbours of each point.
    used = min(wanted, (n - 1) / 3)
    notes = (
        [f"perplexity lowered from {wanted:g} to {used:.3g}: there are {n} pictures"]
        if used != wanted
        else []
    )
    reduced = _reduced(features, seed)
    with _one_thread():
        start = _start(reduced, 1e-4, seed)
        if n >= _LARGE and _installed("openTSNE"):
            import openTSNE

            options = {"initialization": start, "random_state": seed, "n_jobs": 1}
            points = openTSNE.TSNE(perplexity=used, **options).fit(reduced)
            engine, divergence = "openTSNE", points.kl_divergence
        else:
            from sklearn.manifold import TSNE

            model = TSNE(perplexity=used, init=start, random_state=seed)
            points = model.fit_transform(reduced.astype(np.float32))
            engine, divergence = "scikit-learn", model.kl_divergence_
    figures = {
        "engine": _engine(engine),
        "divergence": round(float(divergence), 6),
        "perplexity": round(used, 4),
    }
    return Projection(np.asarray(points).astype(np.float32), ("t-SNE 1", "t-SNE 2"), figures, notes)


def _umap(features: np.ndarray, perplexity: float | None, seed: int) -> Projection:
    n = len(features)
    wanted = 15 if perplexity is None else max(2, round(perplexity))
    used = min(wanted, n - 1)
    notes = [] if used == wanted else [f"n_neighbors lowered from {wanted} to {used}: there are {n} pictures"]
    reduced = _reduced(features, seed)
    with warnings.catch_warnings(), _one_thread():
        warnings.simplefilter("ignore")  # it advises on its own settings; what we change is in the notes
        import umap

        # A spectral start would depend on whether the graph of neighbours is connected.
        model = umap.UMAP(n_neighbors=used, init=_start(reduced, 3.0, seed), random_state=seed, n_jobs=1)
        points = model.fit_transform(reduced.astype(np.float32))
    figures = {"engine": _engine("umap-learn"), "n_neighbors": used}
    return Projection(np.asarray(points, np.float32), ("UMAP 1", "UMAP 2"), figures, notes)


def _start(reduced: np.ndarray, scale: float, seed: int) -> np.ndarray:
    """Where the points start: the plane of greatest variance, which keeps the large-scale order.

    Kobak & Linderman 2021, Nature Biotechnology 39. A little noise parts points that are exactly alike, or
    that lie on one line (D = 1): equal forces would never part them, and scikit-learn's tree miscounts them.

    returns   (N, 2) float32, standard deviation `scale` along the first axis
    """
    plane = np.zeros((len(reduced), 2))
    plane[:, : reduced.shape[1]] = reduced[:, :2]
    noise = np.random.default_rng(seed).normal(size=plane.shape)
    return (scale * (plane + 1e-2 * noise)).astype(np.float32)


def _reduced(features: np.ndarray, seed: int) -> np.ndarray:
    """The first principal components, the very first with standard deviation 1: no method minds the scale."""
    scores = principal(features, min(_COMPONENTS, *features.shape), seed)[0]
    return scores / scores[:, 0].std()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads are added in the order they finish: the same seed would give other points."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _engine(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
