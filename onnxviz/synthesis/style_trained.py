"""What `style_train` gives back: the network as an ONNX model, its losses, and what it paints."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnxviz.files import destination
from onnxviz.results import Result, write

if TYPE_CHECKING:
    import onnx
    from PIL import Image


class Sample(NamedTuple):
    """A picture and its painted version, (h, w, 3) uint8."""

    content: np.ndarray
    painted: np.ndarray


@dataclass
class StyleTrained(Result):
    """A trained style network.

    values    (steps, 3) float32: each step's loss, and its style and content parts
    model     the network: `image`, (N, 3, H, W) RGB of 0 to 255, to `styled`, the same
    style     (H, W, 3) uint8, the style picture as it was measured
    samples   pictures that it learned on, painted
    """

    model: onnx.ModelProto = field(repr=False)
    style: np.ndarray = field(repr=False)
    samples: list[Sample] = field(repr=False)

    def picture(self) -> Image.Image:
        """The style, and the samples before and after."""
        from onnxviz.figures.sheet import Row, rows

        figures = self.manifest["figures"]
        said = (
            f"{figures['steps_done']} steps; loss {figures['loss_start']:.3g} -> {figures['loss_end']:.3g}, "
            f"of it style {figures['style_loss_end']:.3g} and content {figures['content_loss_end']:.3g}"
        )
        table = [
            Row("", [self.style if i == 0 else np.full((8, 8, 3), 255, np.uint8), one.content, one.painted])
            for i, one in enumerate(self.samples)
        ]
        return rows(
            table,
            side=256,
            lead=1,
            heads=["style", "picture", "painted"],
            title="style network",
            subtitle=said,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to `path` (NAME.onnx), and beside it NAME.png, NAME.npy (losses) and NAME.json.

        All of them appear together or none does.

        raises   UsageError, OutputRefused
        """
        target = destination(path, "style.onnx", (".onnx",))
        write(self, target.with_suffix(".png"), {target: self.model.SerializeToString()}, named=target)
        return target
