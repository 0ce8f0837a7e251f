"""What the demo works with: photos that come with the dependencies, so that it needs no network, its folder, and the
bundled network in 8 bits."""

from __future__ import annotations

import importlib.resources
import importlib.util
import inspect
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from onnx import save
from PIL import Image

import onnxviz
from onnxviz.auditing.report.page import Figure
from onnxviz.files import png_bytes, write_atomic
from onnxviz.image.io import read
from onnxviz.network import Network
from onnxviz.progress import Progress
from onnxviz.runtime.providers import quantiser

if TYPE_CHECKING:
    from onnxviz.results import Result

_CROP = 320
# The photos of scikit-image and of scikit-learn; all are in the public domain or free to use (see the packages' notes).
_PACKAGES = (
    (
        "skimage",
        "data",
        "chelsea.png coffee.png astronaut.png rocket.jpg brick.png grass.png gravel.png hubble_deep_field.jpg ihc.png "
        "motorcycle_left.png retina.jpg coins.png moon.png page.png camera.png",
    ),
    ("sklearn", "datasets/images", "china.jpg flower.jpg"),
)


@dataclass(frozen=True)
class Stage:
    """What every section works with."""

    net: Network
    folder: Path
    photos: dict[str, Path]
    crops: Path
    seed: int
    progress: Progress
    copied: set[Path] = field(default_factory=set)

    @property
    def subjects(self) -> list[Path]:
        """The photos that techniques for a single picture are shown on."""
        return [self.photos[name] for name in self.some("chelsea", "coffee", "rocket", "flower", "china")]

    @property
    def subject(self) -> Path:
        """The one photo where there is room for only one."""
        return self.subjects[0]

    def some(self, *names: str) -> list[str]:
        """Those of these photos that are at hand."""
        return [name for name in names if name in self.photos]

    def first(self, *names: str) -> Path:
        """The first of these photos that is at hand; else the subject."""
        return next((self.photos[name] for name in self.some(*names)), self.subject)

    def original(self, photo: Path) -> str:
        """The path, from the demo's folder, of a copy of a photo there, for commands to name."""
        path = self.folder / "originals" / photo.name
        if path not in self.copied:
            self.copied.add(write_atomic(path, photo.read_bytes()))
        return f"originals/{path.name}"

    def spread(self, count: int) -> list[Path]:
        """About so many of the crops, of all photos."""
        crops = sorted(self.crops.iterdir())
        return crops[:: max(1, len(crops) // count)]

    def run(self, technique: str, *arguments: Any, **options: Any) -> Any:
        """What a technique gives, with the demo's seed and progress."""
        function = getattr(onnxviz, technique)
        takes = inspect.signature(function).parameters
        own = {"seed": self.seed, "progress": self.progress}
        own = {name: value for name, value in own.items() if name in takes}
        return function(self.net, *arguments, **own, **options)

    def picture(self, name: str, result: Result, caption: str, wide: bool = False) -> Figure:
        """A result, saved."""
        return Figure(result.save(self.folder / name), caption, wide)

    def made(
        self, name: str, caption: str, technique: str, *arguments: Any, wide: bool = True, **options: Any
    ) -> Figure:
        """What a technique gives, saved, over the page's width."""
        return self.picture(name, self.run(technique, *arguments, **options), caption, wide)

    def drawn(self, name: str, picture: Image.Image, caption: str) -> Figure:
        """A sheet of the demo's own, over the page's width."""
        return Figure(write_atomic(self.folder / name, png_bytes(picture)), caption, wide=True)


def photos() -> dict[str, Path]:
    """Every photo at hand by its name: two from scikit-learn, scikit-image's where it is installed (extra `demo`)."""
    files = [
        Path(str(importlib.resources.files(package)), folder, name)
        for package, folder, names in _PACKAGES
        if importlib.util.find_spec(package) is not None
        for name in names.split()
    ]
    return {path.stem: path for path in files if path.is_file()}


def write_crops(folder: Path, found: list[Path], per_photo: int, seed: int) -> Path:
    """A folder of square crops of the photos, as an image set for the techniques that need many pictures.

    Crops are drawn from the seed at 45 to 90 % of the photo's shorter side and saved as JPEG files that bear the
    photo's name.
    """
    random = np.random.default_rng(seed)
    for photo in found:
        picture = read(photo)
        height, width = picture.shape[:2]
        for number in range(per_photo):
            edge = int(min(height, width) * random.uniform(0.45, 0.9))
            top = int(random.integers(0, height - edge + 1))
            left = int(random.integers(0, width - edge + 1))
            crop = picture[top : top + edge, left : left + edge]
            write_atomic(folder / f"{photo.stem}-{number:02d}.jpg", _jpeg(crop))
    return folder


def _jpeg(pixels: np.ndarray) -> bytes:
    picture = Image.fromarray(pixels)
    if picture.width > _CROP:
        picture = picture.resize((_CROP, _CROP), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_int8(net: Network, pictures: list[Path], path: Path) -> Path:
    """Write the network in 8 bits by ONNX Runtime's own quantiser: QDQ form, weights per channel, ranges of what these
    pictures give."""
    ort = quantiser()

    class Reader(ort.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self, arrays: Iterator[np.ndarray]) -> None:
            self._arrays = arrays

        def get_next(self) -> dict[str, Any] | None:
            array = next(self._arrays, None)
            return None if array is None else {net.input.name: array}

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a pass that this network does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "int8.onnx"
            source = Path(folder) / "float.onnx"
            save(ir.to_proto(net.model), source)
            ort.quantize_static(
                source, made, Reader(net.prepare(picture) for picture in pictures), quant_format=ort.QuantFormat.QDQ,
                per_channel=True, activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8,
            )  # fmt: skip
            return write_atomic(path, made.read_bytes())
    finally:
        logging.disable(before)
