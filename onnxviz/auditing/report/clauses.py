"""Which clauses of laws and standards a check is evidence towards. Evidence towards is not compliance with.

No date is given from which a duty applies: those of Regulation (EU) 2024/1689 have been moved before.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final


@dataclass(frozen=True)
class Clause:
    """A clause, what it is about in our words, and patterns of check ids."""

    name: str
    subject: str
    checks: tuple[str, ...]

    def covers(self, check: str) -> bool:
        """Whether what this check measures is evidence towards it."""
        return any(fnmatchcase(check, pattern) for pattern in self.checks)


_AROUND: Final = ("graph.bypass", "graph.pixel-logic")
_STABLE: Final = ("stability.*", "compare.answers", "compare.drift")

#: In the order in which the report lists them.
CLAUSES: Final = (
    Clause(
        "EU AI Act, Art. 15(1)",
        "an appropriate level of accuracy, robustness and cybersecurity",
        ("answers.*", "input.*", "stability.*", "shortcut.*", *_AROUND, "compare.*"),
    ),
    Clause(
        "EU AI Act, Art. 15(4)",
        "resilience against errors, faults and inconsistencies",
        ("stability.*", "runtime.*", "input.*", "file.finite", "weights.*", "compare.*"),
    ),
    Clause(
        "EU AI Act, Art. 15(5)",
        "resilience against attempts to alter use or outputs: poisoned or manipulated models, adversarial inputs",
        (*_AROUND, "file.loading", "shortcut.*", "stability.attack"),
    ),
    Clause("EU AI Act, Annex IV(2)(g)", "dated and signed test reports, with metrics and test data", ("*",)),
    Clause(
        "NIST AI RMF, MEASURE 2.5",
        "validity and reliability, and the limits of both",
        ("answers.*", "input.*", "stability.*", "runtime.*", "compare.*"),
    ),
    Clause("NIST AI RMF, MEASURE 2.6", "safety risks", ("stability.*", "answers.constant", "file.finite")),
    Clause(
        "NIST AI RMF, MEASURE 2.7",
        "security and resilience",
        ("graph.*", "file.*", "stability.attack", "shortcut.*"),
    ),
    Clause("NIST AI RMF, MEASURE 2.8", "transparency and accountability", ("file.*", "graph.*", "runtime.*")),
    Clause(
        "NIST AI RMF, MEASURE 2.9",
        "the model is explained, validated and documented",
        ("faith.*", "sanity.*", "shortcut.*", "weights.*", "compare.drift"),
    ),
    Clause("ISO/IEC TR 24029-1", "assessing the robustness of neural networks: overview", _STABLE),
    Clause(
        "ISO/IEC DIS 24029-3",
        "assessing the robustness of neural networks: statistical methods",
        ("stability.noise", "stability.shift", "stability.jpeg", "stability.resize", "stability.brightness"),
    ),
)
