"""What a comparison holds; how it is shown is `page`'s business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from onnxviz.auditing.finding import Check, Finding, ordered
from onnxviz.errors import UsageError, near
from onnxviz.results import Result

if TYPE_CHECKING:
    from onnxviz.comparing.advice import Advice
    from onnxviz.comparing.answers import Answers
    from onnxviz.comparing.drift import Drift
    from onnxviz.comparing.flips import Flip
    from onnxviz.comparing.local import Local
    from onnxviz.comparing.match import Matching
    from onnxviz.comparing.split import Split
    from onnxviz.comparing.why import Why
    from onnxviz.tables import Columns


@dataclass(repr=False)
class Compared(Result):
    """What changed between two files of one network.

    values     (L,) float32 ≥ 0: the local effect of each layer, in the order of `layers`; none where it was not run
    names      what the two files are called
    checks     every check with its state, findings and figures
    layers     a row for each layer of A that was found in B, in the order of computation
    matching   which value of B is which of A (`match.Matching`)
    answers    agreement and its limits, noise equivalent, flips (`answers.Answers`)
    split      noise by its source: weights, clipping, rounding (`split.Split`)
    drift      how far explanations moved (`drift.Drift`)
    advice     layers to leave in float, with what that was measured to gain (`advice.Advice`)
    effects    what each layer does by itself (`local.Local`)
    why        the figures of each layer (`why.Why`)
    flips      the changed answers that A was surest of, with their maps (`flips.Flip`)
    reasons    by part, why it was not run
    pictured   whether pictures were given
    measured   by part, what another comparison may go on with
    """

    names: tuple[str, str] = ("A", "B")
    checks: tuple[Check, ...] = field(default=(), repr=False)
    layers: Columns = field(default_factory=dict, repr=False)
    matching: Matching | None = field(default=None, repr=False)
    answers: Answers | None = field(default=None, repr=False)
    split: Split | None = field(default=None, repr=False)
    drift: Drift | None = field(default=None, repr=False)
    advice: Advice | None = field(default=None, repr=False)
    effects: Local | None = field(default=None, repr=False)
    why: Why | None = field(default=None, repr=False)
    flips: Sequence[Flip] = field(default=(), repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)
    pictured: bool = True
    measured: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def findings(self) -> list[Finding]:
        """What was found, the gravest first."""
        return ordered(self.checks)

    def check(self, id: str) -> Check:
        """The check of this id, such as 'compare.answers'.

        raises   UsageError
        """
        for one in self.checks:
            if one.id == id:
                return one
        ids = [one.id for one in self.checks]
        raise UsageError(f"there is no check {id!r}{near(id, ids)}; there are {', '.join(ids)}")

    def table(self) -> Columns:
        """`layers`."""
        return self.layers
