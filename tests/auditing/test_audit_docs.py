"""docs/audit.md has a section for every check, and none for others."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from onnxviz.auditing.checks import rules
from onnxviz.auditing.policy import TRUTH

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", PAGE, flags=re.S | re.M))


def test_every_check_has_its_section_with_all_its_parts():
    assert set(SECTIONS) == set(rules())
    assert "top1_at_least" in TRUTH and "top1_at_least" in PAGE
    for name, text in SECTIONS.items():
        for part in ("Asks", "Measures", "Threshold", "Clean", "Limits"):
            assert f"*{part}*: " in text, (name, part)


def test_thresholds_and_severities_are_the_programs():
    for name, rule in rules().items():
        if not isinstance(rule.threshold, str) and rule.severity != "info":
            threshold = SECTIONS[name].split("*Threshold*: ")[1].split("*Clean*")[0]
            assert f"{rule.threshold:g}" in threshold, name
        if rule.severity in ("low", "medium"):
            assert f"({rule.severity}" in SECTIONS[name] or f"{rule.severity}" in SECTIONS[name], name


def test_each_check_is_short_and_says_what_it_cannot_see():
    for name, rule in rules().items():
        assert len(inspect.getsource(rule.run).splitlines()) <= 60, name
        assert rule.limits, name
        assert rule.measure or isinstance(rule.threshold, str), name  # a bare number says what it is of
        assert rule.run.__doc__, name
