"""Whether answers hold under what happens to pictures anyway: noise, a pixel's shift, JPEG, another filter, light; and
how small a change made on purpose turns them, which is a figure to know and no fault of its own."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Final

import numpy as np
from PIL import Image

from onnxviz.auditing.finding import Check, Evidence, NotApplicable, NotRun, Rule, check
from onnxviz.auditing.statistics import Share, counted
from onnxviz.auditing.subject import Subject, spread
from onnxviz.synthesis.fool import frame
from onnxviz.synthesis.fool_attack import Attack, Budget, to_pictures, to_planes

#: A step's name, and the picture of 0 to 255 as the network sees it then.
Step = tuple[str, np.ndarray]
#: Makes the steps of a picture: its place, itself, as the network sees it.
Steps = Callable[[Subject, int, np.ndarray, np.ndarray], Iterator[Step]]
_MEASURE: Final = "share of confident pictures whose class changes at the mildest step (lower limit, 95 %)"
_LIMITS: Final = (
    "Pictures of which the network is not sure (the two best classes within 0.1) are left out. A stable network may be "
    "stably wrong."
)


def _stable(id: str, title: str) -> Callable[[Steps], None]:
    """Enter the steps that a function makes as a check."""

    def enter(steps: Steps) -> None:
        @wraps(steps)
        def judged(subject: Subject, rule: Rule) -> Check:
            return _judged(subject, rule, steps)

        check(id, title, severity="medium", threshold=0.1, needs=("network", "classes", "pictures"),
              limits=_LIMITS, measure=_MEASURE)(judged)  # fmt: skip

    return enter


def _judged(subject: Subject, rule: Rule, steps: Steps) -> Check:
    """The share of confident pictures whose class changes, by step; the mildest step is held against the threshold."""
    answers = subject.answers
    rows = answers.rows
    changed: dict[str, list[bool]] = {}
    for place, picture, view in subject.each():
        if place not in rows or not answers.sure[rows[place]]:
            continue
        made = list(steps(subject, place, picture, view))
        moved: dict[str, list[bool]] = {}
        for (name, _), scores in zip(made, subject.probabilities([one for _, one in made]), strict=True):
            moved.setdefault(name, []).append(bool(scores.argmax() != answers.best[rows[place], 0]))
        for name, each in moved.items():  # a picture counts once: what is done to it is not independent
            changed.setdefault(name, []).append(2 * sum(each) >= len(each))
    if not changed:
        raise NotRun("the network is sure of none of the pictures (two best classes within 0.1)")
    shares = {name: Share(sum(each), len(each)) for name, each in changed.items()}
    table = Evidence("Confident pictures whose class changes", table=counted("step", shares, "changed"))
    mildest, first = next(iter(shares.items()))
    findings = []
    if first.limits[0] > rule.bar:
        text = f"under {mildest}, {first.count} of {first.of} confident answers change (at least {first.limits[0]:.0%})"
        advice = "Look at what was trained: augmentation was missing, or the preprocessing is not that of training."
        findings.append(rule.finding(round(first.limits[0], 4), mildest, text, advice, [table]))
    told = ", ".join(f"{name}: {one.count} of {one.of} change" for name, one in shares.items())
    return rule.check(told, findings, [table], {name: one.to_dict() for name, one in shares.items()})


@_stable("stability.noise", "Do answers survive noise?")
def noise(subject: Subject, place: int, picture: np.ndarray, view: np.ndarray) -> Iterator[Step]:
    """Normal noise of 0.5, 1 and 2 grey levels."""
    drawn = np.random.default_rng([subject.seed, place]).standard_normal(view.shape, np.float32)
    for level in (0.5, 1.0, 2.0):
        yield f"noise of {level:g} grey levels", np.clip(view + level * drawn, 0, 255)


@_stable("stability.shift", "Do answers survive a pixel's shift?")
def shift(subject: Subject, place: int, picture: np.ndarray, view: np.ndarray) -> Iterator[Step]:
    """The eight shifts by one pixel, edges repeated; a picture changes where half of them change it."""
    wide = np.pad(view, ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = view.shape[:2]
    for y, x in itertools.product(range(3), range(3)):
        if (y, x) != (1, 1):
            yield "a shift of 1 pixel", wide[y : y + height, x : x + width]


@_stable("stability.jpeg", "Do answers survive JPEG?")
def jpeg(subject: Subject, place: int, picture: np.ndarray, view: np.ndarray) -> Iterator[Step]:
    """JPEG of quality 90 and 75, of what the network sees."""
    subject.net.preprocessing.require_pictures("JPEG")
    for quality in (90, 75):
        buffer = io.BytesIO()
        Image.fromarray(view[..., :3]).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as coded:
            pixels = np.asarray(coded)
        yield f"JPEG of quality {quality}", np.concatenate([pixels, view[..., 3:]], axis=2)


@_stable("stability.resize", "Do answers hang on the filter of resizing?")
def resize(subject: Subject, place: int, picture: np.ndarray, view: np.ndarray) -> Iterator[Step]:
    """Other antialiased filters than the recipe's."""
    recipe = subject.net.preprocessing
    recipe.require_pictures("resizing")
    for name in ("bicubic", "bilinear", "lanczos"):
        if name != recipe.interpolation:
            yield f"{name} for {recipe.interpolation}", replace(recipe, interpolation=name).view(picture)


