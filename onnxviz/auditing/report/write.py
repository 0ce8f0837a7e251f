"""All files of a report: they appear together, or none does."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxviz import tables
from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.report.exchange import junit, sarif
from onnxviz.auditing.report.html import render
from onnxviz.auditing.report.page import Page, Stored, Table, evidence_files
from onnxviz.figures.html import loaded
from onnxviz.file_set import FOLDER_HEAD, FileSet
from onnxviz.files import json_bytes, png_bytes

#: The page itself.
PAGE = "report.html"
SUMS = "SHA256SUMS"
_JSON, _JUNIT, _FINDINGS = "report.json", "junit.xml", "findings.csv"
# What the JSON has of a finding and of a check, in this order.
_FINDING = ("id", "severity", "figure", "threshold", "where", "headline", "sentence", "advice", "fingerprint")
_CHECK = ("id", "title", "state", "reason", "figure", "threshold", "measure", "limits")


def names(kind: str, checks: bool = True) -> tuple[str, ...]:
    """What every report of a kind writes, with checks or without, but for the manifest."""
    return PAGE, _JSON, SUMS, *((f"{kind}.sarif", _JUNIT, _FINDINGS) if checks else ())


def write(
    page: Page,
    folder: str | os.PathLike[str],
    manifest: dict[str, Any],
    *,
    files: Mapping[str, bytes] | None = None,
    one_file: bool = True,
) -> Path:
    """Write a report: report.html, report.json, the tables and evidence as files, and SHA256SUMS over all of them.

    With checks also findings.csv, junit.xml and KIND.sarif. The manifest is manifest.json.

    manifest   the run manifest (of schema `page.schema`): which files belong to the report is added
    files      what else lies in the folder, by relative path
    one_file   whether galleries lie inside the page; else as files in photos/, which the page loads when they are
               looked at
    returns    the path of report.html
    raises     OutputRefused
    """
    target = Path(folder)
    made = _made(page, files or {}, one_file)
    with FileSet(target / FOLDER_HEAD) as together:
        for name, data in made.items():
            together.add(target / name, data)
        together.add(target / SUMS, b"")
        together.describe(manifest)  # names SUMS too, and so stands in it
        sums = {name: hashlib.sha256(bytes(data)).hexdigest() for name, data in made.items()}
        sums[FOLDER_HEAD] = hashlib.sha256(json_bytes(manifest)).hexdigest()
        together.add(target / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())
    return target / PAGE


def _made(page: Page, files: Mapping[str, bytes], one_file: bool) -> dict[str, bytes | Stored]:
    photos: dict[str, bytes | Stored] | None = None if one_file else {}
    made: dict[str, bytes | Stored] = {PAGE: render(page, photos), _JSON: json_bytes(to_dict(page))}
    if page.checks:
        made[f"{page.kind}.sarif"] = json_bytes(sarif(page))
        made[_JUNIT] = junit(page)
        made[_FINDINGS] = tables.csv_bytes(_columns(page))
    for name, table in _tables(page).items():
        made |= tables.both(name, table.columns)
    places = evidence_files(page)
    for one in (one for check in page.checks for one in check.shown):
        if one.picture is not None:
            made[f"{places[id(one)]}.png"] = png_bytes(loaded(one.picture))
        if one.table:
            made[f"{places[id(one)]}.csv"] = tables.csv_bytes(one.table)
    return made | (photos or {}) | dict(files)


def to_dict(page: Page) -> dict[str, Any]:
    """The report for machines; its form is docs/schemas/report.schema.json."""
    places = evidence_files(page)

    def evidence(found: tuple[Evidence, ...]) -> list[dict[str, Any]]:
        return [
            {
                "caption": one.caption,
                "picture": f"{places[id(one)]}.png" if one.picture is not None else None,
                "table": f"{places[id(one)]}.csv" if one.table else None,
            }
            for one in found
        ]

    return {
        "schema": page.schema,
        "title": page.title,
        "model": page.model or None,
        "verdict": page.verdict,
        "when": page.when.isoformat(timespec="seconds") if page.when else None,
        "fail_on": page.fail_on,
        "lead": list(page.lead),
        "numbers": [dict(vars(one)) for one in page.numbers],
        "facts": dict(page.facts),
        "findings": [
            {
                **{name: getattr(one, name) for name in _FINDING},
                "accepted": page.accepted.get(one.fingerprint),
                "evidence": evidence(one.evidence),
            }
            for one in page.findings
        ],
        "checks": [
            {
                **{name: getattr(check, name) for name in _CHECK},
                "findings": [finding.fingerprint for finding in check.findings],
                "evidence": evidence(check.evidence),
                "figures": dict(check.figures),
            }
            for check in page.checks
        ],
        "tables": {name: f"{name}.csv" for name in _tables(page)},
        "figures": dict(page.figures),
    }


def _tables(page: Page) -> dict[str, Table]:
    return {
        block.file: block
        for section in page.sections
        for block in section.blocks
        if isinstance(block, Table) and block.file
    }


def _columns(page: Page) -> tables.Columns:
    found = page.findings
    names = ("id", "severity", "where", "figure", "threshold", "sentence", "advice", "fingerprint")
    return {
        **{name: [getattr(one, name) for one in found] for name in names},
        "accepted": [page.accepted.get(one.fingerprint) for one in found],
    }
