"""What a team demands: a TOML file that changes severities and thresholds, and says which checks have to run.

[check."graph.pixel-logic"]
severity = "medium"
required = true

[check."weights.channels"]
threshold = 0.5

[truth]
top1_at_least = 0.9
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from onnxviz.auditing.accept import toml
from onnxviz.auditing.finding import SEVERITIES, Severity
from onnxviz.errors import UsageError, near
from onnxviz.text import quoted

_KEYS: Final = ("severity", "threshold", "required")
#: What [truth] may demand: shares from 0 to 1.
TRUTH: Final = ("top1_at_least", "top5_at_least", "class_at_least", "calibration_at_most")


@dataclass(frozen=True)
class Setting:
    """What a policy says of one check; None: as it is."""

    severity: Severity | None = None
    threshold: float | None = None
    required: bool = False


@dataclass(frozen=True)
class Policy:
    """The checks that it speaks of, by id, and what is demanded of the accuracy."""

    checks: Mapping[str, Setting] = field(default_factory=dict)
    truth: Mapping[str, float] = field(default_factory=dict)


def read(
    source: str | os.PathLike[str] | Mapping[str, Any] | Policy | None,
    ids: Collection[str],
    numbers: Collection[str],
) -> Policy:
    """A policy from a TOML file, or from its contents.

    ids       the checks that there are
    numbers   those of them whose threshold is a number
    raises    UsageError for an unknown id or key, with those most like it, and for values that cannot be meant
    """
    if source is None or isinstance(source, Policy):
        return source or Policy()
    if isinstance(source, Mapping):
        table, place = dict(source), "the policy"
    else:
        table, place = toml(source, "a policy's settings"), quoted(os.fspath(source))
    for key in table:
        if key not in ("check", "truth"):
            raise UsageError(f"{place} has an unknown table {quoted(key)}{near(key, ('check', 'truth'))}")
    found = {}
    for name, said in _table(table.get("check", {}), place).items():
        if name not in ids:
            raise UsageError(f"{place}: there is no check {quoted(name)}{near(name, ids)}")
        found[name] = _setting(name, _table(said, place), name in numbers, place)
    return Policy(found, _truth(_table(table.get("truth", {}), place), place))


def _table(given: Any, place: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise UsageError(f'{place}: expected tables such as [check."graph.bypass"], got {given!r}')
    return dict(given)


def _setting(name: str, said: dict[str, Any], counted: bool, place: str) -> Setting:
    where = f"{place}, check {quoted(name)}"
    for key, value in said.items():
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {quoted(key)}{near(key, _KEYS)}")
        if key == "severity" and value not in SEVERITIES:
            raise UsageError(f"{where}: severity is one of {', '.join(SEVERITIES)}; got {value!r}")
        if key == "required" and not isinstance(value, bool):
            raise UsageError(f"{where}: required is true or false, got {value!r}")
        if key == "threshold" and not counted:
            raise UsageError(f"{where}: whatever it finds is a finding; it has no threshold to set")
        if key == "threshold" and not (_number(value) and math.isfinite(value)):
            raise UsageError(f"{where}: threshold is a finite number, got {value!r}")
    return Setting(**said)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _truth(said: dict[str, Any], place: str) -> dict[str, float]:
    for key, value in said.items():
        if key not in TRUTH:
            raise UsageError(f"{place}, [truth]: unknown key {quoted(key)}{near(key, TRUTH)}")
        if not (_number(value) and 0 <= value <= 1):
            raise UsageError(f"{place}, [truth]: {key} is a share from 0 to 1, got {value!r}")
    return {key: float(value) for key, value in said.items()}
