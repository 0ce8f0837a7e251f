"""Running every technique for the demo, one after the other, and putting the page together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import onnxviz
from onnxviz.auditing.report.facts import facts
from onnxviz.auditing.report.html import render
from onnxviz.auditing.report.page import Page, Section
from onnxviz.claims import claimed, reason
from onnxviz.demo.photos import Stage, photos, write_crops
from onnxviz.demo.topics import TOPICS
from onnxviz.errors import OutputRefused
from onnxviz.files import write_atomic
from onnxviz.progress import Progress, silent

_CROPS_A_PHOTO = 16
# So many photos' crops differ from each other: enough to fill a map, few enough to take seconds.
_VARIED = 14
_TITLE = "onnxviz: a network, looked into"
_INCOMPLETE = (
    f"<!doctype html><meta charset=utf-8><title>{_TITLE}</title>"
    "<p>Incomplete: this demo is being made, or was interrupted; run onnxviz demo again."
).encode()
_LEAD = (
    "What a network looks at and what it has learned, from its ONNX file alone: every technique of onnxviz, run on "
    "EfficientNet-Lite0, a network trained on ImageNet, and on photos that it has not seen. Each "
    "command can be typed in this page's folder, and every picture lies there, with its raw values (.npy) and its run "
    "manifest (.json)."
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
    folder = Path(out)
    with claimed(folder):
        _replaceable(folder / "index.html")
        net = onnxviz.load(model, provider=provider, threads=threads)
        index = folder / "index.html"
        if index.exists():  # until the new page is there, none tells of what is being replaced
            write_atomic(index, _INCOMPLETE)
        found = photos()
        crops = write_crops(folder / "photos", list(found.values())[:_VARIED], _CROPS_A_PHOTO, seed)
        stage = Stage(net=net, folder=folder, photos=found, crops=crops, seed=seed, progress=progress)
        sections: list[Section] = []
        for topic in TOPICS:
            say(topic.title)
            sections.append(topic.section(stage))
        told = facts({"network": net.manifest("demo")}, seed=seed)
        page = render(Page("demo", _TITLE, lead=(_LEAD,), sections=sections, facts=told))
        return write_atomic(index, page)


def _replaceable(page: Path) -> None:
    try:
        with page.open("rb") as file:
            ours = f"<title>{_TITLE}".encode() in file.read(4096)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise OutputRefused(reason(page, error)) from error
    if not ours:
        raise OutputRefused(f"{str(page)!r} is there already, and no page of this demo; choose another --out")
