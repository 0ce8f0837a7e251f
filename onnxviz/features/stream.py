"""Many images through one graph: folder → decode → batch → run, in flat memory and in order.

On a CPU each worker thread decodes a few images and runs them itself, on one session with one thread within an
operator. Measured on EfficientNet-Lite0 with 500×375 JPEG files on 2 cores (2.4 ms of processor time to decode and
resize an image, 9.2 ms to run it, so 5.8 ms of wall time is the least that is possible):

    a worker decodes and runs 4 or 8 images (this module)                      5.8 to 6.0 ms an image
    decoding threads feed one session of 2 threads that sleep when idle        6.3 to 7.6
    decoding threads feed one session of 2 threads that wait busily            9.5 to 21

There is no queue between decoding and running that could run dry or full, whichever of the two is slower, and no
thread ever waits for another inside an operator. On an accelerator the workers decode side by side and run one
after the other.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import programs
from onnxviz.errors import COMMAND, ImageRejected, ModelUnsuitable, at_least
from onnxviz.image.folder import EXTENSIONS, Listing, Skipped, decode, find
from onnxviz.progress import Progress, silent
from onnxviz.provenance import note_set, recording
from onnxviz.text import printable, quoted

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.network import Network
    from onnxviz.runtime.ort import Program

# Throughput is flat from 1 to 32 images a run on a CPU; a few are enough, and keep a worker's share of memory small.
_LARGEST_ON_CPU: Final = 8
_CPU: Final = "CPUExecutionProvider"


@dataclass(frozen=True)
class Chunk:
    """What came of a few neighbouring images.

    index     (n,) int64, their places in the sources; those that were skipped are missing
    arrays    the graph's outputs by name, each with n entries
    sizes     (n, 2) int64, height and width in pixels of the upright original
    prints    (n,) int64, CRC-32 of the picture as the network saw it: tells later whether a file was replaced
    skipped   those that are unreadable or too small, with reasons
    digests   the SHA-256 of each one's bytes, where a manifest asks for them
    """

    index: np.ndarray
    arrays: dict[str, np.ndarray]
    sizes: np.ndarray
    prints: np.ndarray
    skipped: list[Skipped]
    digests: Sequence[str] = ()


def sources(images: Any, net: Network | None = None) -> Listing:
    """The images of files, folders, arrays, or a mixture, in order.

    images   a folder or file, a PIL image, an (H, W, 3) uint8 array, or a list of these
    net      the network that they are for, which says what is taken in folders; None: pictures
    """
    if isinstance(images, Listing):
        return images
    endings = EXTENSIONS if net is None else net.preprocessing.endings
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    if all(isinstance(one, (str, os.PathLike)) for one in given):
        return find(given, endings=endings)
    found: list[Any] = []
    skipped: list[Skipped] = []
    ignored = 0
    for one in given:
        if isinstance(one, (str, os.PathLike)):
            listing = find(one, endings=endings)
            found += listing.images
            skipped += listing.skipped
            ignored += listing.ignored
        else:
            found.append(one)
    return Listing(found, skipped, ignored)


def none_used(count: int, skipped: Sequence[Skipped]) -> ImageRejected:
    """What is raised where not one of `count` images could be used."""
    told = "; ".join(map(str, skipped[:3]))
    return ImageRejected(f"none of the {count} images could be used ({told})")


def source_name(source: Any, index: int) -> str:
    """What an image is called in tables and pictures: its path, or its number where it has none."""
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else f"image {index}"


def plan(net: Network, count: int, batch: int | None = None) -> tuple[int, int]:
    """How many threads, and how many images each of them runs at once, for `count` images.

    As many threads as `threads=` says, else as there are cores; fewer where memory does not hold an image's
    activations for each of them.
    """
    if batch is not None:
        at_least("batch", batch)
    workers = max(1, min(net.threads or programs.cores(), count))
    fixed = 1 if count > 1 and net.alone is not None else net.batched[1]
    fitting = programs.batch_size(net.elements, largest=_LARGEST_ON_CPU * workers)
    each = fixed or batch or min(_LARGEST_ON_CPU, max(1, fitting // workers), -(-count // workers))
    return max(1, min(workers, fitting // max(each, net.batched[1] or 1))), each


def stream(
    net: Network,
    images: Sequence[Any],
    build: Callable[[], ir.Model],
    *,
    key: Hashable,
    batch: int | None = None,
    progress: Progress = silent,
) -> Iterator[Chunk]:
    """Run a graph on any number of images; memory does not grow with their number.

    The chunks come in the order of the images, whichever thread made them, so what is computed from them is the
    same in every run. An image that is unreadable, or too small for the network, is left out of its chunk and listed
    there.

    images     paths, PIL images or (H, W, 3) uint8 arrays; only indexed, so it may be a lazy sequence
    build      gives the graph, which takes the network's own input (with the batch of `net.batched`)
    key        what the compiled graph is kept under (see `Network.compile`)
    batch      images a run; None: a few a thread on a CPU, what memory allows elsewhere
    progress   called after each chunk with the number of images done
    raises     ModelRejected, RuntimeFailed, LimitExceeded
    """
    count = len(images)
    if not count:
        return
    # One thread within an operator: the workers are the parallelism, and spinning would take their cores.
    program = net.compile(build, key=key, threads=1, spin=False)
    workers, size = plan(net, count, batch)
    if program.provider != _CPU and batch is None:
        size = net.batch_size()
    taken = note_set()
    worker = _Worker(net, program, images, taken is not None)
    parts = (range(start, min(start + size, count)) for start in range(0, count, size))
    for part, chunk in decode(parts, worker, workers=workers, ahead=workers):
        if isinstance(chunk, ImageRejected):  # a worker lists refusals itself
            raise chunk
        if taken is not None:
            taken.add(chunk.digests)
        yield chunk
        progress(part.stop, count, "images")


class _Worker:
    """What each thread does with its share: decode, prepare, run."""

    def __init__(self, net: Network, program: Program, images: Sequence[Any], digest: bool) -> None:
        self._net = net
        self._digest = digest
        self._program = program
        self._images = images
        self._filled_to = net.batched[1] or 1
        # A thread has a context of its own: refusals are spelt as the caller would.
        self._caller = COMMAND.get()
        # One run at a time where runs share a device; decoding goes on beside it.
        self._gate: Any = contextlib.nullcontext() if program.provider == _CPU else threading.Lock()

    def __call__(self, part: range) -> Chunk:
        COMMAND.set(self._caller)
        read: list[tuple[int, np.ndarray, tuple[int, ...], str]] = []
        skipped: list[Skipped] = []
        recipe = self._net.preprocessing
        for i in part:
            try:
                with recording() if self._digest else contextlib.nullcontext() as record:
                    picture = recipe.read(self._images[i])
                view = recipe.view(picture)
            except ImageRejected as error:
                skipped.append(refusal(self._images[i], i, error))
            else:
                read.append((i, view, picture.shape[:2], record.pictures[0]["sha256"] if record else ""))
        arrays, small = self._run([view for _, view, _, _ in read])
        for place, reason in small.items():
            i = read[place][0]
            skipped.append(refusal(self._images[i], i, reason))
        left = [one for place, one in enumerate(read) if place not in small]
        return Chunk(
            np.array([i for i, _, _, _ in left], np.int64),
            arrays,
            np.array([size for _, _, size, _ in left], np.int64).reshape(-1, 2),
            np.array([fingerprint(view) for _, view, _, _ in left], np.int64),
            skipped,
            [digest for _, _, _, digest in left] if self._digest else [],
        )

    def _run(self, views: list[np.ndarray]) -> tuple[dict[str, np.ndarray], dict[int, ImageRejected]]:
        """The outputs for these views, which may differ in size where the network takes any; without those that are
        too small for it, which are given by their place."""
        results: list[dict[str, np.ndarray]] = []
        small: dict[int, ImageRejected] = {}
        for _, group in itertools.groupby(enumerate(views), key=lambda one: one[1].shape):
            places, equal = zip(*group, strict=True)
            try:
                results.append(self._run_equal(np.stack(equal)))
            except ImageRejected as error:
                if self._net.preprocessing.fixed is not None:  # no picture of another size will come
                    raise
                small |= dict.fromkeys(places, error)
        if len(results) == 1:
            return results[0], small
        names = results[0] if results else ()
        return {name: np.concatenate([result[name] for result in results]) for name in names}, small

    def _run_equal(self, views: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs for views of one size, (n, h, w, C)."""
        # Where the file fixes its batch it is filled up, and the surplus thrown away.
        x = programs.filled(self._net.preprocessing.normalise(views), self._filled_to)
        with self._gate:
            arrays = self._program({self._net.input.name: x})
        for name, array in arrays.items():
            if not array.ndim:  # all pictures' loss, say
                raise ModelUnsuitable(f"{quoted(name)} is one number for a run, not one for each picture")
        return {name: array[: len(views)] for name, array in arrays.items()}


def fingerprint(view: np.ndarray) -> int:
    """CRC-32 of a picture as the network sees it."""
    return zlib.crc32(np.ascontiguousarray(view).data)


def refusal(source: Any, index: int, error: ImageRejected) -> Skipped:
    """An unreadable image, with the reason but not the name once more."""
    from pathlib import Path

    name = source_name(source, index)
    return Skipped(Path(name), str(error).removeprefix(f"{printable(name, 200)}: "))
