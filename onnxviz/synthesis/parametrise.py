"""What the numbers are that the optimiser moves: the pixels themselves, or the picture's spectrum.

Each parametrisation appends to a graph the way from its parameters to the picture.
A picture here is its difference from the network's mean colour, (N, 3, H, W) RGB, black to white being 1; (N, 1, H, W)
for a network that sees grey.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir


class Parametrisation(ABC):
    """What a parametrisation does; `centre` is the mean colour, (3,) of 0..1, or (1,): P planes."""

    deviation: float

    @abstractmethod
    def shape(self, count: int, height: int, width: int, planes: int = 3) -> tuple[int, ...]:
        """The parameters' shape for so many pictures."""

    @abstractmethod
    def picture(self, op: Any, parameters: ir.Value, height: int, width: int, centre: np.ndarray) -> ir.Value:
        """Append the way to the picture."""

    @abstractmethod
    def parameters(self, pictures: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The parameters of given pictures (N, H, W, P), 0..1."""

    def bounds(self, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The least and the greatest value of the parameters, broadcastable; None: unbounded."""
        return None

    def start(
        self, rng: np.random.Generator, count: int, height: int, width: int, centre: np.ndarray
    ) -> np.ndarray:
        """The parameters to start from where no picture is given: Gaussian noise of this deviation, float32."""
        noise = rng.standard_normal(self.shape(count, height, width, len(centre)), np.float32)
        return self._kept(noise * np.float32(self.deviation), centre)

    def _kept(self, parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
        limits = self.bounds(centre)
        return parameters if limits is None else np.clip(parameters, *limits)


@dataclass(frozen=True)
class Pixels(Parametrisation):
    """The picture itself.

    deviation   of the noise to start from, black to white being 1; 0 starts at the network's mean colour
    bounded     keep every pixel between black and white
    """

    deviation: float = 0.0
    bounded: bool = True

    def shape(self, count: int, height: int, width: int, planes: int = 3) -> tuple[int, ...]:
        """(N, P, H, W)."""
        return count, planes, height, width

    def picture(self, op: Any, parameters: ir.Value, height: int, width: int, centre: np.ndarray) -> ir.Value:
        """The parameters as they are."""
        return parameters

    def parameters(self, pictures: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Channels first, the mean colour subtracted."""
        planes = np.asarray(pictures, np.float32).transpose(0, 3, 1, 2) - centre[:, None, None]
        return self._kept(np.ascontiguousarray(planes, dtype=np.float32), centre)

    def bounds(self, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The least and the greatest value, (P, 1, 1) each."""
        if not self.bounded:
            return None
        low = -centre[:, None, None]
        return low.astype(np.float32), (1 + low).astype(np.float32)


# The square root of the covariance of natural pictures' colours (RGB rows, decorrelated columns): an eigenbasis that is
# nearly light, blue against yellow, green against magenta. Values of Olah, Mordvintsev & Schubert 2017 (lucid).
_COLOUR = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]], np.float64)
COLOUR = (_COLOUR / np.linalg.norm(_COLOUR, axis=0).max()).astype(np.float32)


