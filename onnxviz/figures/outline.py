"""A segmentation as a picture: the outline on the photo, the object alone, and the map that it was found by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.figures.attribution import Explained, headline
from onnxviz.figures.captions import caption
from onnxviz.figures.grids import scaled, side_by_side
from onnxviz.figures.heat import fit
from onnxviz.figures.method_sheet import cell

if TYPE_CHECKING:
    from PIL import Image


_HEIGHT: Final = 432
_DIM: Final = 0.35  # how far the photo is darkened outside the object
_INNER, _OUTER = (255, 255, 255), (20, 20, 20)


def draw(image: np.ndarray, mask: np.ndarray, source: Explained, figures: dict[str, Any]) -> Image.Image:
    """Outline, cut-out on white, and map, side by side.

    image     (H, W, 3) uint8, the picture as the network sees it
    mask      (H, W) bool, the object
    source    the map that it was found by
    figures   of the segmentation's manifest
    """
    photo = np.asarray(scaled(image, 2 * _HEIGHT, _HEIGHT))
    mask = fit(mask.astype(np.float32), *photo.shape[:2]) > 0.5
    return side_by_side(
        [
            (
                outlined(photo, mask),
                f"{headline(source)}\nthe outline: {figures['area']:.0%} of the picture",
            ),
            (alone(photo, mask), f"the object alone\n{_certainty(figures)}"),
            (cell(source, _HEIGHT)[1], f"{caption(source).title}\nthe map that it was found by"),
        ],
        height=_HEIGHT,
    )


def _certainty(figures: dict[str, Any]) -> str:
    """How sure the cut is, and why: what the network says to it, what stays of it, and of how many parts it is."""
    text = []
    if "alone" in figures:
        text.append(f"with nothing else {figures['alone']:.1%}, without it {figures['without']:.1%}")
    if figures["parts"] != 1:
        text.append(f"{figures['parts']} parts, the largest {figures['largest_part']:.0%} of it")
    text.append(f"{figures['agreement']:.0%} stays when the thresholds move")
    return f"{'' if figures['sure'] else 'unsure, perhaps a fragment: '}{'; '.join(text)}"


def outlined(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photo, darker outside the mask, with a light line between two dark ones along its border."""
    from scipy.ndimage import binary_dilation, binary_erosion

    shown = photo.astype(np.float32)
    shown[~mask] *= 1 - _DIM
    result = np.rint(shown).astype(np.uint8)
    wide = max(1, round(min(photo.shape[:2]) / 200))
    # One of the two shows on any photo.
    result[binary_dilation(mask, iterations=2 * wide) & ~binary_erosion(mask, iterations=wide)] = _OUTER
    result[binary_dilation(mask, iterations=wide) & ~mask] = _INNER
    return result


def alone(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object on white."""
    result = np.full_like(photo, 255)
    result[mask] = photo[mask]
    return result
