"""Attributions from many gradients of each picture: at noisy copies of it, and along paths to it from a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution.result import Found
from onnxviz.attribution.targets import Target
from onnxviz.errors import ImageRejected, UsageError, at_least, near
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

if TYPE_CHECKING:
    from onnxviz.gradients import Gradients

# From this part of the score's change on, what is left unexplained is told as a warning.
_LARGE_ERROR = 0.05
_MOST_BASELINES = 64

#: (picture numbers (n,), sample numbers (n,)) -> input tensors, one for each pair
Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: (picture, sample, the gradient there): told once for each
Take = Callable[[int, int, np.ndarray], None]


@dataclass
class Job:
    """One call of a method.

    x          the network's input tensor, N pictures, float32
    pictures   each as the network sees it, (H, W, 3) uint8; of arrays (H, W, C), uint8 or float32
    aim        what is explained
    """

    net: Network
    x: np.ndarray
    pictures: list[np.ndarray]
    aim: Target
    seed: int = 0
    batch: int | None = None
    progress: Progress = silent
    _compiled: dict[str, Gradients] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str:
        """The name of the input that the gradient is taken by."""
        return self.net.input.name

    def gradients(self, rules: str = "plain") -> Gradients:
        """The objective compiled with its gradient, once for the job."""
        if rules not in self._compiled:
            self._compiled[rules] = self.aim.gradients(self.net, rules=rules)
        return self._compiled[rules]

    def gradient(self, rules: str = "plain") -> tuple[np.ndarray, np.ndarray]:
        """The objective on each picture, (N,), and its gradient, of x's shape."""
        run = self.gradients(rules)
        arrays = run(self.x, self.aim.feeds(), batch=self.batch, progress=self.progress)
        return arrays["objective"], arrays[f"{self.source}.gradient"]

    def planes(self, array: np.ndarray) -> np.ndarray:
        """An array of x's shape as (N, C, H, W)."""
        return array if self.net.input.layout == "NCHW" else np.moveaxis(array, 3, 1)

    def each(self, numbers: np.ndarray) -> np.ndarray:
        """One number a picture, (n,), in the shape that broadcasts over input tensors."""
        return numbers.reshape(-1, *([1] * (self.x.ndim - 1)))

    def objective(self, x: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        """The objective on input tensors `x`, (M,), each as that of the picture numbered in `pictures`, (M,)."""
        run = self.gradients()
        return run(x, self.aim.feeds(pictures), batch=self.batch)["objective"]

    def sampled(self, count: int, draw: Draw, take: Take) -> np.ndarray:
        """The gradient at `count` samples of every picture, in batches over samples and pictures.

        returns   how many samples each picture got, (N,): fewer than `count` where Ctrl-C ended it. Before every
                  picture has one, it goes on as KeyboardInterrupt.
        """
        total = len(self.x)
        # Sample by sample over all pictures, so that an interrupted run leaves every picture about as far.
        samples, numbers = (grid.ravel() for grid in np.divmod(np.arange(count * total), total))
        run, size = self.gradients(), self.net.batch_size(self.batch)
        got = np.zeros(total, dtype=np.int64)
        try:
            for start in range(0, len(samples), size):
                part = slice(start, start + size)
                x = draw(numbers[part], samples[part])
                arrays = run(x, self.aim.feeds(numbers[part]), batch=self.batch)
                gradients = arrays[f"{self.source}.gradient"]
                for number, sample, gradient in zip(numbers[part], samples[part], gradients, strict=True):
                    take(int(number), int(sample), gradient)
                    got[number] += 1
                self.progress(start + len(x), len(samples), "samples")
        except KeyboardInterrupt:
            if not got.all():
                raise
        return got


# --- at noisy copies ---


def smoothgrad(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The mean gradient over noisy copies: what single sharp kinks say averages out.

    Smilkov, Thorat, Kim, Viégas & Wattenberg 2017, arXiv:1706.03825.

    samples   noisy copies of each picture
    noise     the noise's standard deviation, as a part of the range of the picture's input values
    """
    return _noisy(job, at_least("samples", samples, 1), noise, lambda mean, squares: mean)


def smoothgrad_squared(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The mean squared gradient over noisy copies.

    Hooker, Erhan, Kindermans & Kim 2019, arXiv:1806.10758. Options as `smoothgrad`.
    """
    return _noisy(job, at_least("samples", samples, 1), noise, lambda mean, squares: squares)


def vargrad(job: Job, *, samples: int = 25, noise: float = 0.15) -> Found:
    """The variance of the gradient over noisy copies.

    Adebayo, Gilmer, Goodfellow & Kim 2018, arXiv:1810.03307. Options as `smoothgrad`, samples at least 2.
    """
    samples = at_least("samples", samples, 2)
    return _noisy(job, samples, noise, lambda mean, squares: np.maximum(squares - mean * mean, 0))


def _noisy(job: Job, samples: int, noise: float, raw: Callable[..., np.ndarray]) -> Found:
    """What `raw` makes of the mean gradient and the mean squared gradient over noisy copies, both float64."""
    if not 0 < noise < 10:
        raise UsageError(f"noise is a part of the input's range such as 0.15, over 0; got {noise}")
    axes = tuple(range(1, job.x.ndim))
    spread = noise * (job.x.max(axis=axes) - job.x.min(axis=axes))  # (N,)

    def draw(pictures: np.ndarray, which: np.ndarray) -> np.ndarray:
        # A sample's noise is the same for every picture, so that a picture's map does not depend on its neighbours.
        drawn = {s: _normal(job, s) for s in set(which.tolist())}
        pairs = zip(pictures.tolist(), which.tolist(), strict=True)
        return np.stack([job.x[p] + np.float32(spread[p]) * drawn[s] for p, s in pairs])

    total = np.zeros(job.x.shape, dtype=np.float64)
    squares = np.zeros(job.x.shape, dtype=np.float64)

    def take(picture: int, sample: int, gradient: np.ndarray) -> None:
        total[picture] += gradient
        squares[picture] += np.square(gradient, dtype=np.float64)

    got = job.sampled(samples, draw, take)
    counts = job.each(got)
    return Found(
        raw(total / counts, squares / counts),
        job.objective(job.x, np.arange(len(job.x))),
        {"samples": samples, "noise": noise, "seed": job.seed},
        _progress("samples", samples, got),
        incomplete=bool((got < samples).any()),
    )


def _progress(unit: str, count: int, got: np.ndarray) -> list[dict[str, Any]]:
    """For the figures of each picture: how many samples it got, where it did not get all."""
    return [{f"{unit}_done": int(done)} if done < count else {} for done in got]


def _normal(job: Job, sample: int) -> np.ndarray:
    """Standard normal noise of one picture's shape, drawn from the seed and the sample's number.

    Drawn as (C, H, W), so that it is the same picture's whichever way the network has its axes.
    """
    rng = np.random.default_rng([job.seed, sample])
    if job.net.input.layout == "NCHW":
        return rng.standard_normal(job.x.shape[1:], dtype=np.float32)
    height, width, channels = job.x.shape[1:]
    return rng.standard_normal((channels, height, width), dtype=np.float32).transpose(1, 2, 0)


# --- along straight paths ---


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
    places, weights = ((places + 1) / 2).astype(np.float32), weights / 2
    way = job.x - start

    def draw(pictures: np.ndarray, which: np.ndarray) -> np.ndarray:
        inputs: np.ndarray = start[pictures] + job.each(places[which]) * way[pictures]
        return inputs

    total = np.zeros(job.x.shape, dtype=np.float64)
    weight = np.zeros(len(job.x))

    def take(picture: int, sample: int, gradient: np.ndarray) -> None:
        total[picture] += weights[sample] * gradient
        weight[picture] += weights[sample]

    got = job.sampled(steps, draw, take)
    raw = way * total / job.each(weight)
    count = np.arange(len(job.x))
    ends = job.objective(np.concatenate([job.x, start]), np.concatenate([count, count]))
    scores, before = ends[: len(count)], ends[len(count) :]
    change = scores.astype(np.float64) - before
    figures, warnings = completeness(
        raw.sum(axis=tuple(range(1, raw.ndim)), dtype=np.float64),
        change,
        "the shares add up to {sum} of a change of {whole} (completeness error {error}): give more steps, or another "
        "baseline",
    )
    for one, there, way_, more in zip(figures, before, change, _progress("steps", steps, got), strict=True):
        one |= {"baseline_objective": float(there), "change": float(way_), **more}
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
    from onnxviz.attribution.occlusion import filling

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

    def take(picture: int, sample: int, gradient: np.ndarray) -> None:
        total[picture] += ways.pop((picture, sample)) * gradient

    got = job.sampled(samples, draw, take)
    raw = total / job.each(got)
    done = _progress("samples", samples, got)
    figures = [{"sum": float(one.sum()), **more} for one, more in zip(raw, done, strict=True)]
    parameters = {"samples": samples, "baselines": "noise" if given is None else len(given), "seed": job.seed}
    scores = job.objective(job.x, np.arange(len(job.x)))
    return Found(raw, scores, parameters, figures, incomplete=bool((got < samples).any()))


def completeness(
    sums: np.ndarray, wholes: np.ndarray, told: str
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """How far shares add up to what they explain, (N,) both: figures and warnings for each picture.

    told   the warning where much is missing, with {sum}, {whole} and {error}
    """
    figures: list[dict[str, Any]] = []
    warnings: list[list[str]] = []
    for total, whole in zip(sums.tolist(), wholes.tolist(), strict=True):
        error = abs(total - whole) / max(abs(whole), 1e-12)
        figures.append({"sum": total, "completeness_error": error})
        text = told.format(sum=f"{total:.4g}", whole=f"{whole:.4g}", error=f"{error:.1%}")
        warnings.append([text] if error > _LARGE_ERROR else [])
    return figures, warnings


def _start(job: Job, baseline: Any) -> tuple[np.ndarray, str]:
    """The baseline of every picture, of x's shape, and what it is called; raises UsageError, ImageRejected."""
    if isinstance(baseline, str) and not any(sign in baseline for sign in "./\\"):
        return np.concatenate([_filled(job, number, baseline) for number in range(len(job.x))]), baseline
    if isinstance(baseline, np.ndarray) and baseline.dtype.kind == "f":
        if baseline.shape not in (job.x.shape[1:], job.x.shape, (1, *job.x.shape[1:])):
            raise UsageError(
                f"the baseline has shape {baseline.shape}; expected {job.x.shape[1:]} or {job.x.shape}, as the input"
            )
        return np.broadcast_to(baseline.astype(np.float32), job.x.shape), "tensor"
    return np.broadcast_to(_prepared(job, baseline), job.x.shape), "picture"


def _filled(job: Job, number: int, name: str) -> np.ndarray:
    """A baseline made from one picture, (1, ...); raises UsageError."""
    picture = job.pictures[number]
    if name == "black":
        black = job.net.preprocessing.normalise(np.zeros_like(picture)[None])
        return black.astype(np.float32, copy=False)
    from onnxviz.attribution.occlusion import FILLS, filling

    if name not in FILLS:
        named = ("black", *FILLS)
        raise UsageError(
            f"unknown baseline {name!r}{near(name, named)}; expected one of {', '.join(named)}, "
            "a picture or an input tensor"
        )
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
