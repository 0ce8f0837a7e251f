"""The recipes that `ascent` follows, by name, and their values as options."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from onnxviz.errors import UsageError, near, one_of
from onnxviz.synthesis.parametrise import Fourier, Pixels
from onnxviz.synthesis.transforms import Blur, Crop, Jitter, Pad, Rotate, Scale, Window
from onnxviz.synthesis.updates import Adam, Ascent, Blurring, Decay, SmallContributions, SmallPixels

# The side that lengths in pixels below are meant for; at another one they scale with it.
_SIDE = 224
_ROOM = 24
# Yosinski's pixels are 0 to 255, ours 0 to 1: a step along the plain gradient is 255² times shorter.
_GREYS = 255.0**2


def _within(default: float, low: float, high: float) -> Any:
    """A value of a recipe, and its range."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Recipe:
    """How a picture is made. Lengths are in pixels of a picture that the network sees at 224 × 224.

    parametrise   'fourier' (spectrum, decorrelated colours) or 'pixels'
    steps         how many
    optimiser     'adam' or 'ascent'
    rate          the step's length
    norm          what 'ascent' divides the gradient by: mean, rms, l2, none, or progress: the objective then rises by
                  `rate` a step, to first order
    rate_limit    of 'progress': the largest factor of the gradient, black to white being 1
    momentum      of 'ascent'
    taper         the rate falls evenly to nothing over the last share of the steps
    margin        how much larger the picture is than what the network sees of it, in pixels
    pad           grey border, in pixels
    jitter        random shift, in pixels
    turn          random rotation, in degrees
    scale_low     random enlargement, from
    scale_high    random enlargement, to
    blur_low      random Gaussian blur of what the network sees, from, in pixels; 0: none
    blur_high     random Gaussian blur of what the network sees, to, in pixels; 0: none
    draws         differently transformed views a step
    deviation     of the noise to start from
    power         fourier: how steeply frequencies fall (see `synthesis/parametrise.py`)
    band          fourier: the share of all frequencies that are used
    colour        fourier: strength of colours
    l2            weight of λ‖I‖², the picture's mean square
    tv            weight of total variation
    tv_beta       exponent of total variation
    decay         pixels: the share that each loses a step
    blur_radius   pixels: Gaussian blur of the picture
    blur_every    pixels: steps from blur to blur
    small_pixels         pixels: percentage nearest to grey that are cleared each step
    small_contributions  pixels: percentage contributing least that are cleared each step
    small_gradients      percentage of the smallest gradients that are cleared each step
    redirected    so many first steps use redirected gradients of ReLU
    keep          'last' or 'best': which step's picture is the result
    stretch       show the picture with its contrast stretched about the mean colour; its values stay as made
    """

    parametrise: str = "fourier"
    steps: int = _within(256, 1, 1_000_000)
    optimiser: str = "adam"
    rate: float = _within(0.02, 1e-9, 1e9)
    norm: str = "rms"
    rate_limit: float = _within(100 / _GREYS, 1e-9, 1e9)
    momentum: float = _within(0.0, 0, 0.999)
    taper: float = _within(0.0, 0, 1)
    margin: int = _within(0, 0, 2000)
    pad: int = _within(0, 0, 2000)
    jitter: int = _within(0, 0, 2000)
    turn: float = _within(0.0, 0, 45)
    scale_low: float = _within(1.0, 0.1, 10)
    scale_high: float = _within(1.0, 0.1, 10)
    blur_low: float = _within(0.0, 0, 20)
    blur_high: float = _within(0.0, 0, 20)
    draws: int = _within(1, 1, 64)
    deviation: float = _within(0.01, 0, 10)
    power: float = _within(1.0, 0, 4)
    band: float = _within(1.0, 0.01, 1)
    colour: float = _within(1.0, 0, 10)
    l2: float = _within(0.0, 0, 1e9)
    tv: float = _within(0.0, 0, 1e9)
    tv_beta: float = _within(2.0, 0.5, 8)
    decay: float = _within(0.0, 0, 0.99)
    blur_radius: float = _within(0.0, 0, 50)
    blur_every: int = _within(4, 1, 1_000_000)
    small_pixels: float = _within(0.0, 0, 99.9)
    small_contributions: float = _within(0.0, 0, 99.9)
    small_gradients: float = _within(0.0, 0, 99.9)
    redirected: int = _within(0, 0, 1_000_000)
    keep: str = "last"
    stretch: bool = False

    def __post_init__(self) -> None:
        one_of("parametrise", self.parametrise, ("fourier", "pixels"))
        one_of("optimiser", self.optimiser, ("adam", "ascent"))
        one_of("keep", self.keep, ("last", "best"))
        for one in dataclasses.fields(self):
            low, high = one.metadata.get("range", (None, None))
            if low is not None and not low <= (value := getattr(self, one.name)) <= high:
                raise UsageError(f"{one.name} is {value:g}, expected {low:g} to {high:g}")
        if self.parametrise == "fourier" and (
            self.decay or self.blur_radius or self.small_pixels or self.small_contributions
        ):
            raise UsageError(
                "decay, blur_radius, small_pixels and small_contributions change pixels: they need parametrise='pixels'"
            )

    # --- as pieces of the machine ---------------------------------------------------------------

    def canvas(self, seen: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the picture where the network sees `seen`."""
        return seen[0] + _scaled(self.margin, seen[0]), seen[1] + _scaled(self.margin, seen[1])

    def transforms(self, seen: tuple[int, int]) -> list[Any]:
        """What the picture goes through, in this order."""
        side = min(seen)
        blur = [Blur(max(self.blur_low, 1e-2), self.blur_high)] if self.blur_high else []
        turn = [Rotate(self.turn)] if self.turn else []
        scaled = self.scale_low != 1 or self.scale_high != 1
        chain: list[Any]
        if self.parametrise == "fourier" and not self.pad:
            # A picture made of waves repeats at its edges: shift, scale and crop are one view.
            reach = _scaled(self.jitter, side) + _scaled(self.margin, side) / 2
            if not reach and not scaled and not turn and not blur:
                return []
            # What a rotation moves in from beyond the view's edges.
            room = _scaled(_ROOM, side) if turn else 0
            chain = [Window(seen[0] + room, seen[1] + room, self.scale_low, self.scale_high, reach)]
            return chain + blur + turn + ([Crop(*seen, centred=True)] if turn else [])
        chain = [Pad(_scaled(self.pad, side))] if self.pad else []
        chain += [Jitter(_scaled(self.jitter, side))] if self.jitter else []
        chain += [Scale(self.scale_low, self.scale_high)] if scaled else []
        return chain + turn + blur + ([Crop(*seen)] if self.margin or self.pad else [])

    def parametrisation(self) -> Any:
        """What the optimiser moves."""
        if self.parametrise == "pixels":
            return Pixels(self.deviation)
        return Fourier(self.deviation, self.power, self.band, self.colour)

    def update(self) -> Any:
        """How it moves."""
        tapered, rate = round(self.steps * self.taper), self.rate

        def falling(step: int) -> float:
            left = self.steps - step
            return rate if left > tapered else rate * left / (tapered + 1)

        chosen = falling if tapered else rate
        if self.optimiser == "adam":
            return Adam(chosen)
        return Ascent(chosen, self.norm, self.momentum, self.rate_limit)

    def regularise(self) -> list[Any]:
        """What is done to the pixels after each step."""
        rules = (
            (self.decay, Decay),
            (self.blur_radius, functools.partial(Blurring, every=self.blur_every)),
            (self.small_pixels, SmallPixels),
            (self.small_contributions, SmallContributions),
        )
        return [make(value) for value, make in rules if value]


def _scaled(pixels: int, side: int) -> int:
    return round(pixels * side / _SIDE)


PRESETS: dict[str, Recipe] = {
    # Olah, Mordvintsev & Schubert 2017, with a steeper spectrum, more scales and random blur: small networks with ReLU6
    # and depthwise convolutions answer to fine patterns that nobody recognises anything in. The network sees three
    # quarters of the picture at a time, which makes a scene with one thing in it rather than a close-up.
    "lucid": Recipe(
        steps=256,
        rate=0.02,
        margin=75,
        jitter=12,
        turn=12,
        scale_low=0.75,
        scale_high=1.25,
        blur_low=0.3,
        blur_high=1.5,
        band=0.5,
        power=1.6,
        redirected=16,
    ),
    # The lecture (CS231n): pixels from the mean colour, L2, jitter, and every few steps a blur and a clearing.
    "lecture": Recipe(
        parametrise="pixels",
        optimiser="ascent",
        norm="rms",
        rate=0.01,
        steps=256,
        jitter=16,
        deviation=0.0,
        decay=0.003,
        blur_radius=0.5,
        blur_every=4,
        small_pixels=5,
        small_gradients=10,
        keep="best",
    ),
    # Simonyan, Vedaldi & Zisserman 2014: arg max S_c(I) − λ‖I‖², from zero.
    "simonyan": Recipe(
        parametrise="pixels",
        optimiser="ascent",
        norm="rms",
        rate=0.01,
        steps=200,
        deviation=0.0,
        l2=10.0,
        keep="best",
    ),
}
# On today's networks a few grey levels make a class's picture; the authors' program stretches what it shows, too.
_YOSINSKI = Recipe(
    "pixels", optimiser="ascent", norm="progress", rate=2.0, deviation=10 / 255, keep="best", stretch=True
)
# Yosinski et al. 2015, Table 1, row by row; "progress(100, 2)" is a limit of 100 and a rise of 2 a step.
_TABLE: tuple[dict[str, Any], ...] = (
    {"blur_radius": 0.5, "small_pixels": 50, "steps": 500},
    {"decay": 0.3, "small_pixels": 20, "steps": 750, "norm": "none", "rate": 100 / _GREYS},
    {"decay": 1e-4, "blur_radius": 1.0, "steps": 1000, "norm": "none", "rate": 100 / _GREYS},
    {"blur_radius": 0.5, "small_contributions": 90, "steps": 1000, "rate_limit": 1e8 / _GREYS},
)
PRESETS |= {f"yosinski-{i}": dataclasses.replace(_YOSINSKI, **row) for i, row in enumerate(_TABLE, 1)}


def recipe(preset: str, changes: dict[str, Any]) -> Recipe:
    """A preset with other values; None keeps the preset's.

    raises   UsageError for an unknown preset or option, or a value out of range
    """
    if preset not in PRESETS:
        raise UsageError(f"no preset {preset!r}; there are {', '.join(PRESETS)}{near(preset, PRESETS)}")
    known = {field.name for field in dataclasses.fields(Recipe)}
    for name in changes:
        if name not in known:
            raise UsageError(f"ascent has no option {name!r}{near(name, known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(PRESETS[preset], **given)
