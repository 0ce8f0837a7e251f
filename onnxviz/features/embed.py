"""Features of the last hidden layer: what the network makes of each picture before it names it."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.features.embedding import Embedding
from onnxviz.features.stream import Chunk, none_used, plan, source_name, sources, stream
from onnxviz.graph.output import SEQUENCE
from onnxviz.image.folder import Listing
from onnxviz.progress import Shown, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.graph.layers import Layer
    from onnxviz.network import Network


@recorded
def embed(
    net: Network,
    images: Any,
    *,
    layer: str | None = None,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Embedding:
    """One vector of features for each image: the last hidden layer's, before the network names what it sees.

    CS231n, lecture 12, "last layer". Images go through the network in a stream: memory grows by the features
    alone. Unreadable ones are left out, listed and counted.

    images   a folder of images, files, PIL images, (H, W, 3) uint8 arrays, or a list of these
    layer    a layer's name; None: the last hidden layer, found by itself. Of a layer of feature maps
             (N, C, H, W) each channel is averaged over all places, inside the graph
    batch    images a run; None: decided by what runs it
    returns  Embedding, values (N, D) float32
    raises   UnknownLayer, ModelUnsuitable, ImageRejected when no image could be read, Interrupted with the
             result so far on Ctrl-C
    """
    progress = told(progress)
    chosen = _layer(net, layer)
    several = isinstance(images, Sequence) and not isinstance(images, (str, bytes))
    several = several or (isinstance(images, np.ndarray) and images.ndim == 4)
    listing = sources(list(images) if several else images, net).require()
    try:
        scores = net.head.scores
    except ModelUnsuitable:
        scores = ""
    rows = _Rows(net, listing, chosen.name)
    build, key = functools.partial(_graph, net, chosen, scores), ("features", chosen.name, scores)
    with until_interrupted() as ending:
        for chunk in stream(net, listing.images, build, key=key, batch=batch, progress=progress):
            rows.skipped += chunk.skipped
            if len(chunk.index):
                rows.add(chunk, scores)
    if not rows.count:
        ending.nothing()
        raise none_used(len(listing.images), rows.skipped)
    used = plan(net, len(listing.images), batch)[1]
    return ending.given(rows.result({"layer": chosen.name, "batch": used}))


def _layer(net: Network, name: str | None) -> Layer:
    """The layer called `name`, or the last hidden one."""
    if name is not None:
        chosen = net.layer(name)
    else:
        try:
            chosen = net.layer(net.end.features)
        except (ModelUnsuitable, UnknownLayer) as error:
            raise ModelUnsuitable(f"{error}; or choose the layer of the features with --layer") from error
    axis = net.pictures_axis(chosen.name)
    # One row a picture may feed every step of a sequence: a plate's digits from one pooled vector.
    if axis or (name is None and net.end.kind == SEQUENCE and len(chosen.shape or ()) != 2):
        held = f"has its pictures on axis {axis}" if axis else "has a row of features for each step"
        raise ModelUnsuitable(
            f"layer {chosen.name!r} of shape {chosen.shape} {held}, not one row for each picture; choose a layer of "
            "feature maps with --layer"
        )
    return chosen


def _graph(net: Network, layer: Layer, scores: str) -> ir.Model:
    """The network with the features, and the class scores where it has any, as its outputs."""
    from onnxviz.graph.reduce import pooled
    from onnxviz.graph.surgery import cut

    keep = [scores] if scores else []
    model = cut(net.batched[0], list(dict.fromkeys([layer.name, *keep])))
    # A shape that the file does not tell: taken as it is, each image's numbers in one row.
    rank = len(layer.shape) if layer.shape != ("...",) else 2
    return pooled(model, layer.name, rank, channels_last=layer.channels_last, keep=keep)


class _Rows:
    """What came of the images so far."""

    def __init__(self, net: Network, listing: Listing, layer: str) -> None:
        self._net = net
        self._images: Sequence[Any] = listing.images
        self._ignored = listing.ignored
        self._layer = layer
        self._values = np.empty((0, 0), np.float32)
        self._index: list[int] = []
        self._prints: list[int] = []
        self._classes: list[int] = []
        self._confidence: list[float] = []
        self.skipped = list(listing.skipped)

    @property
    def count(self) -> int:
        return len(self._index)

    def add(self, chunk: Chunk, scores: str) -> None:
        # The features come first, whatever the model's own names made of theirs.
        index, flat = chunk.index, next(iter(chunk.arrays.values())).reshape(len(chunk.index), -1)
        if not self.count:
            # Once for all images: growing it would need twice the memory. What is not written is not taken.
            self._values = np.empty((len(self._images), flat.shape[1]), np.float32)
        if flat.shape[1] != self._values.shape[1]:
            raise ModelUnsuitable(
                f"images of different sizes give {flat.shape[1]} and {self._values.shape[1]} numbers in "
                f"layer {self._layer!r}; give one --size, or a layer of feature maps, which are averaged"
            )
        self._values[self.count : self.count + len(index)] = flat
        if scores in chunk.arrays:
            from onnxviz.meaning import probabilities

            # What is not finite is counted with the features, and ends nothing.
            rows = probabilities(self._net.head, chunk.arrays[scores].reshape(len(index), -1))
            top = np.argmax(rows, axis=1)
            self._classes += top.tolist()
            self._confidence += rows[np.arange(len(top)), top].tolist()
        self._index += index.tolist()
        self._prints += chunk.prints.tolist()

    def result(self, parameters: dict[str, Any]) -> Embedding:
        values = self._values[: self.count]
        classes = np.array(self._classes, np.int64) if self._classes else None
        found = Embedding(
            values=values,
            manifest={},
            files=[printable(source_name(self._images[i], i)) for i in self._index],
            layer=self._layer,
            classes=classes,
            confidence=np.array(self._confidence, np.float32) if classes is not None else None,
            names={} if classes is None else {int(i): self._net.label(int(i)) for i in np.unique(classes)},
            prints=np.array(self._prints, np.int64),
            # A path as its text: a `Path` takes four times the memory.
            sources=[
                os.fspath(one) if isinstance(one, os.PathLike) else one
                for one in (self._images[i] for i in self._index)
            ],
            skipped=self.skipped,
        )
        broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if np.isnan(values).any(axis=1).all():
            self._net.require_finite(values, f"the features of layer {self._layer!r}")
        figures = {
            "images": len(self._images),
            "embedded": self.count,
            "features": values.shape[1],
            "skipped": len(self.skipped),
            "ignored_files": self._ignored,
            "not_finite": len(broken),
        }
        found.manifest = self._net.manifest("embed", **parameters) | {"figures": figures} | listed(found)
        if len(broken):
            names = ", ".join(found.files[i] for i in broken[:3]) + ("…" if len(broken) > 3 else "")
            found.manifest["warnings"].append(
                f"the features of {len(broken)} pictures hold NaN or infinity: {names}"
            )
        return found


def listed(found: Embedding) -> dict[str, Any]:
    """What the manifest says of each image; `Embedding.load` takes it back."""
    known = found.classes is not None and found.confidence is not None
    return {
        "layer": found.layer,
        "files": found.files,
        "prints": found.prints.tolist(),
        "top_class": found.classes.tolist() if found.classes is not None and known else None,
        "top_probability": [round(float(p), 6) for p in np.asarray(found.confidence)] if known else None,
        "class_names": {str(index): name for index, name in found.names.items()},
        "skipped": [one.to_dict() for one in found.skipped],
    }
