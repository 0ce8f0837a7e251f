"""Keeping the content's colours when a style is taken over."""

from __future__ import annotations

import numpy as np

from onnxviz.errors import UsageError

# From RGB to light and two colour differences (YIQ, NTSC), as Gatys et al. 2016 use.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
KINDS = ("style", "luminance", "histogram")


def checked(kind: str) -> str:
    """The kind itself; UsageError for an unknown one."""
    if kind not in KINDS:
        raise UsageError(f"colour {kind!r}: expected one of {', '.join(KINDS)}")
    return kind


def luminance(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 grey of a picture (H, W, 3), 0 to 1."""
    light = picture @ _YIQ[0].astype(np.float32)
    return np.repeat(light[:, :, None], 3, axis=2).astype(np.float32)


def with_colours_of(light: np.ndarray, coloured: np.ndarray) -> np.ndarray:
    """The luminance of one picture with the colours of another, (H, W, 3) float32, 0 to 1.

    Gatys, Bethge, Hertzmann & Shechtman 2016, arXiv:1606.05897, section 4.2.
    """
    yiq = coloured @ _YIQ.T.astype(np.float32)
    yiq[:, :, 0] = luminance(light)[:, :, 0]
    found: np.ndarray = np.clip(yiq @ np.linalg.inv(_YIQ).T, 0, 1).astype(np.float32)
    return found


def matched_light(picture: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A grey picture with the mean and the spread of light of another."""
    spread = float(picture.std())
    factor = float(to.std()) / spread if spread > 1e-6 else 1.0
    found: np.ndarray = np.clip((picture - picture.mean()) * factor + to.mean(), 0, 1).astype(np.float32)
    return found


def matched_colours(picture: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A picture whose colours have the mean and covariance of another's, (H, W, 3) float32, 0 to 1.

    The linear map of Gatys et al. 2016, arXiv:1606.05897, section 4.1, by the symmetric square roots.
    """
    flat, wanted = (p.reshape(-1, 3).astype(np.float64) for p in (picture, to))
    own, other = (np.cov(p, rowvar=False) + 1e-6 * np.eye(3) for p in (flat, wanted))
    root = _root(own)
    inverse = np.linalg.inv(root)
    # The optimal transport map between the two Gaussians: symmetric, so no colour is turned into another.
    move = inverse @ _root(root @ other @ root) @ inverse
    found = (flat - flat.mean(axis=0)) @ move.T + wanted.mean(axis=0)
    return np.clip(found, 0, 1).reshape(picture.shape).astype(np.float32)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    found: np.ndarray = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return found
