"""What is odd about the file itself."""

from __future__ import annotations

import re
from typing import Final

from onnxviz.auditing.registry import Found, Rule, check
from onnxviz.auditing.subject import Subject

_PLACE: Final = re.compile(r"^the (?:weight|constant) '(.*)' holds ", re.S)


@check(
    "file.loading",
    "Can the file be opened without a doubt?",
    severity="high",
    needs=(),
    limits="What a file does when it runs is not seen here; how long it may take and how much memory, limits say.",
)
def loading(subject: Subject, rule: Rule) -> Found:
    """What opening refuses: broken files, names that lead out of the folder, elements given twice, sizes."""
    if subject.opened is None:
        text = f"the file is refused: {subject.refused}"
        advice = (
            "Export the model again, or ask for it again where it came from; what is refused here, other programs may "
            "read otherwise than its maker meant it."
        )
        return Found("refused", [rule.finding("refused", "", text, advice)])
    odd = list(subject.opened._loaded.warnings)
    told = f"opened; {len(odd)} remark{'s' * (len(odd) != 1)}" if odd else "opened"
    return Found(told, figures={"remarks": odd})


@check(
    "file.finite",
    "Are all weights finite?",
    severity="high",
    limits="Weights that overflow only when they are multiplied are finite; so are values that are merely absurd.",
)
def finite(subject: Subject, rule: Rule) -> Found:
    """NaN and infinities among weights and constants; bounds and masks of one infinite number are meant."""
    findings = []
    for text in subject.net.findings:
        place = _PLACE.match(text)
        sentence = f"{text}: what is computed from them says nothing, also where it comes out finite"
        advice = "Export the model again from sound weights."
        findings.append(
            rule.finding(text.partition(" holds ")[2], place[1] if place else text, sentence, advice)
        )
    return Found("all finite" if not findings else f"{len(findings)} weights are not", findings)
