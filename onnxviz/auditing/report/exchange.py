"""A report for other programs: SARIF 2.1.0 (OASIS), which code hosts and security dashboards read, and JUnit XML, which
every CI shows."""

from __future__ import annotations

import os
import re
from datetime import UTC
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from xml.etree import ElementTree

from onnxviz._version import __version__
from onnxviz.auditing.finding import Check, Finding
from onnxviz.auditing.report.clauses import CLAUSES
from onnxviz.auditing.report.facts import from_here
from onnxviz.auditing.report.html import shown
from onnxviz.auditing.report.page import Page
from onnxviz.text import printable

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: What GitHub takes of a run.
MOST_RESULTS: Final = 25_000
MOST_TAGS: Final = 20
_LEVELS: Final = {"high": "error", "medium": "warning", "low": "note", "info": "note"}


def sarif(page: Page) -> dict[str, Any]:
    """The report as a SARIF log of one run: a rule a check, a result a finding, a notification what did not run.

    What has been accepted is a result with a suppression. Of more than 25,000 results the gravest are kept, and a
    notification says so.
    """
    rules = {check.id: number for number, check in enumerate(page.checks)}
    findings = page.findings
    notes = [
        _note(f"{check.title} did not run: {check.reason or 'no reason was given'}", check.id, rules)
        for check in page.checks
        if check.state == "not-run"
    ]
    if len(findings) > MOST_RESULTS:
        notes.append(_note(f"{len(findings) - MOST_RESULTS} more findings are in findings.csv"))
    # The model's path as a relative reference.
    where = quote(os.fsencode(Path(from_here(page.model or page.title)).as_posix())) or "model"
    ended = {"endTimeUtc": page.when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")} if page.when else {}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": f"onnxviz {page.kind}",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": [_rule(check) for check in page.checks],
                    }
                },
                "automationDetails": {"id": f"onnxviz/{page.kind}/"},
                "invocations": [
                    {
                        "executionSuccessful": not notes,
                        **ended,
                        "toolExecutionNotifications": notes,
                    }
                ],
                "artifacts": [{"location": {"uri": where}, "roles": ["analysisTarget"]}],
                "results": [_result(page, one, rules, where) for one in findings[:MOST_RESULTS]],
                "columnKind": "unicodeCodePoints",
            }
        ],
    }


def _rule(check: Check) -> dict[str, Any]:
    tags = [clause.name for clause in CLAUSES if clause.covers(check.id)]
    severities = [finding.severity for finding in check.findings]
    return {
        "id": check.id,
        "name": "".join(part.capitalize() for part in check.id.replace(".", "-").split("-")),
        "shortDescription": {"text": _text(check.title)},
        "fullDescription": {"text": _text(f"{check.title}. {check.limits}".strip())},
        "defaultConfiguration": {"level": _LEVELS[severities[0]] if severities else "warning"},
        "properties": {"tags": [check.id.partition(".")[0], *tags][:MOST_TAGS], "state": check.state},
    }


def _result(page: Page, finding: Finding, rules: dict[str, int], where: str) -> dict[str, Any]:
    parts = [finding.told, f"Measured {shown(finding.figure)}, threshold {shown(finding.threshold)}."]
    parts += [f"What to do: {finding.advice}"] if finding.advice else []
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": where, "index": 0}}}
    if finding.where:
        location["logicalLocations"] = [{"fullyQualifiedName": _text(finding.where), "kind": "member"}]
    result: dict[str, Any] = {
        "ruleId": finding.id,
        **({"ruleIndex": rules[finding.id]} if finding.id in rules else {}),
        "level": _LEVELS[finding.severity],
        "message": {"text": _text("\n".join(parts))},
        "locations": [location],
        "partialFingerprints": {"onnxviz/v1": finding.fingerprint},
        "properties": {"severity": finding.severity},
    }
    reason = page.accepted.get(finding.fingerprint)
    if reason is not None:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": _text(reason)}]
    return result


def _note(text: str, check: str = "", rules: dict[str, int] | None = None) -> dict[str, Any]:
    note: dict[str, Any] = {"level": "error", "message": {"text": _text(text)}}
    if rules is not None:
        note["associatedRule"] = {"id": check, "index": rules[check]}
    return note


def _text(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


# What XML 1.0 cannot hold in any spelling.
_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(page: Page) -> bytes:
    """The report as UTF-8 XML.

    A check that did not run is an error; one with a finding that counts (`Page.counts`) fails; one that does not apply
    is skipped. Findings that do not count, or have been accepted, stand in the case's output.
    """
    cases = []
    counts = {"tests": len(page.checks), "failures": 0, "errors": 0, "skipped": 0}
    for check in page.checks:
        room = f"onnxviz.{page.kind}.{check.id.rpartition('.')[0]}"
        case = ElementTree.Element("testcase", {"classname": _lines(room), "name": _lines(check.id)})
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
    own = {"name": _legal(printable(page.title)), **numbers, "time": "0"}
    suite = ElementTree.SubElement(root, "testsuite", own)
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
    said = {"message": _legal(printable(message)), **({"type": kind} if kind else {})}
    return ElementTree.SubElement(case, tag, said)


def _lines(text: str) -> str:
    return _legal(_text(text))


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
