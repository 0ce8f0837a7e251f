"""Running every technique for the demo, one after the other, and putting the page together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from onnxviz._version import __version__
from onnxviz.demo.page import Section, render
from onnxviz.demo.photos import Photo, photos, write_crops
from onnxviz.demo.sections import SECTIONS, Stage
from onnxviz.files import claimed, write_atomic
from onnxviz.progress import Progress, silent

_CROPS_A_PHOTO = 16
_LEAD = (
    "What a network looks at and what it has learned, from its ONNX file alone: every technique of onnxviz, run on "
    "EfficientNet-Lite0, a network trained on ImageNet, and on photos that it has not seen."
)


def demo(
    out: str | os.PathLike[str] = "demo",
    *,
    model: str = "efficientnet-lite0",
    provider: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Run every technique on the bundled network and photos that come with the dependencies.

    out       a folder, made if need be: index.html, and each section's pictures, values and manifests
    say       called with the name of each section as it begins
    returns   the path of index.html
    raises    OutputRefused
    """
    import onnxviz

    folder = Path(out)
    with claimed(folder):
        net = onnxviz.load(model, provider=provider, threads=threads)
        found = {photo.name: photo for photo in photos()}
        crops = write_crops(folder / "photos", _varied(list(found.values())), _CROPS_A_PHOTO, seed)
        stage = Stage(net=net, folder=folder, photos=found, crops=crops, seed=seed, progress=progress)
        sections: list[Section] = []
        for make in SECTIONS:
            say((make.__doc__ or make.__name__).splitlines()[0])
            sections.append(make(stage))
        versions = net.manifest("demo")["versions"]
        facts = {
            "network": f"{net.name}, SHA-256 {net.digest[:16]}…",
            "onnxviz": __version__,
            "ONNX Runtime": versions["onnxruntime"],
            "seed": seed,
        }
        page = render("onnxviz: a network, looked into", _LEAD, sections, facts)
        return write_atomic(folder / "index.html", page.encode("utf-8"))


def _varied(found: list[Photo]) -> list[Photo]:
    """The photos whose crops differ from each other: enough to fill a map, few enough to take seconds."""
    return found[:14]
