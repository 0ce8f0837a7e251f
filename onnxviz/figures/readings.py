"""What each method is called and how its map is to be read: the words of pictures and sheets, one row a method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class Reading:
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


_SIGNED: Final = "red speaks for it, blue against it"
_FOR_IT: Final = (
    "the deeper the colour, the more the place speaks for it"  # a class activation map, and by what
)
_BRIGHT: Final = "the brighter, the more the score moves with the pixel"

#: By `Attribution.method`.
READINGS: Final = {
    "occlusion": Reading(
        "occlusion",
        "the deeper the colour, the more the {what} falls with the place covered: the mean of the windows over it",
        "mean fall in {what}",
    ),
    "rise": Reading(
        "RISE",
        "the deeper the colour, the higher the {what} when the place shows through a random mask",
        "mean {what} when the place shows",
        zero=False,
    ),
    "saliency": Reading("saliency", _BRIGHT, fine=True),
    "gradient": Reading(
        "gradient, signed", "red: more light there raises the score; blue: lowers it", fine=True
    ),
    "input-x-gradient": Reading("input × gradient", _SIGNED, fine=True),
    "guided": Reading("guided backprop", "the brighter, the stronger what passes back to it", fine=True),
    "deconvnet": Reading("deconvnet", "the brighter, the stronger what passes back to it", fine=True),
    "smoothgrad": Reading(
        "SmoothGrad", "the brighter, the more the score moves, on average over noise", fine=True
    ),
    "smoothgrad-squared": Reading(
        "SmoothGrad, squared", "the brighter, the larger the mean squared gradient over noise", fine=True
    ),
    "vargrad": Reading("VarGrad", "the brighter, the more the gradient changes with noise", fine=True),
    "integrated-gradients": Reading("integrated gradients", _SIGNED, fine=True),
    "expected-gradients": Reading("expected gradients", _SIGNED, fine=True),
    "full-gradient": Reading(
        "full gradient",
        "the deeper the colour, the larger the shares of the input and of all biases",
        zero=False,
    ),
    "grad-cam": Reading("Grad-CAM", f"{_FOR_IT}: channels weighted by their mean gradient", either=True),
    "grad-cam++": Reading(
        "Grad-CAM++", f"{_FOR_IT}: channels weighted by their positive gradients", either=True
    ),
    "layercam": Reading("LayerCAM", f"{_FOR_IT}: each place weighted by its positive gradient", either=True),
    "hirescam": Reading("HiResCAM", f"{_FOR_IT}: each place weighted by its gradient", either=True),
    "xgrad-cam": Reading("XGrad-CAM", f"{_FOR_IT}: channels weighted by gradient × activation", either=True),
    "eigencam": Reading("EigenCAM", "the deeper the colour, the more the layer answers, whatever the class"),
    "score-cam": Reading(
        "Score-CAM", f"{_FOR_IT}: channels weighted by the score when only they show", either=True
    ),
    "guided-grad-cam": Reading(
        "guided Grad-CAM",
        "guided backprop where Grad-CAM is high: the brighter, the stronger",
        fine=True,
        either=True,
    ),
}


def reading(method: str, signed: bool) -> Reading:
    """The method's row; a plain one for a method that has none."""
    meaning = _SIGNED if signed else "the deeper the colour, the more it matters"
    found = READINGS.get(method, Reading(method, meaning))
    return replace(found, meaning=_SIGNED) if signed and found.either else found
