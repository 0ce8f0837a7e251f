"""The commands that tell something of a network and draw nothing."""

from __future__ import annotations

from typing import Any

from onnxviz.cli.command import Call
from onnxviz.cli.run import Run
from onnxviz.errors import ImageRejected, NotFinite
from onnxviz.text import printable


def inspect(run: Run, call: Call) -> None:
    """What the network is made of."""
    found = call(run.load(call.model, warned=not run.as_json))
    for line in found.lines():
        run.say(printable(line))
    run.record(found.to_dict(), found.table())


def predict(run: Run, call: Call) -> None:
    """The classes of each picture, and what could not be read."""
    from onnxviz.graph.output import SEQUENCE
    from onnxviz.image.folder import find
    from onnxviz.provenance import command, recording

    net = run.load(call.model)
    top = call.options.get("top", call.command.parameters["top"].default)
    listing = find(call.arguments["images"], endings=net.preprocessing.endings)
    skipped = [(item.path, item.reason) for item in listing.skipped]
    rows = []
    for done, path in enumerate(listing.images, 1):
        try:
            with recording() as record:
                best = net.predict(path, top=top)[0]
        except (ImageRejected, NotFinite) as error:
            broken = isinstance(error, NotFinite) and bool(net.findings)  # every picture would come out so
            if broken or (len(listing.images) == 1 and not skipped):
                raise
            skipped.append((path, str(error)))
            continue
        steps = net.end.kind == SEQUENCE  # the best class of each
        listed = [({"step": i} if steps else {}) | item._asdict() for i, item in enumerate(best)]
        # The path as it was given, and what identifies the picture.
        rows.append({**record.pictures[0], "path": str(path), "steps" if steps else "top": listed})
        run.say(printable(str(path)))
        for number, item in enumerate(best):
            before = f"  step {number:3d}" if steps else ""
            run.say(f"{before}  {item.probability:7.2%}  {item.index:5d}  {printable(item.label, 200)}")
        run.progress(done, len(listing.images), "images")
    if not rows:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
        raise ImageRejected(f"none of the pictures could be used ({reasons or 'no picture was found'})")
    for path, reason in skipped:
        run.note(f"skipped {path}: {reason}")
    value = {
        "images": rows,
        "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
        "manifest": {**net.manifest("predict", top=top), **command()},
    }
    run.record(value, _predictions(rows))


def _predictions(images: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of a table with a row for each picture and class, or for each picture and step of a sequence."""
    key, number, first = ("steps", "step", 0) if images and "steps" in images[0] else ("top", "rank", 1)
    rows = [
        (one["path"], count, best["index"], best["label"], best["probability"])
        for one in images
        for count, best in enumerate(one[key], first)
    ]
    names = ("file", number, "index", "label", "probability")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
