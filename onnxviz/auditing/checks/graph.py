"""What the graph alone tells: ways around what was learned, decisions by pixels, operators that lack something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from onnxviz.auditing.finding import Evidence, Finding
from onnxviz.auditing.registry import Found, Rule, check
from onnxviz.auditing.subject import Subject
from onnxviz.errors import ModelFailed, ModelRejected, OnnxVizError
from onnxviz.text import quoted

if TYPE_CHECKING:
    import numpy as np

    from onnxviz.graph.analysis.ways import Box, Join

_LEARNED: Final = (
    "A backdoor inside learned weights is not found: this looks at what is computed without them. docs/audit.md says "
    "what counts as learned."
)
_ADVICE: Final = (
    "Ask who made the file what this part is for; if nobody can say, do not ship it. Take the node out "
    "(`onnxviz expose` shows what it computes) and see which answers change."
)


@check(
    "graph.bypass",
    "Does the picture reach the scores around what was learned?",
    severity="high",
    threshold="0 weight layers, or around the last",
    needs=("network", "scores"),
    limits=_LEARNED,
)
def bypass(subject: Subject, rule: Rule) -> Found:
    """Fewest weight layers on any way from the picture to the scores; whether the last can be gone around."""
    ways = subject.bypass
    findings: list[Finding] = []
    if ways.short is not None or ways.fewest == 0:
        join = ways.short
        where = ways.last if join is None else join.node
        at = (
            ""
            if join is None
            else f": {_of(join)} lets {quoted(join.operand)} in, which no learned layer made"
        )
        if ways.fewest == 0:
            text = f"the picture reaches the scores without a single learned layer{at}{_pixels(join)}"
        else:
            at = "" if join is None else f": {_of(join)} lets {quoted(join.operand)} in"
            at = f"{at}{_pixels(join)}"
            text = f"the picture reaches the scores around {quoted(ways.last)}, the last weight layer{at}"
        findings.append(
            rule.finding(
                0 if ways.fewest == 0 else "around the last layer",
                where,
                f"{text}; in a sound classifier every way leads through learned layers, the last of them included",
                _ADVICE,
                _crops(subject, join),
                headline=f"{_patch(join)} can set the answer past what was learned, as a planted backdoor does",
            )
        )
    for join in ways.joins:
        if join.kind == "arithmetic" and join.behind and all(join.node != one.where for one in findings):
            text = (
                f"{_of(join)} joins learned values with {quoted(join.operand)}, which is computed from pixels without "
                f"a learned layer, by arithmetic that the first layers do not use{_pixels(join)}: so a gate or a "
                "trigger is built without comparisons"
            )
            headline = f"{_patch(join)} can switch learned values, as the trigger of a backdoor does"
            findings.append(
                rule.finding(
                    str(ways.fewest), join.node, text, _ADVICE, _crops(subject, join), headline=headline
                )
            )
    figures = {"fewest": ways.fewest, "around_last": ways.around, "last": ways.last}
    told = (
        "the scores do not depend on the picture"
        if ways.fewest is None
        else f"at least {ways.fewest} weight layers"
    )
    return Found(told, findings, figures=figures)


@check(
    "graph.pixel-logic",
    "Do pixels decide anything before a learned layer has seen them?",
    severity="high",
    threshold="any on a way to an output",
    limits=f"A decision at each place for itself is preprocessing and raises nothing. {_LEARNED}",
)
def pixel_logic(subject: Subject, rule: Rule) -> Found:
    """Comparisons, choices, loops and places of maxima that pixels alone steer, where they meet anything else."""
    findings = []
    for join in subject.bypass.joins:
        if join.kind == "arithmetic" and join.behind:
            continue  # graph.bypass tells it
        how = f"{join.by} decides" if join.by else "arithmetic decides"
        meets = "joins it with learned values" if join.behind else "lays it on the picture"
        text = (
            f"{how} by pixels that no learned layer has seen, and {_of(join)} {meets}{_pixels(join)}: sound networks "
            "treat all places of a picture alike until learned layers have seen them"
        )
        headline = (
            f"{_patch(join)} decides something before the network sees it, as the trigger of a backdoor does"
        )
        findings.append(
            rule.finding(
                join.by or join.op, join.node, text, _ADVICE, _crops(subject, join), headline=headline
            )
        )
    count = len(findings)
    return Found(
        f"{count} decision{'s' * (count != 1)}" if count else "none", findings, figures={"decisions": count}
    )


def _of(join: Join) -> str:
    return f"the {join.op} node {quoted(join.node)}"


def _pixels(join: Join | None) -> str:
    return "" if join is None or join.box is None else f"; it reads {_box(join.box)} of the picture"


def _patch(join: Join | None) -> str:
    """What of the picture it is, in the words of a headline."""
    return "The picture" if join is None or join.box is None else f"A part of the picture ({_box(join.box)})"


def _box(box: Box) -> str:
    top, left, bottom, right = box
    return f"rows {top} to {bottom - 1} and columns {left} to {right - 1}"


def _crops(subject: Subject, join: Join | None) -> list[Evidence]:
    """The pixels that a condition reads: marked in the first pictures, and cut out."""
    if join is None or join.box is None or not subject.net.preprocessing.pictorial:
        return []
    table: dict[str, list[object]] = {
        "node": [join.node],
        "operator": [join.op],
        "reads": [join.operand],
        "decided by": [join.by],
        **{name: [edge] for name, edge in zip(("top", "left", "bottom", "right"), join.box, strict=True)},
    }
    views = [view for view in subject.views if view.shape[:2] == subject.net.size]
    named = "the first pictures, as the network sees them" if views else "no picture was given"
    shown = [subject.net.preprocessing.shown(view) for view in views]
    picture = _marked(shown, join.box, *subject.net.size)
    return [Evidence(f"The pixels that {quoted(join.operand)} reads ({named})", picture, table)]


def _marked(views: Sequence[np.ndarray], box: Box, height: int, width: int) -> object:
    """Each picture with the box outlined, its crop (if it is not all) enlarged under it; without pictures the box."""
    from PIL import Image, ImageDraw

    top, left, bottom, right = box
    edge = (left, top, max(left, right - 1), max(top, bottom - 1))
    if not views:
        blank = Image.new("RGB", (width, height), (225, 225, 225))
        ImageDraw.Draw(blank).rectangle(edge, fill=(220, 0, 60))
        return blank
    zoom = min(width / max(1, right - left), height / max(1, bottom - top))
    cut = (max(1, int((right - left) * zoom)), max(1, int((bottom - top) * zoom)))
    under = 0 if box == (0, 0, height, width) else 8 + cut[1]
    sheet = Image.new("RGB", (len(views) * (width + 8) - 8, height + under), "white")
    for number, view in enumerate(views):
        picture = Image.fromarray(view)
        crop = picture.crop((left, top, right, bottom)).resize(cut, Image.Resampling.NEAREST)
        ImageDraw.Draw(picture).rectangle(edge, outline=(220, 0, 60))
        sheet.paste(picture, (number * (width + 8), 0))
        if under:
            sheet.paste(crop, (number * (width + 8), height + 8))
    return sheet


@check(
    "graph.rules",
    "Can gradients be taken through every operator?",
    severity="low",
    limits="An operator whose gradient is 0 by definition (a comparison) has a rule.",
)
def gradient_rules(subject: Subject, rule: Rule) -> Found:
    """Operators on a way from the picture that no gradient rule is known for."""
    from onnxviz.errors import judged
    from onnxviz.grad.model import support

    with judged(subject.net.judge):
        passes = support(subject.net.model, subject.net.input.name)
    lacking = [name for name, known in passes.items() if not known]
    findings = [
        rule.finding(
            name,
            name,
            f"no gradient passes {quoted(name)}: what gradients explain stops there",
            "Use the methods without gradients (occlusion, RISE, Score-CAM), or --backend torch where torch knows it.",
        )
        for name in lacking
    ]
    return Found(
        f"{len(passes) - len(lacking)} of {len(passes)} operators", findings, figures={"lacking": lacking}
    )


@check(
    "graph.kernels",
    "Does this provider run every operator?",
    severity="low",
    limits="Of this version of ONNX Runtime on this machine.",
)
def kernels(subject: Subject, rule: Rule) -> Found:
    """Whether the provider that was asked for runs the file, and itself."""
    net = subject.net
    try:
        program = net.program()
    except ModelFailed:
        raise
    except ModelRejected as error:
        text = f"ONNX Runtime does not run the file on {net.provider!r}: {error}"
        advice = "Export it for an operator set that this version of ONNX Runtime knows, or try another --provider."
        return Found(
            "it does not run", [rule.finding("it does not run", net.provider, text, advice, severity="high")]
        )
    except OnnxVizError:
        raise
    return Found(f"all, on {program.provider}", figures={"provider": program.provider})
