"""Attributions from the gradient at noisy copies of the picture."""

from __future__ import annotations

import numpy as np

from onnxviz.attribution.saliency_job import Found, Job, at_least
from onnxviz.errors import UsageError


def smoothgrad(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The mean gradient over noisy copies: what single sharp kinks say averages out.

    Smilkov, Thorat, Kim, Viégas & Wattenberg 2017, arXiv:1706.03825.

    samples   noisy copies of each picture
    noise     the noise's standard deviation, as a part of the range of the picture's input values
    """
    total, _, found = _moments(job, samples, noise)
    found.raw = total
    return found


def smoothgrad_squared(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The mean squared gradient over noisy copies.

    Hooker, Erhan, Kindermans & Kim 2019, arXiv:1806.10758. Options as `smoothgrad`.
    """
    _, squares, found = _moments(job, samples, noise)
    found.raw = squares
    return found


def vargrad(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The variance of the gradient over noisy copies.

    Adebayo, Gilmer, Goodfellow & Kim 2018, arXiv:1810.03307. Options as `smoothgrad`, samples at least 2.
    """
    at_least("samples", samples, 2)
    mean, squares, found = _moments(job, samples, noise)
    found.raw = np.maximum(squares - mean * mean, 0)
    return found


def _moments(job: Job, samples: int, noise: float) -> tuple[np.ndarray, np.ndarray, Found]:
    """The mean gradient and the mean squared gradient over noisy copies, float64, and what else was found."""
    samples = at_least("samples", samples, 1)
    if not 0 < noise < 10:
        raise UsageError(f"noise is a part of the input's range such as 0.15, over 0; got {noise}")
    axes = tuple(range(1, job.x.ndim))
    spread = noise * (job.x.max(axis=axes) - job.x.min(axis=axes))  # (N,)

    def draw(pictures: np.ndarray, which: np.ndarray) -> np.ndarray:
        # A sample's noise is the same for every picture, so that a picture's map does not depend on its neighbours.
        drawn = {int(s): _normal(job, int(s)) for s in set(which.tolist())}
        return np.stack(
            [job.x[p] + np.float32(spread[p]) * drawn[int(s)] for p, s in zip(pictures, which, strict=True)]
        )

    total = np.zeros(job.x.shape, dtype=np.float64)
    squares = np.zeros(job.x.shape, dtype=np.float64)

    def take(picture: int, sample: int, gradient: np.ndarray, value: float) -> None:
        total[picture] += gradient
        squares[picture] += np.square(gradient, dtype=np.float64)

    got = job.sampled(samples, draw, take)
    counts = got.reshape(-1, *([1] * (job.x.ndim - 1)))
    return (
        total / counts,
        squares / counts,
        Found(
            total,
            job.objective(job.x, np.arange(len(job.x))),
            {"samples": samples, "noise": noise, "seed": job.seed},
            [{"samples_done": int(done)} if done < samples else {} for done in got],
            incomplete=bool((got < samples).any()),
        ),
    )


def _normal(job: Job, sample: int) -> np.ndarray:
    """Standard normal noise of one picture's shape, drawn from the seed and the sample's number.

    Drawn as (C, H, W), so that it is the same picture's whichever way the network has its axes.
    """
    rng = np.random.default_rng([job.seed, sample])
    if job.net.input.layout == "NCHW":
        return rng.standard_normal(job.x.shape[1:], dtype=np.float32)
    height, width, channels = job.x.shape[1:]
    return rng.standard_normal((channels, height, width), dtype=np.float32).transpose(1, 2, 0)