@dataclass(frozen=True)
class Fourier(Parametrisation):
    """The picture's spectrum, scaled so that every frequency moves alike, with decorrelated colours and a sigmoid.

    Olah, Mordvintsev & Schubert 2017, "Feature Visualization". The real form of the transform (Hartley's, each basis
    function cos + sin) is used: as many real numbers as pixels, its own inverse, and two matrix products in the graph.

    deviation   of the coefficients to start from
    power       of the frequency that a coefficient is divided by; higher gives smoother pictures
    band        the share of the frequencies, 0 to 1, that the picture has; 1: all that its pixels can hold
    colour      how strong colours are against light and dark; 1: as in natural pictures
    """

    deviation: float = 0.01
    power: float = 1.0
    band: float = 1.0
    colour: float = 1.0

    def shape(self, count: int, height: int, width: int, planes: int = 3) -> tuple[int, ...]:
        """(N, P, rows, columns) coefficients."""
        return count, planes, len(_kept(height, self.band)), len(_kept(width, self.band))

    def picture(self, op: Any, parameters: ir.Value, height: int, width: int, centre: np.ndarray) -> ir.Value:
        """sigmoid(H_y · colour(scaled coefficients) · H_x) − mean colour."""
        bases = [op.const(_basis(length, self.band)) for length in (height, width)]
        return self._drawn(op, parameters, (height, width), centre, bases)

    def window(
        self,
        op: Any,
        parameters: ir.Value,
        height: int,
        width: int,
        centre: np.ndarray,
        places: Sequence[ir.Value],
        sigma: ir.Value | None = None,
    ) -> ir.Value:
        """The picture at any places, as a view.

        places   rows (h, 1) and columns (w, 1) of the picture
        sigma    (1,): a Gaussian blur by so many pixels of the picture, before the sigmoid
        """
        bases, fading = [], []
        for at, length in zip(places, (height, width), strict=True):
            turns = (2 * np.pi / length * _signed(length, self.band)).astype(np.float32)
            angle = op.Mul(at, turns[None, :])
            bases.append(op.Mul(op.Add(op.Cos(angle), op.Sin(angle)), 1 / math.sqrt(length)))
            if sigma is not None:
                fading.append(op.Exp(op.Mul(op.Mul(sigma, sigma), -0.5 * turns**2)))
        fade = None
        if fading:
            fade = op.Mul(op.Unsqueeze(fading[0], [1]), op.Unsqueeze(fading[1], [0]))
        return self._drawn(op, parameters, (height, width), centre, bases, fade)

    def _drawn(
        self,
        op: Any,
        x: ir.Value,
        size: tuple[int, int],
        centre: np.ndarray,
        bases: list[Any],
        fade: Any = None,
    ) -> ir.Value:
        scale: Any = self._scale(*size)
        scale = scale if fade is None else op.Mul(fade, scale)
        _, planes, rows, columns = self.shape(-1, *size, len(centre))
        # Colours are mixed while there are only coefficients: fewer than pixels.
        flat = op.Reshape(op.Mul(x, scale), [-1, planes, rows * columns])
        mix = np.ascontiguousarray(self._mix(planes), dtype=np.float32)
        coloured = op.Reshape(op.MatMul(mix, flat), [-1, planes, rows, columns])
        light = op.MatMul(op.MatMul(bases[0], coloured), op.Transpose(bases[1], perm=[1, 0]))
        white = op.Sigmoid(op.Add(light, _logit(centre)))
        return op.Sub(white, centre[:, None, None].astype(np.float32))

    def parameters(self, pictures: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The coefficients; what is above the band is lost, black and white become nearly so."""
        planes = np.clip(np.asarray(pictures, np.float64).transpose(0, 3, 1, 2), 0.01, 0.99)
        height, width = planes.shape[2:]
        planes = np.log(planes / (1 - planes)) - _logit(centre)
        light = np.einsum("ij,njhw->nihw", np.linalg.inv(self._mix(len(centre))), planes)
        down, across = _basis(height, self.band), _basis(width, self.band)
        found = np.swapaxes(down, 0, 1) @ light @ across
        return np.ascontiguousarray(found / self._scale(height, width), dtype=np.float32)

    def _scale(self, height: int, width: int) -> np.ndarray:
        """(rows, columns): 1/frequency^power; times √(pixels), so that a picture's contrast is the same at any size."""
        y, x = _kept(height, self.band) / height, _kept(width, self.band) / width
        frequency = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
        least = 1 / max(height, width)
        falling = (least / np.maximum(frequency, least)) ** self.power
        return (falling * np.sqrt(height * width) * _REACH).astype(np.float32)

    def _mix(self, planes: int) -> np.ndarray:
        if planes == 1:  # light and dark alone, as strong as among colours
            return COLOUR[:, :1].mean(axis=0, keepdims=True)
        return COLOUR * np.array([1, self.colour, self.colour], np.float32)


# How far a coefficient of 1 at the lowest frequency moves a pixel before the sigmoid.
_REACH = 4.0


def _logit(centre: np.ndarray) -> np.ndarray:
    """(P, 1, 1): what the sigmoid makes the mean colour."""
    kept = np.clip(np.asarray(centre, np.float64), 0.05, 0.95)
    return np.log(kept / (1 - kept)).astype(np.float32)[:, None, None]


def _signed(length: int, band: float) -> np.ndarray:
    """The frequencies, in cycles a length, that lie within the band: as many below 0 as above."""
    k = np.arange(length)
    signed = np.where(k <= length // 2, k, k - length)
    return np.asarray(signed[np.abs(signed) <= max(1.0, band * length / 2)], np.float64)


def _kept(length: int, band: float) -> np.ndarray:
    """Those frequencies without sign."""
    return np.abs(_signed(length, band))


def _basis(length: int, band: float) -> np.ndarray:
    """(length, kept) float32: Hartley's orthonormal functions as columns."""
    angle = 2 * np.pi * np.arange(length)[:, None] * _signed(length, band)[None, :] / length
    return ((np.cos(angle) + np.sin(angle)) / np.sqrt(length)).astype(np.float32)
