"""What a method is called and how its map is to be read: the words of pictures and sheets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

SIGNED: Final = "red speaks for it, blue against it"


@dataclass(frozen=True)
class Caption:
    """How a method's map is to be read.

    title      the method's name in pictures
    meaning    what a deep colour says; {what} is the probability or the score
    scale      what the numbers of the scale are
    zero       whether the map is coloured from 0 up; else from its median, where it has no zero of its own
    fine       whether neighbouring pixels differ: shown as it is beside what remains when it is smoothed
    either     whether it comes with and without negative values; `meaning` is that without
    """

    title: str
    meaning: str
    scale: str = ""
    zero: bool = True
    fine: bool = False
    either: bool = False


class Captioned(Protocol):
    """What has a caption: see `results.Attribution`."""

    method: str
    signed: bool
    caption: Caption | None


def caption(of: Captioned) -> Caption:
    """Its own caption; a plain one where it has none."""
    found = of.caption or Caption(
        of.method, SIGNED if of.signed else "the deeper the colour, the more it matters"
    )
    return replace(found, meaning=SIGNED) if of.signed and found.either else found
