"""The files of a report: SARIF, JUnit, JSON, tables, digests."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxviz.auditing.finding import Check, Evidence, Finding
from onnxviz.auditing.report.exchange import MOST_RESULTS, junit, sarif
from onnxviz.auditing.report.page import Page
from onnxviz.auditing.report.write import to_dict, write
from onnxviz.errors import OutputRefused
from onnxviz.files import json_bytes
from onnxviz.text import hidden
from tests.auditing.report.samples import comparison, hostile

ROOT = Path(__file__).resolve().parents[3]
WEB = ROOT / ".venv-node" / "web" / "node_modules"
SARIF_SCHEMA = WEB / "@microsoft" / "jest-sarif" / "lib" / "schemas" / "sarif-2.1.0-rtm.5.json"


def manifest(page: Page) -> dict:
    return {"schema": page.schema, "technique": page.kind}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    page = comparison()
    target = tmp_path_factory.mktemp("report") / "out"
    assert write(page, target, manifest(page), files={"exclude.json": b"[]"}) == target / "report.html"
    return target


def test_all_files_are_there_and_the_manifest_names_them(folder):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    wanted = {
        "report.html", "report.json", "compare.sarif", "junit.xml", "findings.csv", "layers.csv", "exclude.json",
        "evidence/compare.layer-1.png", "evidence/compare.answers-1.csv", "SHA256SUMS", "manifest.json",
    }  # fmt: skip
    assert wanted <= names <= wanted | {"layers.parquet"}
    listed = json.loads((folder / "manifest.json").read_bytes())["written"]
    assert set(listed) == names - {"manifest.json"}


def test_digests_hold_every_file(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {line[66:] for line in lines} == names - {"SHA256SUMS"}
    for line in lines:
        assert hashlib.sha256((folder / line[66:]).read_bytes()).hexdigest() == line[:64]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_a_second_report_takes_the_place_of_the_first(tmp_path):
    page = comparison()
    write(page, tmp_path, manifest(page))
    bare = replace(page, checks=(), sections=())
    write(bare, tmp_path, manifest(bare))
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "report.json", "SHA256SUMS", "manifest.json",
    }  # fmt: skip


def test_what_is_not_ours_is_not_written_over(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    page = comparison()
    with pytest.raises(OutputRefused, match=r"report\.html"):
        write(page, tmp_path, manifest(page))
    assert (tmp_path / "report.html").read_text() == "mine"


def test_photos_beside_the_page(tmp_path):
    page = comparison()
    write(page, tmp_path, manifest(page), one_file=False)
    photos = sorted((tmp_path / "photos").glob("[0-9]*"))
    assert len(photos) == 12 * 9
    text = (tmp_path / "report.html").read_text("utf-8")
    assert all(f'src="photos/{path.name}"' in text for path in photos)
    assert len(text) < 300_000


# --- JSON -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [comparison, hostile])
def test_json_is_as_its_schema_says(make):
    import jsonschema

    schema = json.loads((ROOT / "docs" / "schemas" / "report.schema.json").read_text("utf-8"))
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    document = json_bytes(to_dict(make()))
    kind(schema).validate(json.loads(document))
    assert not [one for one in set(document.decode()) if hidden(one) and one != "\n"]


def test_json_tells_all_that_the_page_tells():
    page = comparison()
    told = json.loads(json_bytes(to_dict(page)))
    assert [one["id"] for one in told["findings"]] == ["compare.answers", "compare.layer", "compare.clipping"]
    assert told["findings"][2]["accepted"].startswith("known") and told["findings"][0]["accepted"] is None
    assert told["verdict"] == "fail" and told["tables"] == {"layers": "layers.csv"}
    assert [one["state"] for one in told["checks"]].count("not-run") == 1


# --- SARIF ------------------------------------------------------------------------------------


def many(count: int) -> Page:
    findings = tuple(Finding("a.b", "low", 1, 0, f"layer {i}", "s") for i in range(count - 1))
    grave = Finding("a.b", "high", 1, 0, "last", "s")
    return Page("audit", "m.onnx", checks=[Check("a.b", "t", "found", findings=(*findings, grave))])


@pytest.mark.parametrize("make", [comparison, hostile, lambda: many(3), lambda: Page("audit", "")])
def test_sarif_is_as_oasis_says(make):
    import jsonschema

    schema = json.loads(SARIF_SCHEMA.read_text("utf-8-sig"))
    kind = jsonschema.validators.validator_for(schema)
    kind(schema, format_checker=jsonschema.FormatChecker()).validate(json.loads(json_bytes(sarif(make()))))


def test_sarif_of_a_comparison():
    page = comparison()
    run = sarif(page)["runs"][0]
    assert [one["level"] for one in run["results"]] == ["error", "error", "warning"]
    for result, finding in zip(run["results"], page.findings, strict=True):
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == finding.id
        assert result["partialFingerprints"] == {"onnxviz/v1": finding.fingerprint}
        assert len(result["locations"]) == 1
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uri"] == "models/efficientnet-lite0-int8.onnx"
    assert "suppressions" not in run["results"][0]
    assert run["results"][2]["suppressions"][0]["justification"].startswith("known")
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert [one["associatedRule"]["id"] for one in notes] == ["compare.runtime"]
    assert run["invocations"][0]["executionSuccessful"] is False
    assert run["invocations"][0]["endTimeUtc"] == "2026-11-28T13:45:00Z"


def test_sarif_within_what_is_taken():
    run = sarif(many(MOST_RESULTS + 3))["runs"][0]
    assert len(run["results"]) == MOST_RESULTS and run["results"][0]["level"] == "error"
    assert "3 more findings" in run["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]
    for make in (comparison, hostile):
        assert all(
            len(one["properties"]["tags"]) <= 20
            for one in sarif(make())["runs"][0]["tool"]["driver"]["rules"]
        )


@pytest.mark.parametrize(
    ("model", "uri"),
    [
        ("m.onnx", "m.onnx"),
        ("a b/ü.onnx", "a%20b/%C3%BC.onnx"),
        ("/elsewhere/m.onnx", "m.onnx"),
        ("../m.onnx", "m.onnx"),
        ("HERE/in/m.onnx", "in/m.onnx"),
    ],
)
def test_the_place_is_a_relative_path(model, uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = sarif(Page("audit", "t", model=model.replace("HERE", str(tmp_path))))["runs"][0]
    assert run["artifacts"][0]["location"]["uri"] == uri


# --- JUnit ------------------------------------------------------------------------------------


def test_junit_is_read_by_another_program():
    from junitparser import Error, Failure, JUnitXml, Skipped

    suite = next(iter(JUnitXml.fromstring(junit(comparison()))))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (8, 2, 1, 1)
    results = {case.name: [type(one) for one in case.result] for case in suite}
    assert results == {
        "compare.input": [], "compare.matching": [], "compare.answers": [Failure], "compare.layer": [Failure],
        "compare.clipping": [],  # accepted
        "compare.weights": [], "compare.runtime": [Error], "compare.drift": [Skipped],
    }  # fmt: skip
    cases = {case.name: case for case in suite}
    assert "accepted: 3.1 %" in cases["compare.clipping"].system_out
    assert "threshold 0.95" in cases["compare.answers"].result[0].text


@pytest.mark.parametrize(("fail_on", "failures"), [("high", 1), ("low", 1), ("never", 0)])
def test_a_check_fails_from_the_severity_that_counts(fail_on, failures):
    assert f'failures="{failures}"' in junit(replace(many(2), fail_on=fail_on)).decode()


def test_findings_that_are_alike_but_for_their_pictures():
    def one(grey: int) -> Finding:
        proof = Evidence("seen", np.full((4, 4, 3), grey, np.uint8))
        return Finding("a.b", "medium", 1, 2, "conv", "found", evidence=(proof,))

    page = Page(
        "audit", "m", checks=[Check("a.b", "?", "found", findings=(one(0), one(9)))], fail_on="medium"
    )
    assert junit(page).count(b"medium: found") == 2


def test_junit_of_hostile_text_is_xml():
    from junitparser import JUnitXml

    document = junit(hostile())
    suite = next(iter(JUnitXml.fromstring(document)))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (3, 1, 1, 1)
    assert not [one for one in set(document.decode()) if hidden(one) and one != "\n"]


# --- CSV --------------------------------------------------------------------------------------


def test_findings_as_csv(folder):
    rows = list(csv.DictReader(io.StringIO((folder / "findings.csv").read_text("utf-8"))))
    assert [row["id"] for row in rows] == ["compare.answers", "compare.layer", "compare.clipping"]
    assert rows[2]["accepted"].startswith("known")


def test_hostile_text_is_written_inert(tmp_path):
    page = hostile()
    write(page, tmp_path, manifest(page))
    for path in tmp_path.rglob("*"):
        if path.suffix in (".csv", ".json", ".xml", ".sarif", ".html"):
            text = path.read_text("utf-8")
            assert "\x1b" not in text and "\u202e" not in text and "\x00" not in text, path.name
