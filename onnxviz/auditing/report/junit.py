"""A report as JUnit XML, which every CI shows: a test case a check."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from onnxviz.auditing.finding import Check
from onnxviz.auditing.report.html import shown
from onnxviz.auditing.report.page import Page
from onnxviz.text import printable

# What XML 1.0 cannot hold in any spelling.
_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(page: Page) -> bytes:
    """The report as UTF-8 XML.

    A check that did not run is an error; one with a finding that counts (`Page.counts`) fails; one that does not apply
    is skipped. Findings that do not count, or have been accepted, stand in the case's output.
    """
    cases = []
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for check in page.checks:
        case = ElementTree.Element(
            "testcase",
            {
                "classname": _lines(f"onnxviz.{page.kind}.{check.id.rpartition('.')[0]}"),
                "name": _lines(check.id),
            },
        )
        counts["tests"] += 1
        if check.state == "not-run":
            counts["errors"] += 1
            _under(case, "error", check.reason or "it did not run", "not-run")
        elif check.state == "not-applicable":
            counts["skipped"] += 1
            _under(case, "skipped", check.reason or "it does not apply")
        else:
            counts["failures"] += _judged(page, check, case)
        cases.append(case)
    numbers = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", {"name": f"onnxviz {page.kind}", **numbers})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": _legal(printable(page.title)), **numbers, "time": "0"}
    )
    if page.when:
        suite.set("timestamp", page.when.isoformat(timespec="seconds"))
    suite.extend(cases)
    ElementTree.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "utf-8") + b"\n"


def _judged(page: Page, check: Check, case: ElementTree.Element) -> bool:
    """Whether the check fails; its findings are written into the case."""
    failing = [finding for finding in check.findings if page.counts(finding)]
    if failing:
        told = "\n\n".join(
            f"{finding.severity}: {finding.told}\n"
            f"where: {finding.where or 'the whole file'}; measured {shown(finding.figure)}, "
            f"threshold {shown(finding.threshold)}\n{finding.advice}".rstrip()
            for finding in failing
        )
        element = _under(case, "failure", failing[0].told, failing[0].severity)
        element.text = _lines(told)
    others = [
        f"{'accepted' if finding.fingerprint in page.accepted else finding.severity}: {finding.told}"
        + (f" ({reason})" if (reason := page.accepted.get(finding.fingerprint)) else "")
        for finding in check.findings
        if not page.counts(finding)
    ]
    if others:
        ElementTree.SubElement(case, "system-out").text = _lines("\n".join(others))
    return bool(failing)


def _under(case: ElementTree.Element, tag: str, message: str, kind: str = "") -> ElementTree.Element:
    return ElementTree.SubElement(
        case, tag, {"message": _legal(printable(message)), **({"type": kind} if kind else {})}
    )


def _lines(text: str) -> str:
    return _legal("\n".join(map(printable, text.split("\n"))))


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
