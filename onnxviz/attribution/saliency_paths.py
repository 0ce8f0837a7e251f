"""Attributions from the gradient along straight paths from a baseline to the picture: they add up to the score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnxviz.attribution.masking import FILLS, filling
from onnxviz.attribution.saliency_job import Found, Job, at_least
from onnxviz.errors import ImageRejected, UsageError, near

BASELINES = ("black", *FILLS)
# From this part of the score's change on, what is left unexplained is told as a warning.
_LARGE_ERROR = 0.05
_MOST_BASELINES = 64


def integrated_gradients(job: Job, *, steps: int = 50, baseline: Any = "black") -> Found:
    """The gradient averaged along the straight path from a baseline, times the way: shares of the score's change.

    Sundararajan, Taly & Yan 2017, arXiv:1703.01365. The shares add up to the score on the picture less that on the
    baseline; what is missing is in the figures (completeness_error, relative to the change), and warned about from
    5 % on. The integral is taken by Gauss-Legendre quadrature.

    steps      points on the path
    baseline   'black', 'grey', 'mean' (of the picture), 'blur', 'noise', 'zero' (in the network's input), a picture,
               or an input tensor of one picture's shape or of all
    """
    steps = at_least("steps", steps, 1)
    start, name = _start(job, baseline)
    places, weights = np.polynomial.legendre.leggauss(steps)
    places, weights = (places + 1) / 2, weights / 2
    way = job.x - start

    def draw(pictures: np.ndarray, which: np.ndarray) -> np.ndarray:
        along = places[which].astype(np.float32).reshape(-1, *([1] * (job.x.ndim - 1)))
        inputs: np.ndarray = start[pictures] + along * way[pictures]
        return inputs

    total = np.zeros(job.x.shape, dtype=np.float64)
    weight = np.zeros(len(job.x))

    def take(picture: int, sample: int, gradient: np.ndarray, value: float) -> None:
        total[picture] += weights[sample] * gradient
        weight[picture] += weights[sample]

    got = job.sampled(steps, draw, take)
    raw = way * total / weight.reshape(-1, *([1] * (job.x.ndim - 1)))
    count = np.arange(len(job.x))
    ends = job.objective(np.concatenate([job.x, start]), np.concatenate([count, count]))
    scores, before = ends[: len(count)], ends[len(count) :]
    figures, warnings = _completeness(raw, scores, before)
    for figure, done in zip(figures, got, strict=True):
        if done < steps:
            figure["steps_done"] = int(done)
    parameters = {"steps": steps, "baseline": name, "seed": job.seed}
    return Found(raw, scores, parameters, figures, warnings, incomplete=bool((got < steps).any()))


def expected_gradients(job: Job, *, samples: int = 100, baselines: Any = None) -> Found:
    """Integrated gradients averaged over many baselines, one random point on each path.

    Erion, Janizek, Sturmfels, Lundberg & Lee 2021, arXiv:1906.10670. Points are spread evenly over the paths
    (stratified), which lowers the noise; every picture gets the same baselines and points.

    samples     points; each has its own baseline
    baselines   a folder, or pictures, to draw baselines from (at most 64 of them are read); None: noise with the
                picture's own mean and deviation for each colour
    """
    samples = at_least("samples", samples, 1)
    rng = np.random.default_rng([job.seed, 0])
    places = ((rng.permutation(samples) + rng.random(samples)) / samples).astype(np.float32)
    given = None if baselines is None else _pool(job, baselines)
    choice = None if given is None else rng.permutation(np.resize(rng.permutation(len(given)), samples))

    def start(picture: int, sample: int) -> np.ndarray:
        if given is not None and choice is not None:
            chosen: np.ndarray = given[choice[sample]]
            return chosen
        seed = int(np.random.default_rng([job.seed, 1, sample]).integers(2**31))
        return filling(job.net, job.x[:1], job.pictures[picture], "noise", radius=0, seed=seed)[0]

    def draw(pictures: np.ndarray, which: np.ndarray) -> np.ndarray:
        inputs = []
        for picture, sample in zip(pictures.tolist(), which.tolist(), strict=True):
            from_ = start(picture, sample)
            ways[picture, sample] = job.x[picture] - from_
            inputs.append(from_ + places[sample] * ways[picture, sample])
        return np.stack(inputs)

    ways: dict[tuple[int, int], np.ndarray] = {}
    total = np.zeros(job.x.shape, dtype=np.float64)

    def take(picture: int, sample: int, gradient: np.ndarray, value: float) -> None:
        total[picture] += ways.pop((picture, sample)) * gradient

    got = job.sampled(samples, draw, take)
    raw = total / got.reshape(-1, *([1] * (job.x.ndim - 1)))
    figures: list[dict[str, Any]] = [
        {"sum": float(one.sum())} | ({"samples_done": int(done)} if done < samples else {})
        for one, done in zip(raw, got, strict=True)
    ]
    parameters = {
        "samples": samples,
        "baselines": "noise" if given is None else len(given),
        "seed": job.seed,
    }
    scores = job.objective(job.x, np.arange(len(job.x)))
    return Found(raw, scores, parameters, figures, incomplete=bool((got < samples).any()))


def _completeness(
    raw: np.ndarray, scores: np.ndarray, before: np.ndarray
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """How far the shares add up to the score's change, for each picture."""
    figures: list[dict[str, Any]] = []
    warnings: list[list[str]] = []
    for one, here, there in zip(raw, scores.tolist(), before.tolist(), strict=True):
        change, total = here - there, float(one.sum(dtype=np.float64))
        error = abs(total - change) / max(abs(change), 1e-12)
        figures.append(
            {"baseline_objective": there, "change": change, "sum": total, "completeness_error": error}
        )
        warnings.append(
            [
                f"the shares add up to {total:.4g} of a change of {change:.4g} (completeness error {error:.1%}): "
                "give more steps, or another baseline"
            ]
            if error > _LARGE_ERROR
            else []
        )
    return figures, warnings


def _start(job: Job, baseline: Any) -> tuple[np.ndarray, str]:
    """The baseline of every picture, of x's shape, and what it is called.

    raises   UsageError, ImageRejected
    """
    if isinstance(baseline, str) and baseline in BASELINES:
        return np.concatenate([_filled(job, number, baseline) for number in range(len(job.x))]), baseline
    if isinstance(baseline, str) and not any(sign in baseline for sign in "./\\"):
        raise UsageError(
            f"unknown baseline {baseline!r}{near(baseline, BASELINES)}; expected one of {', '.join(BASELINES)}, "
            "a picture or an input tensor"
        )
    if isinstance(baseline, np.ndarray) and baseline.dtype.kind == "f":
        if baseline.shape not in (job.x.shape[1:], job.x.shape, (1, *job.x.shape[1:])):
            raise UsageError(
                f"the baseline has shape {baseline.shape}; expected {job.x.shape[1:]} or {job.x.shape}, as the input"
            )
        return np.broadcast_to(baseline.astype(np.float32), job.x.shape), "tensor"
    return np.broadcast_to(_prepared(job, baseline), job.x.shape), "picture"


def _filled(job: Job, number: int, name: str) -> np.ndarray:
    """A baseline made from one picture, (1, ...)."""
    picture = job.pictures[number]
    if name == "black":
        black = job.net.preprocessing.normalise(np.zeros_like(picture)[None])
        return black.astype(np.float32, copy=False)
    # A blur wide enough that nothing can be recognised any more.
    return filling(job.net, job.x[:1], picture, name, radius=min(picture.shape[:2]) / 8, seed=job.seed)


def _prepared(job: Job, image: Any) -> np.ndarray:
    """A picture as a baseline, at the size of the pictures explained."""
    recipe = job.net.preprocessing
    seen = recipe.view(recipe.read(image))
    height, width = job.pictures[0].shape[:2]
    if seen.shape[:2] != (height, width):
        alike = replace(
            recipe, size=(height, width), resize="stretch", crop_fraction=1.0, interpolation="bilinear"
        )
        seen = alike.view(seen)
    return recipe.normalise(seen[None]).astype(np.float32, copy=False)[0]


def _pool(job: Job, baselines: Any) -> np.ndarray:
    """The baselines to draw from, at most 64, (B, ...); pictures that cannot be read are left out.

    raises   ImageRejected where none could be read
    """
    from onnxviz.features.stream import sources

    listed = sources(baselines, job.net).images
    order = np.random.default_rng([job.seed, 2]).permutation(len(listed))
    found: list[np.ndarray] = []
    for number in order:
        if len(found) == _MOST_BASELINES:
            break
        try:
            found.append(_prepared(job, listed[int(number)]))
        except ImageRejected:
            continue
    if not found:
        raise ImageRejected("no picture to draw baselines from could be read; give a folder of pictures")
    return np.stack(found)
