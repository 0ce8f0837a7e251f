"""Whether attribution maps of this network tell what it uses, so that they may be shown as evidence."""

from __future__ import annotations

from typing import Any, Final

from onnxviz.attribution.faithfulness import BASELINES, faithfulness
from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.registry import Found, NotApplicable, Rule, check
from onnxviz.auditing.subject import Subject
from onnxviz.errors import ModelUnsuitable, UnsupportedOperator
from onnxviz.progress import silent

_METHODS: Final = ("grad-cam", "smoothgrad", "saliency", "guided")
_PICTURES: Final = 6
_STEPS: Final = 8


def sampled(subject: Subject, count: int) -> list[Any]:
    """So many pictures, spread evenly over those given."""
    images = subject.images
    return list(images) if len(images) <= count else [images[i * len(images) // count] for i in range(count)]


@check(
    "faith.gain",
    "Which attribution maps tell more than chance?",
    severity="info",
    threshold="random",
    measure="symmetric relevance gain, by method",
    needs=("network", "classes", "pictures", "gradients"),
    least=4,
    limits="Six pictures: a method may be better than its limits tell. What maps say of single pictures is not judged.",
)
def gain(subject: Subject, rule: Rule) -> Found:
    """Symmetric relevance gain of each method: not told from random where its lower limit is under random's upper."""
    fitting = [name for name in _METHODS if fits(subject, name)]
    if not fitting:
        raise NotApplicable("no attribution method fits this network")
    options: dict[str, Any] = {"steps": _STEPS, "seed": subject.seed, "progress": silent}
    height, width = subject.views[0].shape[:2]
    options["grid"] = min(14, height, width)
    result = faithfulness(subject.net, sampled(subject, _PICTURES), fitting, **options)
    chance = result.score("random").high or 0.0
    findings = [
        rule.finding(
            round(one.value, 3),
            one.method,
            f"{len(result.names)} pictures cannot tell maps of {one.method} from random ones: their gain is "
            f"{one.value:.3f} (95% limits {one.low:.3f} to {one.high:.3f}), that of random maps up to {chance:.3f}",
            "Do not take them as evidence of what the network looks at: take a method that is better here, or run "
            "`onnxviz faithfulness` on more pictures.",
        )
        for one in result.scores
        if one.better is False
    ]
    told = [f"{one.method} {one.value:+.2f}" for one in result.scores if one.method not in BASELINES]
    figures = {one.method: {"gain": one.value, "low": one.low, "high": one.high} for one in result.scores}
    shown = Evidence(
        "Symmetric relevance gain of each method, beside chance and the middle", result.picture()
    )
    return Found(", ".join(told), findings, [shown], figures)


def fits(subject: Subject, method: str) -> bool:
    """Whether the method can be taken of this network at all."""
    from onnxviz.attribution.sheet import attributions

    try:
        attributions(subject.net, subject.probes[:1], [method], progress=silent)
    except (ModelUnsuitable, UnsupportedOperator):
        return False
    return True