@_stable("stability.brightness", "Do answers survive a little more or less light?")
def brightness(subject: Subject, place: int, picture: np.ndarray, view: np.ndarray) -> Iterator[Step]:
    """All pixels times 0.95, 1.05, 0.9 and 1.1."""
    for factor, name in ((0.95, "5 %"), (1.05, "5 %"), (0.9, "10 %"), (1.1, "10 %")):
        yield f"light changed by {name}", np.clip(view * np.float32(factor), 0, 255)


# --- on purpose -------------------------------------------------------------------------------------

_BOUNDS: Final = (1, 2, 4, 8)  # grey levels of 255, of any pixel
_STEPS: Final = 10
_LENGTH: Final = 2.5  # the steps together are this many bounds long (Madry et al. 2018, arXiv:1706.06083)
_PICTURES: Final = 20


@check(
    "stability.attack",
    "How small a change made on purpose turns answers?",
    severity="medium",
    threshold=1.0,
    measure="share of answers that changes of 1 of 255 turn",
    needs=("network", "classes", "pictures", "gradients"),
    limits="Ten steps towards the second class are a weak attacker: others need less. Every network that was not "
    "trained against it falls, so only a policy's threshold makes it a finding.",
)
def attack(subject: Subject, rule: Rule) -> Check:
    """The share of 20 pictures that PGD turns within 1, 2, 4, 8 of 255; what 1 turns is held against the threshold."""
    net, answers = subject.net, subject.answers
    if not (net.preprocessing.pictorial and net.end.scored):
        raise NotApplicable(
            "PGD climbs the score of a class by pixels, and this network has no such scores or pixels"
        )
    if answers.best.shape[1] < 2:
        raise NotApplicable("there is one class only: nothing to turn an answer into")
    least = [_least(subject, row) for row in spread(range(len(answers.place)), _PICTURES)]
    count = len(least)
    steps = {
        f"{bound} of 255": Share(sum(one is not None and one <= bound for one in least), count)
        for bound in _BOUNDS
    }
    caption = f"Pictures whose answer PGD turns ({_STEPS} steps, towards the second class)"
    table = Evidence(caption, table=counted("within", steps, "turned"))
    findings = []
    share = next(iter(steps.values())).share or 0.0
    if share > rule.bar:
        text = f"changes of {_BOUNDS[0]} of 255 turn {share:.0%} of {count} answers, where {rule.bar:.0%} are allowed"
        advice = "Train against it (arXiv:1706.06083), or let nobody who gains by it choose the pixels."
        findings.append(rule.finding(share, "", text, advice, [table]))
    told = ", ".join(f"{name}: {one.count} of {one.of}" for name, one in steps.items())
    return rule.check(told, findings, [table], {name: one.to_dict() for name, one in steps.items()})


def _least(subject: Subject, row: int) -> int | None:
    """The smallest bound within which the answer turns; None: none of them. A larger bound holds the smaller."""
    net, recipe = subject.net, subject.net.preprocessing
    place, (first, second) = int(subject.answers.place[row]), subject.answers.best[row, :2]
    picture = next((picture for _, picture, _ in subject.each([place])), None)
    if picture is None:
        raise NotRun(f"{subject.name(place)} could not be read again")
    seen = frame(recipe, picture)
    start = to_planes(recipe, seen.view[None])
    moves = None if seen.moves is None else seen.moves[None]
    for bound in _BOUNDS:
        climbing = Attack(net, start, np.array([second]), Budget("linf", bound), moves=moves)
        rng = np.random.default_rng([subject.seed, place])

        def draw(_: int, shape: tuple[int, ...], rng: np.random.Generator = rng) -> np.ndarray:
            return rng.uniform(-1, 1, shape)

        for _ in climbing.climb(_STEPS, _LENGTH * bound / _STEPS, draw):
            pass
        scores = net.probabilities(recipe.normalise(to_pictures(climbing.found).astype(np.uint8)))
        if int(scores[0].argmax()) != first:
            return bound
    return None
