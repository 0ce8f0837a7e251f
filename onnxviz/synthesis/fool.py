"""Fooling images: changes too small to see after which the network says something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution.targets import Targets, parse
from onnxviz.errors import ImageRejected, LimitExceeded, UsageError, WorkerCrashed, at_least, one_of, ways
from onnxviz.features.stream import none_used, refusal, source_name, sources
from onnxviz.image.folder import Skipped
from onnxviz.image.io import read
from onnxviz.network import Images, Network
from onnxviz.progress import Shown, told
from onnxviz.provenance import note_view, recorded
from onnxviz.synthesis.fool_attack import Attack, Budget, to_pictures, to_planes
from onnxviz.synthesis.fool_result import Fooled, Outcome
from onnxviz.synthesis.made import keeping
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing

METHODS = ("gradient", "fgsm", "pgd")
NORMS = ("l2", "linf")
_STEPS = {"gradient": 200, "fgsm": 1, "pgd": 20}
_NORM = {"gradient": "l2", "fgsm": "linf", "pgd": "linf"}
_LINF = {"fgsm": 4.0, "pgd": 2.0}  # grey levels
_L2_A_PIXEL = 1.0  # the default L2 bound, as a root mean square change in grey levels
_STEP_A_PIXEL = 0.05  # a step of `gradient`, likewise
_LINF_STEP = 0.125  # a step of `gradient` under L∞, in grey levels
_OVERSHOOT = 2.5  # PGD's steps together are this many bounds long (Madry et al.)


@dataclass(frozen=True)
class _Settings:
    """The arguments of `fool`; None: what `settled` makes of it."""

    method: str
    norm: Any
    bound: Any
    steps: Any
    confidence: float
    seed: int

    def settled(self, shape: tuple[int, ...]) -> _Settings:
        """With their defaults, for views of this shape; raises UsageError."""
        method, bound, steps = one_of("method", self.method, METHODS), self.bound, self.steps
        norm = _NORM[method] if self.norm is None else one_of("norm", self.norm, NORMS)
        if bound is None and method != "gradient":
            bound = _LINF[method] if norm == "linf" else _L2_A_PIXEL * float(np.sqrt(np.prod(shape)))
        if bound is not None and not bound >= 1:
            raise UsageError(
                f"a bound of {bound:g} grey levels leaves no 8-bit pixel to change; pixels are 0 to 255, give 1 or more"
            )
        if method == "fgsm" and steps not in (None, 1):
            raise UsageError(f"fgsm is one step, got steps={steps}; method pgd takes several")
        steps = _STEPS[method] if steps is None else at_least("steps", steps)
        if not 0 <= self.confidence <= 1:
            raise UsageError(f"confidence is a probability, 0 to 1; got {self.confidence:g}")
        return replace(self, norm=norm, bound=bound, steps=steps)


@recorded
def fool(
    net: Network,
    images: Images,
    *,
    target: Targets = None,
    method: str = "gradient",
    norm: str | None = None,
    bound: float | None = None,
    steps: int | None = None,
    confidence: float = 0.0,
    seed: int = 0,
    progress: Shown = "auto",
) -> Fooled:
    """Adversarial images: they look the same, and the network takes them for something else.

    Szegedy et al. 2014, arXiv:1312.6199. Whether an image fools is decided on its rounded 8-bit pixels.

    images       one image, or a folder or list of them: what cannot be read in a folder is skipped and listed
    target       class index or label to be mistaken for, one for all or one for each; None: each image's most probable
                 other class
    method       'gradient': normalised gradient steps until the target is on top, then back as far as it stays there
                 (Simonyan et al. 2014; CS231n), which looks for the smallest change; 'fgsm': one step (Goodfellow et
                 al. 2015); 'pgd': projected steps from a random start (Madry et al. 2018), which use the whole bound
    norm         how a change is measured: 'linf', its largest pixel, or 'l2', its Euclidean length; None: 'l2' for
                 gradient, 'linf' for the others
    bound        the largest change in grey levels of 0 to 255; None: none for gradient; for linf 4 (fgsm) or 2 (pgd),
                 for l2 a root mean square of one grey level
    steps        at most; None: 200 for gradient, 20 for pgd
    confidence   the probability that the target must have beside being on top, 0 to 1
    returns      Fooled, values (N, h, w, 3) float32: the images as the network sees them, whole grey levels
    raises       UsageError, UnknownLabel, ImageRejected, ModelUnsuitable (no classifier), UnsupportedOperator;
                 Interrupted on Ctrl-C, LimitExceeded, WorkerCrashed and GradientNotFinite with the images so far as
                 `.partial`
    """
    progress = told(progress)
    net.preprocessing.require_pictures("fool")
    asked = parse(net, target)
    listing = sources(images, net).require()
    each = asked.each(len(listing.images))
    frames, names, numbers, skipped = _frames(net, listing.images)
    wanted = each.at(numbers).classes
    skipped = [*listing.skipped, *skipped]
    settings = _Settings(method, norm, bound, steps, confidence, seed).settled(frames[0].view.shape)
    found: list[tuple[Frame, np.ndarray]] = []
    outcomes: list[Outcome] = []
    under_way: list[tuple[slice, _Batch]] = []

    def measured() -> None:
        """What became of the images under way."""
        while under_way:
            part, batch = under_way.pop()
            views, results = batch.finish()
            found.extend(zip(frames[part], views, strict=True))
            outcomes.extend(results)

    def result() -> Fooled | None:
        try:
            measured()
        except (LimitExceeded, WorkerCrashed):  # those before them stand
            if not found:
                raise
        if not found:
            return None
        manifest = net.manifest(
            "fool",
            target=asked.classes[0] if len(asked) == 1 else list(wanted),
            label=asked.labels[0] or None if len(asked) == 1 else None,
            **vars(settings),
        )
        manifest["figures"] = _figures(outcomes, len(skipped))
        manifest["images"] = [outcome.to_dict() for outcome in outcomes]
        manifest["skipped"] = [one.to_dict() for one in skipped]
        return Fooled(
            values=np.stack([view for _, view in found]).astype(np.float32),
            manifest=manifest,
            originals=[one.view for one, _ in found],
            images=[one.with_view(view) for one, view in found],
            outcomes=outcomes,
        )

    size = net.batch_size()
    with keeping(result):
        for first in range(0, len(frames), size):
            part = slice(first, min(first + size, len(frames)))
            batch = _Batch(net, frames[part], names[part], wanted[part], settings)
            under_way.append((part, batch))
            for step in batch.run(first):
                if len(frames) == 1:
                    progress(step, settings.steps, "steps")
            measured()
            progress(part.stop, len(frames), "images")
    made = result()
    assert made is not None
    if len(frames) == 1 and made.outcomes[0].already:
        raise UsageError(
            f"the network takes the image for {outcomes[0].target_label!r} as it is; choose another target"
        )
    return made


def _frames(net: Network, images: Sequence[Any]) -> tuple[list[Frame], list[str], list[int], list[Skipped]]:
    """What can be read, its names and numbers; of several images, the others with the reason."""
    frames: list[Frame] = []
    names: list[str] = []
    numbers: list[int] = []
    skipped: list[Skipped] = []
    for number, image in enumerate(images):
        try:
            whole = read(image, limits=net.limits)
            note_view(net.preprocessing, whole)
            made = frame(net.preprocessing, whole)
            net.check_size(made.view.shape[:2])
            frames.append(made)
        except ImageRejected as error:
            if len(images) == 1:
                raise
            skipped.append(refusal(image, number, error))
        else:
            names.append(printable(source_name(image, number)))
            numbers.append(number)
    if not frames:
        raise none_used(len(images), skipped)
    shapes = {one.view.shape for one in frames}
    if len(shapes) > 1:
        raise UsageError(
            f"the images have {len(shapes)} different sizes and this network keeps each image's own"
            + ways("give --size WIDTHxHEIGHT", "give one image at a time")
        )
    return frames, names, numbers, skipped


class _Batch:
    """Some images, attacked together."""

    def __init__(
        self,
        net: Network,
        frames: Sequence[Frame],
        names: Sequence[str],
        classes: Sequence[int | None],
        settings: _Settings,
    ) -> None:
        self._net, self._settings = net, settings
        self._names = names
        recipe = net.preprocessing
        start = to_planes(recipe, np.stack([one.view for one in frames]))
        self._before = net.probabilities(recipe.normalise(to_pictures(start)))
        order = np.argsort(-self._before, axis=1, kind="stable")
        self._from, second = order[:, 0], order[:, min(1, order.shape[1] - 1)]
        targets = [other if one is None else one for one, other in zip(classes, second, strict=True)]
        self._targets = np.array(targets, np.int64)
        # An image that is the target already is left as it is.
        self._open = np.flatnonzero(self._from != self._targets)
        every = np.ones(start.shape[1:3], bool)
        moves = np.stack([every if one.moves is None else one.moves for one in frames])[self._open]
        budget, left = Budget(settings.norm, settings.bound), self._targets[self._open]
        self.start = start
        self.attack = Attack(net, start[self._open], left, budget, settings.confidence, moves)

    def run(self, first: int) -> Iterator[int]:
        """Take the steps; yields how many were taken.

        first   the number of the first image among all: each starts by the seed and its own number
        """
        s, pixels = self._settings, float(np.sqrt(np.prod(self.start.shape[1:])))
        if not len(self._open):
            return
        if s.method == "gradient":
            yield from self.attack.walk(s.steps, _LINF_STEP if s.norm == "linf" else _STEP_A_PIXEL * pixels)
            return
        if s.method == "fgsm":
            yield from self.attack.climb(1, s.bound, None)
            return

        numbers = first + np.arange(len(self.start))[self._open]

        def draw(i: int, shape: tuple[int, ...]) -> np.ndarray:
            number = int(numbers[i])
            random = np.random.default_rng([s.seed, number] if number else s.seed)
            return random.uniform(-1, 1, shape) if s.norm == "linf" else random.standard_normal(shape)

        yield from self.attack.climb(s.steps, _OVERSHOOT * s.bound / s.steps, draw)

    def finish(self) -> tuple[np.ndarray, list[Outcome]]:
        """The views so far, (n, h, w, 3) uint8, and what became of each image."""
        planes = self.start.copy()
        planes[self._open] = self.attack.found
        views = to_pictures(planes).astype(np.uint8)
        # Measured afresh, on what is saved.
        after = self._net.probabilities(self._net.preprocessing.normalise(views))
        steps = np.zeros(len(planes), np.int64)
        steps[self._open] = self.attack.steps
        outcomes = []
        for i, name in enumerate(self._names):
            source, aim, top = int(self._from[i]), int(self._targets[i]), int(np.argmax(after[i]))
            change = planes[i] - self.start[i]
            squares = change.astype(np.float64) ** 2
            told: dict[str, Any] = {}
            for role, index in (("source", source), ("target", aim), ("top", top)):
                told |= {role: index, f"{role}_label": self._net.label(index)}
                told[f"{role}_after"] = float(after[i, index])
            outcomes.append(
                Outcome(
                    name=name,
                    source_before=float(self._before[i, source]),
                    target_before=float(self._before[i, aim]),
                    already=source == aim,
                    fooled=top == aim != source and float(after[i, aim]) >= self._settings.confidence,
                    steps=int(steps[i]),
                    l2=float(np.sqrt(squares.sum())),
                    linf=float(np.abs(change).max()),
                    rms=float(np.sqrt(squares.mean())),
                    changed=float((change != 0).mean()),
                    **told,
                )
            )
        return views, outcomes


def _figures(outcomes: Sequence[Outcome], skipped: int) -> dict[str, Any]:
    tried = [one for one in outcomes if not one.already]
    fooled = [one for one in tried if one.fooled]
    found: dict[str, Any] = {
        "images": len(outcomes),
        "already": len(outcomes) - len(tried),
        "fooled": len(fooled),
        "success_rate": len(fooled) / len(tried) if tried else None,
        "skipped": skipped,
    }
    for name in ("l2", "linf", "rms", "steps"):
        found[f"median_{name}"] = float(np.median([getattr(one, name) for one in fooled])) if fooled else None
    return found


_MOST_PIXELS = 1 << 26


@dataclass(frozen=True)
class Frame:
    """A picture as large as the network resizes it, and the part of it that the network sees.

    whole      (H, W, 3) uint8. Prepared once more it is neither resized nor cut elsewhere: the network sees `view`
    view       (h, w, 3) uint8
    moves      (h, w) bool, which pixels of the view are the picture's and not padding; None: all
    """

    whole: np.ndarray
    view: np.ndarray
    moves: np.ndarray | None
    _place: tuple[slice, slice]
    _inside: tuple[slice, slice]

    def with_view(self, view: np.ndarray) -> np.ndarray:
        """The whole picture with another view, (H, W, 3) uint8."""
        result = self.whole.copy()
        result[self._place] = view[self._inside]
        return result


def frame(recipe: Preprocessing, image: np.ndarray) -> Frame:
    """The frame of a picture (H, W, 3) uint8.

    raises   ImageRejected where it is so long and thin that it would be resized to gigabytes
    """
    g = recipe.geometry(*image.shape[:2])
    if g.height * g.width > _MOST_PIXELS:
        raise ImageRejected(
            f"a picture of {image.shape[1]}×{image.shape[0]} pixels is resized to {g.width}×{g.height} for this "
            "network; crop it first"
        )
    stretched = replace(recipe, size=(g.height, g.width), resize="stretch", crop_fraction=1.0)
    whole, view = stretched.view(image), recipe.view(image)
    h, w = view.shape[:2]
    padded = g.top < 0 or g.left < 0 or g.height < h or g.width < w
    if padded:
        inside = (slice(-g.top, -g.top + g.height), slice(-g.left, -g.left + g.width))
        place = (slice(0, g.height), slice(0, g.width))
        moves = np.zeros((h, w), bool)
        moves[inside] = True
        return Frame(whole, view, moves, place, inside)
    place = (slice(g.top, g.top + h), slice(g.left, g.left + w))
    return Frame(whole, view, None, place, (slice(0, h), slice(0, w)))
