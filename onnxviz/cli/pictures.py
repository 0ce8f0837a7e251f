"""Pictures and folders on the command line: which can be read, and one result for all of them or a file for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.cli.run import Run

if TYPE_CHECKING:
    from onnxviz.network import Network

# Words of the warnings that are about a map, not about the network.
_OF_MAPS = (" map is ", "add up to", "the cut is ")


def readable(
    run: Run, net: Network, images: Sequence[Path], layer: str | None = None
) -> tuple[list[Path], list[str]]:
    """The pictures of files and folders, and what was left out of them with reasons, which is told too.

    layer    how far they have to go through the network; None: all the way
    raises   ImageRejected where there is none that can be used, or the only one cannot
    """
    from onnxviz.errors import ImageRejected
    from onnxviz.image.folder import find

    listing = find(images, endings=net.preprocessing.endings).require()
    skipped = [f"{item.path}: {item.reason}" for item in listing.skipped]
    files: list[Path] = []
    for path in listing.images:
        if len(listing.images) == 1:
            files.append(path)
            break
        try:
            picture = net.preprocessing.read(path)
            if net.preprocessing.fixed is None:
                net.check_size(net.preprocessing.view(picture).shape[:2], layer)
        except ImageRejected as reason:
            skipped.append(f"{path}: {reason}")
        else:
            files.append(path)
    for text in skipped:
        run.note(f"skipped {text}")
    if not files:
        raise ImageRejected(f"none of the {len(skipped)} pictures could be used")
    return files, skipped


def save(run: Run, compute: Callable[[], Any], skipped: Sequence[str] = ()) -> None:
    """Compute and write one result, and tell its warnings; on Ctrl-C what was done so far, and it goes on.

    skipped   the pictures that were left out, for the manifest
    """
    from onnxviz.interrupted import Interrupted

    try:
        result = compute()
    except Interrupted as stop:
        run.save(stop.partial)
        run.note("interrupted: the map holds what was done so far, and its manifest says incomplete")
        raise
    if skipped:
        result.manifest["skipped"] = list(skipped)
    run.save(result)
    for text in _warnings(result.manifest):
        run.note(text)


def each(run: Run, net: Network, images: Sequence[Path], compute: Callable[[Path], Any]) -> None:
    """One result for each picture: of one picture --out itself, of several NAME-PICTURE.png beside it or in its folder.

    What cannot be read is told and left out; on Ctrl-C what was done so far is kept.

    raises   ImageRejected where there is no picture that can be read, or the only one cannot
    """
    from onnxviz.errors import ImageRejected
    from onnxviz.image.folder import find
    from onnxviz.interrupted import Interrupted
    from onnxviz.text import printable

    listing = find(images, endings=net.preprocessing.endings).require()
    if len(listing.images) == 1 and not listing.skipped:
        run.refuse_foreign(run.output())
        save(run, lambda: compute(listing.images[0]))
        return
    skipped = [(printable(one.path), one.reason) for one in listing.skipped]
    written: list[dict[str, Any]] = []
    taken: set[str] = set()
    targets = [_named(run.output(), path, taken) for path in listing.images]
    for target in targets:
        run.refuse_foreign(target)
    for done, (path, target) in enumerate(zip(listing.images, targets, strict=True), 1):
        stopped = None
        try:
            result = compute(path)
        except ImageRejected as reason:
            skipped.append((printable(path), str(reason)))
            continue
        except Interrupted as stop:
            stopped, result = stop, stop.partial
        run.say(str(result.save(target)))
        written.append({"image": printable(path), "out": str(target), "manifest": result.manifest})
        for text in _warnings(result.manifest):
            run.note(f"{printable(path)}: {text}")
        if stopped is not None:
            run.note("interrupted: what was done so far is written, and the last manifest says incomplete")
            raise stopped
        run.progress(done, len(listing.images), "images")
    for name, why in skipped:
        run.note(f"skipped {name}: {why}")
    if not written:
        raise ImageRejected(f"none of the {len(skipped)} pictures could be used")
    run.emit(
        {
            "out": [one["out"] for one in written],
            "images": written,
            "skipped": [{"path": name, "reason": why} for name, why in skipped],
        }
    )


def _named(target: Path, picture: Path, taken: set[str]) -> Path:
    """NAME-PICTURE.png for NAME.png; of pictures of one name in several folders, the later ones are numbered."""
    from onnxviz.text import printable

    stem = f"{target.stem}-{printable(picture.stem, 100)}"
    name, number = stem, 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem}-{number}"
    taken.add(name.casefold())
    return target.with_name(f"{name}{target.suffix}")


def _warnings(manifest: dict[str, Any]) -> list[str]:
    """What is odd about the maps; what is odd about the network was told when it was opened."""
    pictures = manifest["figures"].get("pictures")
    if pictures is None:
        return [text for text in manifest["warnings"] if any(part in text for part in _OF_MAPS)]
    return [
        f"{picture['name'] or 'a picture'}, {method}: {text}"
        for picture in pictures
        for method, found in picture["methods"].items()
        for text in found["warnings"]
    ]
