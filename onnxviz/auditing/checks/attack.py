"""How small a change that is made on purpose has to be to turn answers: a figure to know, no fault of its own."""

from __future__ import annotations

from typing import Final

import numpy as np

from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.registry import Found, NotApplicable, NotRun, Rule, check
from onnxviz.auditing.statistics import Share
from onnxviz.auditing.subject import Subject
from onnxviz.synthesis.fool import frame
from onnxviz.synthesis.fool_attack import Attack, Budget, to_pictures, to_planes

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
def attack(subject: Subject, rule: Rule) -> Found:
    """The share of 20 pictures that PGD turns within 1, 2, 4, 8 of 255; what 1 turns is held against the threshold."""
    net, answers = subject.net, subject.answers
    if not (net.preprocessing.pictorial and net.end.scored):
        raise NotApplicable(
            "PGD climbs the score of a class by pixels, and this network has no such scores or pixels"
        )
    if answers.best.shape[1] < 2:
        raise NotApplicable("there is one class only: nothing to turn an answer into")
    count = min(_PICTURES, len(answers.place))
    rows = [i * len(answers.place) // count for i in range(count)]
    least = {row: _least(subject, row) for row in rows}
    shares = {
        bound: Share(sum(one is not None and one <= bound for one in least.values()), count)
        for bound in _BOUNDS
    }
    steps = {f"{bound} of 255": share for bound, share in shares.items()}
    table = Evidence(
        f"Pictures whose answer PGD turns ({_STEPS} steps, towards the second class)",
        table={
            "within": list(steps),
            "turned": [one.count for one in steps.values()],
            "of": [one.of for one in steps.values()],
            "share": [one.share for one in steps.values()],
        },
    )
    findings = []
    share = shares[_BOUNDS[0]].share or 0.0
    if share > rule.bar:
        text = f"changes of {_BOUNDS[0]} of 255 turn {share:.0%} of {count} answers, where {rule.bar:.0%} are allowed"
        advice = "Train against it (arXiv:1706.06083), or let nobody who gains by it choose the pixels."
        findings.append(rule.finding(share, "", text, advice, [table]))
    told = ", ".join(f"{name}: {one.count} of {one.of}" for name, one in steps.items())
    return Found(told, findings, [table], {name: one.to_dict() for name, one in steps.items()})


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
        drawn = np.random.default_rng([subject.seed, place])

        def draw(_: int, shape: tuple[int, ...], drawn: np.random.Generator = drawn) -> np.ndarray:
            return drawn.uniform(-1, 1, shape)

        for _ in climbing.climb(_STEPS, _LENGTH * bound / _STEPS, draw):
            pass
        scores = net.probabilities(recipe.normalise(to_pictures(climbing.found).astype(np.uint8)))
        if int(scores[0].argmax()) != first:
            return bound
    return None
