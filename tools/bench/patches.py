"""Maximally activating patches: throughput against its two parts alone, and memory over the number of images."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench import turns
from bench.turns import Peer, Spread, Step

IMAGES = 256
SIZE = (500, 375)
BATCH = 8
FEW, MANY = 200, 20_000


def parts() -> dict[str, Callable[[], list[dict]]]:
    """Three rows of throughput, one of memory."""
    return {"speed": _throughput, "memory": _memory}


# --- throughput -------------------------------------------------------------------------------


def _throughput() -> list[dict]:
    """Images a second of patches, of decoding alone and of bare ONNX Runtime, taken in turns.

    Decoding alone: from the file to the input tensor, in threads. Inference alone: a plain session of ONNX Runtime on
    the whole bundled network, images in memory. Both once with all cores and once with half of them: on a CPU
    the two parts share the cores, so that "the slower of the two" is a bound only where each has its own.
    """
    from onnxviz.programs import cores

    count = cores()
    half = max(1, count // 2)
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        _photos(photos, IMAGES, SIZE)
        asked = {
            "patches": Peer("bench.patches:ours", str(photos)),
            "decode, half": Peer("bench.patches:decode", str(photos), half),
            "infer, half": Peer("bench.patches:infer", str(photos), half),
            "decode, all": Peer("bench.patches:decode", str(photos), count),
            "infer, all": Peer("bench.patches:infer", str(photos), count),
            "infer, one": Peer("bench.patches:infer", str(photos), 1),
        }
        with turns.ending(asked) as started:
            taken = turns.take_turns(started, seconds=60)
    seconds = {name: [turn.seconds for turn in own] for name, own in taken.items()}
    work = {name: [turn.work for turn in own] for name, own in taken.items()}
    each = {name: statistics.median(times) / IMAGES * 1000 for name, times in seconds.items()}
    spent = {name: statistics.median(times) / IMAGES * 1000 for name, times in work.items()}
    told = f"EfficientNet-Lite0, {IMAGES} JPEG files of {SIZE[0]}×{SIZE[1]}, {count} cores; milliseconds an image"
    slower = _ratio(seconds, lambda t: max(t["decode, half"], t["infer, half"]))
    both = _ratio(seconds, lambda t: t["decode, all"] + t["infer, all"])
    needed = _ratio(work, lambda t: t["decode, half"] + t["infer, one"])
    return [
        {
            "name": "`patches`: throughput against the slower of decoding and inference, each on half the cores",
            **slower.row(".0%"),
            "target": "≥ 95 %",
            "detail": f"{told}: patches {each['patches']:.1f}, decoding {each['decode, half']:.1f}, "
            f"bare ONNX Runtime {each['infer, half']:.1f}",
        },
        {
            "name": "`patches`: throughput against decoding and bare inference one after the other, each on all cores",
            **both.row(".0%"),
            "target": "≥ 95 %",
            "detail": f"patches {each['patches']:.1f}, decoding {each['decode, all']:.1f}, "
            f"bare ONNX Runtime {each['infer, all']:.1f}; on a CPU nothing can be faster than this sum",
        },
        {
            "name": "`patches`: processor time that decoding and bare inference need, of all that it takes",
            **needed.row(".0%"),
            "target": "≥ 95 %",
            "detail": f"milliseconds an image, however busy the machine: patches {spent['patches']:.1f}, "
            f"decoding {spent['decode, half']:.1f}, bare ONNX Runtime on one thread {spent['infer, one']:.1f}",
        },
    ]


def _ratio(seconds: dict[str, list[float]], bound: Callable[[dict[str, float]], float]) -> Spread:
    """Bound / patches over the turns: neighbours in time share what else the machine does."""
    rounds = [dict(zip(seconds, times, strict=True)) for times in zip(*seconds.values(), strict=True)]
    return Spread.of([bound(one) / one["patches"] for one in rounds])


def ours(folder: str) -> Step:
    """The technique."""
    import onnxviz

    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    layer, paths = _last_maps(net), sorted(Path(folder).iterdir())

    def run() -> None:
        onnxviz.patches(net, paths, layer)

    return run


def decode(folder: str, workers: int) -> Step:
    """The photos read and made the network's input."""
    import onnxviz
    from onnxviz.image.io import read

    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    paths = sorted(Path(folder).iterdir())
    return lambda: _spread(workers, paths, lambda path: net.preprocessing.apply(read(path)))


def infer(folder: str, threads: int) -> Step:
    """As many forward passes as there are photos, on the same few over and over."""
    import onnxviz

    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    x = net.prepare(sorted(Path(folder).iterdir())[:BATCH])
    session = _session(net, threads)

    def run() -> None:
        for _ in range(IMAGES // BATCH):
            session.run(None, {net.input.name: x})

    return run


def _session(net, threads: int):
    import onnx_ir as ir
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = ir.serde.serialize_model(net.model).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _last_maps(net) -> str:
    """The last layer with feature maps: nearly the whole network is run for it."""
    return [layer.name for layer in net.layers if len(layer.shape) == 4 and layer.shape[2] not in (1, "?")][
        -1
    ]


def _spread(workers: int, paths: list[Path], work: Callable[[Path], object]) -> None:
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            waiting.append(pool.submit(work, path))
            if len(waiting) > 4 * workers:
                waiting.popleft().result()


def _photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG files cut from real photos."""
    from PIL import Image
    from skimage import data

    folder.mkdir()
    random = np.random.default_rng(0)
    photos = [Image.fromarray(getattr(data, name)()) for name in ("chelsea", "coffee", "astronaut", "rocket")]
    paths = []
    for i in range(count):
        photo = photos[i % len(photos)]
        width, height = (int(side * random.uniform(0.5, 1)) for side in photo.size)
        left, top = (
            int(random.integers(0, a - b + 1)) for a, b in zip(photo.size, (width, height), strict=True)
        )
        path = folder / f"{i:05d}.jpg"
        photo.crop((left, top, left + width, top + height)).resize(size).save(path, quality=90)
        paths.append(path)
    return paths


# --- memory -----------------------------------------------------------------------------------


def _memory() -> list[dict]:
    with tempfile.TemporaryDirectory() as place:
        return [_growth(Path(place) / "many")]


def _growth(folder: Path) -> dict:
    """The growth of resident memory from the 200th to the 20,000th image, in this process."""
    import psutil

    import onnxviz

    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    layer = next(layer.name for layer in net.layers if len(layer.shape) == 4)
    paths = _photos(folder, 100, (256, 192))
    for i in range(len(paths), MANY):
        os.link(paths[i % len(paths)], folder / f"{i:05d}.jpg")
    process = psutil.Process()
    resident: list[tuple[int, float]] = []

    def watch(done: int, total: int | None, what: str) -> None:
        if what == "images" and done % 40 == 0:
            resident.append((done, process.memory_info().rss / 1e6))

    onnxviz.patches(net, folder, layer, progress=watch)
    early = max(size for done, size in resident if done <= FEW)
    late = max(size for _, size in resident)
    return {
        "name": f"`patches`: resident memory from {FEW} to {MANY:,} images",
        "ratio": f"+{late - early:.0f} MB",
        "target": "± 50 MB",
        "detail": f"{early:.0f} MB at {FEW} images, never over {late:.0f} MB; first convolution of EfficientNet-Lite0",
    }
