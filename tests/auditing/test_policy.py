"""Policies: what they change, and what cannot be meant."""

from __future__ import annotations

import pytest

from onnxviz.auditing import policy
from onnxviz.errors import UsageError

IDS = ("graph.bypass", "graph.pixel-logic", "weights.channels")


def read(text: str, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return policy.read(path, IDS, ("weights.channels",))


def test_it_changes_severity_and_threshold_and_demands(tmp_path):
    text = '[check."graph.bypass"]\nseverity = "low"\nrequired = true\n[check."weights.channels"]\nthreshold = 0.5\n'
    found = read(f"{text}[truth]\ntop1_at_least = 0.9\n", tmp_path)
    assert found.checks["graph.bypass"] == policy.Setting("low", None, True)
    assert found.checks["weights.channels"].threshold == 0.5
    assert found.truth == {"top1_at_least": 0.9}
    assert policy.read(None, IDS, ()) == policy.Policy()
    assert (
        policy.read({"check": {"graph.bypass": {"required": True}}}, IDS, ()).checks["graph.bypass"].required
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[check."graph.bypas"]\n', "did you mean 'graph.bypass'"),
        ("[checks]\n", "did you mean 'check'"),
        ('[check."graph.bypass"]\nseverty = "low"\n', "did you mean 'severity'"),
        ('[check."graph.bypass"]\nseverity = "grave"\n', "severity is one of high"),
        ('[check."graph.bypass"]\nrequired = 1\n', "true or false"),
        ('[check."graph.bypass"]\nthreshold = 1\n', "no threshold"),
        ('[check."weights.channels"]\nthreshold = "much"\n', "is a finite number"),
        ('[check."weights.channels"]\nthreshold = nan\n', "is a finite number"),  # over which nothing ever is
        ("[truth]\ntop1 = 0.5\n", "unknown key 'top1'"),
        ("[truth]\ntop1_at_least = 90\n", "from 0 to 1"),
        ("check = 3\n", "expected tables"),
        ("[check]\n'graph.bypass' = 3\n", "expected tables"),
        ("= 3\n", "cannot read a policy"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        read(text, tmp_path)
