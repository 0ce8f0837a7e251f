"""A report as SARIF 2.1.0 (OASIS), which code hosts and security dashboards read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

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
    where = _uri(page.model or page.title)
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
                        **({"endTimeUtc": _utc(page)} if page.when else {}),
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


def _utc(page: Page) -> str:
    from datetime import UTC

    assert page.when is not None
    return page.when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _uri(model: str) -> str:
    """The model's path as a relative reference."""
    return quote(os.fsencode(Path(from_here(model)).as_posix())) or "model"
