"""What the file alone tells: ways around what was learned, decisions by pixels, operators that lack something."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from onnxviz.auditing.finding import Check, Evidence, Finding, Rule, check
from onnxviz.auditing.subject import Subject
from onnxviz.errors import ModelFailed, ModelRejected, judged
from onnxviz.graph.analysis.ways import Box, Join
from onnxviz.text import quoted

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
def bypass(subject: Subject, rule: Rule) -> Check:
    """Fewest weight layers on any way from the picture to the scores; whether the last can be gone around."""
    ways = subject.bypass
    findings: list[Finding] = []
    if ways.short is not None or ways.fewest == 0:
        join = ways.short
        at = "" if join is None else f": {_of(join)} lets {quoted(join.operand)} in"
        figure: int | str = 0
        if ways.fewest == 0:
            at += "" if join is None else ", which no learned layer made"
            text = f"without a single learned layer{at}"
        else:
            figure, text = "around the last layer", f"around {quoted(ways.last)}, the last weight layer{at}"
        text = (
            f"the picture reaches the scores {text}{_pixels(join)}; in a sound classifier every way leads through "
            "learned layers, the last of them included"
        )
        headline = "can set the answer past what was learned, as a planted backdoor does"
        findings.append(
            _joined(subject, rule, join, figure, text, headline, ways.last if join is None else join.node)
        )
    for join in ways.joins:
        if join.kind == "arithmetic" and join.behind and all(join.node != one.where for one in findings):
            text = (
                f"{_of(join)} joins learned values with {quoted(join.operand)}, which is computed from pixels without "
                f"a learned layer, by arithmetic that the first layers do not use{_pixels(join)}: so a gate or a "
                "trigger is built without comparisons"
            )
            headline = "can switch learned values, as the trigger of a backdoor does"
            findings.append(_joined(subject, rule, join, str(ways.fewest), text, headline, join.node))
    figures = {"fewest": ways.fewest, "around_last": ways.around, "last": ways.last}
    if ways.fewest is None:
        told = "the scores do not depend on the picture"
    else:
        told = f"at least {ways.fewest} weight layers"
    return rule.check(told, findings, figures=figures)


@check(
    "graph.pixel-logic",
    "Do pixels decide anything before a learned layer has seen them?",
    severity="high",
    threshold="any on a way to an output",
    limits=f"A decision at each place for itself is preprocessing and raises nothing. {_LEARNED}",
)
def pixel_logic(subject: Subject, rule: Rule) -> Check:
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
        headline = "decides something before the network sees it, as the trigger of a backdoor does"
        findings.append(_joined(subject, rule, join, join.by or join.op, text, headline, join.node))
    count = len(findings)
    told = f"{count} decision{'s' * (count != 1)}" if count else "none"
    return rule.check(told, findings, figures={"decisions": count})


def _joined(
    subject: Subject, rule: Rule, join: Join | None, figure: int | str, text: str, means: str, where: str
) -> Finding:
    """A finding of what joins, with the pixels that it reads; `means` ends its headline."""
    part = "The picture" if join is None or join.box is None else f"A part of the picture ({_box(join.box)})"
    headline = f"{part} {means}"
    return rule.finding(figure, where, text, _ADVICE, _crops(subject, join), headline=headline)


def _of(join: Join) -> str:
    return f"the {join.op} node {quoted(join.node)}"


def _pixels(join: Join | None) -> str:
    return "" if join is None or join.box is None else f"; it reads {_box(join.box)} of the picture"


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
def gradient_rules(subject: Subject, rule: Rule) -> Check:
    """Operators on a way from the picture that no gradient rule is known for."""
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
    told = f"{len(passes) - len(lacking)} of {len(passes)} operators"
    return rule.check(told, findings, figures={"lacking": lacking})


@check(
    "graph.kernels",
    "Does this provider run every operator?",
    severity="low",
    limits="Of this version of ONNX Runtime on this machine.",
)
def kernels(subject: Subject, rule: Rule) -> Check:
    """Whether the provider that was asked for runs the file, and itself."""
    net = subject.net
    try:
        program = net.program()
    except ModelFailed:
        raise
    except ModelRejected as error:
        text = f"ONNX Runtime does not run the file on {net.provider!r}: {error}"
        advice = "Export it for an operator set that this version of ONNX Runtime knows, or try another --provider."
        finding = rule.finding("it does not run", net.provider, text, advice, severity="high")
        return rule.check("it does not run", [finding])
    return rule.check(f"all, on {program.provider}", figures={"provider": program.provider})


_PLACE: Final = re.compile(r"^the (?:weight|constant) '(.*)' holds ", re.S)


@check(
    "file.loading",
    "Can the file be opened without a doubt?",
    severity="high",
    needs=(),
    limits="What a file does when it runs is not seen here; how long it may take and how much memory, limits say.",
)
def loading(subject: Subject, rule: Rule) -> Check:
    """What opening refuses: broken files, names that lead out of the folder, elements given twice, sizes."""
    if subject.opened is None:
        text = f"the file is refused: {subject.refused}"
        advice = (
            "Export the model again, or ask for it again where it came from; what is refused here, other programs may "
            "read otherwise than its maker meant it."
        )
        return rule.check("refused", [rule.finding("refused", "", text, advice)])
    odd = list(subject.opened._loaded.warnings)
    told = f"opened; {len(odd)} remark{'s' * (len(odd) != 1)}" if odd else "opened"
    return rule.check(told, figures={"remarks": odd})


@check(
    "file.finite",
    "Are all weights finite?",
    severity="high",
    limits="Weights that overflow only when they are multiplied are finite; so are values that are merely absurd.",
)
def finite(subject: Subject, rule: Rule) -> Check:
    """NaN and infinities among weights and constants; bounds and masks of one infinite number are meant."""
    findings = []
    for text in subject.net.findings:
        place = _PLACE.match(text)
        sentence = f"{text}: what is computed from them says nothing, also where it comes out finite"
        advice = "Export the model again from sound weights."
        where = place[1] if place else text
        findings.append(rule.finding(text.partition(" holds ")[2], where, sentence, advice))
    return rule.check("all finite" if not findings else f"{len(findings)} weights are not", findings)
