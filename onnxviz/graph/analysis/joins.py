"""What `bypass` knows of a value, and what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import onnx_ir as ir

from onnxviz.graph.analysis.pixels import Box

Kind = Literal["decision", "arithmetic"]


class Way(NamedTuple):
    """What is known of a value that depends on the picture.

    depth      the fewest weight layers on any way from the picture
    learned    whether some way goes through one
    decided    the node whose decision by pixels it is; None where it is anything else
    bent       whether it is no linear function of the pixels
    gathered   whether one of its numbers reads many places, which it no longer tells apart
    stamped    whether a constant of places was laid on what was gathered: a pattern, scaled by a gate
    """

    depth: int = 0
    learned: bool = False
    decided: ir.Node | None = None
    bent: bool = False
    gathered: bool = False
    stamped: bool = False


@dataclass(frozen=True)
class Join:
    """Where pixels that passed no learned layer meet something that they should not.

    kind      'decision' (comparisons, choices, loops), or 'arithmetic'
    node      the node that joins, by name
    op        its operator
    value     what it makes, by name
    operand   the value that came around, by name
    by        the operator that decides; '' for arithmetic
    behind    whether it meets what was learned, not only the picture
    box       the pixels that the operand reads (top, left, bottom, right), right and bottom excluded; None: unknown
    """

    kind: Kind
    node: str
    op: str
    value: str
    operand: str
    by: str
    behind: bool
    box: Box | None


@dataclass(frozen=True)
class Bypass:
    """The ways around of one output, or of all.

    fewest     weight layers on the shortest way from the picture; None: the picture does not move it
    around     the same with the last weight layer taken out; None: then the picture does not reach it
    last       the name of that layer; '' where there is none
    short      where a way joins that is no sound network's: without a learned layer; around the last; or around it
               behind the first one alone, by a decision
    joins      what was found, in topological order
    """

    fewest: int | None
    around: int | None
    last: str
    short: Join | None
    joins: tuple[Join, ...]


def both(one: Way, other: Way) -> Way:
    """What is known of a value that came by two ways."""
    return Way(
        min(one.depth, other.depth),
        one.learned or other.learned,
        one.decided or other.decided,
        one.bent or other.bent,
        one.gathered or other.gathered,
        one.stamped or other.stamped,
    )
