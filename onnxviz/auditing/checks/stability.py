"""Whether answers hold under what happens to pictures anyway: noise, a pixel's shift, JPEG, another filter, light."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.registry import Found, NotRun, Rule, check
from onnxviz.auditing.statistics import Share
from onnxviz.auditing.subject import Subject

#: A step's name, and the picture of 0 to 255 as the network sees it then.
Step = tuple[str, np.ndarray]
_MEASURE: Final = "share of confident pictures whose class changes at the mildest step (lower limit, 95 %)"
_LIMITS: Final = (
    "Pictures of which the network is not sure (the two best classes within 0.1) are left out. A stable network may be "
    "stably wrong."
)


def _judged(
    subject: Subject, rule: Rule, steps: Callable[[np.ndarray, np.ndarray, int], Iterator[Step]]
) -> Found:
    """The share of confident pictures whose class changes, by step; the mildest step is held against the threshold."""
    answers = subject.answers
    rows = {int(place): row for row, place in enumerate(answers.place)}
    changed: dict[str, list[bool]] = {}
    for place, picture, view in subject.each():
        if place not in rows or not answers.sure[rows[place]]:
            continue
        made = list(steps(picture, view, place))
        moved: dict[str, list[bool]] = {}
        for (name, _), scores in zip(made, subject.probabilities([one for _, one in made]), strict=True):
            moved.setdefault(name, []).append(bool(scores.argmax() != answers.best[rows[place], 0]))
        for name, each in moved.items():  # a picture counts once: what is done to it is not independent
            changed.setdefault(name, []).append(2 * sum(each) >= len(each))
    if not changed:
        raise NotRun("the network is sure of none of the pictures (two best classes within 0.1)")
    shares = {name: Share(sum(each), len(each)) for name, each in changed.items()}
    table = Evidence(
        "Confident pictures whose class changes",
        table={
            "step": list(shares),
            "changed": [one.count for one in shares.values()],
            "of": [one.of for one in shares.values()],
            "share": [one.share for one in shares.values()],
        },
    )
    mildest, first = next(iter(shares.items()))
    findings = []
    if first.limits[0] > rule.bar:
        text = f"under {mildest}, {first.count} of {first.of} confident answers change (at least {first.limits[0]:.0%})"
        advice = "Look at what was trained: augmentation was missing, or the preprocessing is not that of training."
        findings.append(rule.finding(round(first.limits[0], 4), mildest, text, advice, [table]))
    told = ", ".join(f"{name}: {one.count} of {one.of} change" for name, one in shares.items())
    return Found(told, findings, [table], {name: one.to_dict() for name, one in shares.items()})


_NEEDS: Final = ("network", "classes", "pictures")


@check(
    "stability.noise",
    "Do answers survive noise?",
    severity="medium",
    threshold=0.1,
    needs=_NEEDS,
    limits=_LIMITS,
    measure=_MEASURE,
)
def noise(subject: Subject, rule: Rule) -> Found:
    """Normal noise of 0.5, 1 and 2 grey levels."""

    def steps(picture: np.ndarray, view: np.ndarray, place: int) -> Iterator[Step]:
        drawn = np.random.default_rng([subject.seed, place]).standard_normal(view.shape, np.float32)
        for level in (0.5, 1.0, 2.0):
            yield f"noise of {level:g} grey levels", np.clip(view + level * drawn, 0, 255)

    return _judged(subject, rule, steps)


@check(
    "stability.shift",
    "Do answers survive a pixel's shift?",
    severity="medium",
    threshold=0.1,
    needs=_NEEDS,
    limits=_LIMITS,
    measure=_MEASURE,
)
def shift(subject: Subject, rule: Rule) -> Found:
    """The eight shifts by one pixel, edges repeated; a picture changes where half of them change it."""

    def steps(picture: np.ndarray, view: np.ndarray, place: int) -> Iterator[Step]:
        wide = np.pad(view, ((1, 1), (1, 1), (0, 0)), mode="edge")
        height, width = view.shape[:2]
        for y in (0, 1, 2):
            for x in (0, 1, 2):
                if (y, x) != (1, 1):
                    yield "a shift of 1 pixel", wide[y : y + height, x : x + width]

    return _judged(subject, rule, steps)


@check(
    "stability.jpeg",
    "Do answers survive JPEG?",
    severity="medium",
    threshold=0.1,
    needs=_NEEDS,
    limits=_LIMITS,
    measure=_MEASURE,
)
def jpeg(subject: Subject, rule: Rule) -> Found:
    """JPEG of quality 90 and 75, of what the network sees."""
    subject.net.preprocessing.require_pictures("JPEG")

    def steps(picture: np.ndarray, view: np.ndarray, place: int) -> Iterator[Step]:
        from PIL import Image

        for quality in (90, 75):
            buffer = io.BytesIO()
            Image.fromarray(view[..., :3]).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as coded:
                pixels = np.asarray(coded)
            yield f"JPEG of quality {quality}", np.concatenate([pixels, view[..., 3:]], axis=2)

    return _judged(subject, rule, steps)


@check("stability.resize", "Do answers hang on the filter of resizing?", severity="medium", threshold=0.1, needs=_NEEDS,
       limits=_LIMITS, measure=_MEASURE)  # fmt: skip
def resize(subject: Subject, rule: Rule) -> Found:
    """Other antialiased filters than the recipe's."""
    recipe = subject.net.preprocessing
    recipe.require_pictures("resizing")
    others = [name for name in ("bicubic", "bilinear", "lanczos") if name != recipe.interpolation]

    def steps(picture: np.ndarray, view: np.ndarray, place: int) -> Iterator[Step]:
        for name in others:
            yield f"{name} for {recipe.interpolation}", replace(recipe, interpolation=name).view(picture)

    return _judged(subject, rule, steps)


@check("stability.brightness", "Do answers survive a little more or less light?", severity="medium", threshold=0.1,
       needs=_NEEDS, limits=_LIMITS, measure=_MEASURE)  # fmt: skip
def brightness(subject: Subject, rule: Rule) -> Found:
    """All pixels times 0.95, 1.05, 0.9 and 1.1."""

    def steps(picture: np.ndarray, view: np.ndarray, place: int) -> Iterator[Step]:
        for factor, name in ((0.95, "5 %"), (1.05, "5 %"), (0.9, "10 %"), (1.1, "10 %")):
            yield f"light changed by {name}", np.clip(view * np.float32(factor), 0, 255)

    return _judged(subject, rule, steps)
