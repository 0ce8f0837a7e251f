"""A larger image of the same texture: from a network's Gram matrices, or from pieces of the image itself."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from onnxviz._version import __version__
from onnxviz.errors import ImageRejected, UsageError, at_least, one_of
from onnxviz.image.recipe import check_made
from onnxviz.limits import Limits
from onnxviz.network import ImageLike, Network
from onnxviz.progress import Progress, Shown, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.results import Result
from onnxviz.synthesis.layers import GRAMS, Layers, Weighted, fitting, sizes_of, style_layers, style_terms
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.made import (
    Easel,
    Losses,
    Painting,
    Shot,
    Watch,
    fitted,
    keeping,
    noise_about,
    read_picture,
    resized,
    unwatched,
)
from onnxviz.synthesis.parametrise import Fourier
from onnxviz.synthesis.texture_pieces import (
    EVENNESS,
    TOLERANCE,
    Pieces,
    default_window,
    grow,
    quilt,
    sides,
)

METHODS = ("gram", "nearest", "quilt")
# `nearest` compares each pixel with every window of the source: a larger picture gives its middle, which shows the
# texture as well and takes seconds instead of hours.
_MOST = {"nearest": 128, "quilt": 1024}
_LONGEST = {"nearest": 256, "quilt": 1024}  # of the texture, where no size is asked for
_OPTIONS = ("layers", "gram", "steps", "window", "block", "overlap", "tolerance", "evenness")
_OWN = {
    "gram": ("layers", "gram", "steps"),
    "nearest": ("window", "tolerance", "evenness"),
    "quilt": ("block", "overlap", "tolerance", "evenness"),
}


@dataclass
class Texture(Painting):
    """A texture made from pieces of an image.

    values   (h, w, 3) float32, 0 to 1
    source   (H, W, 3) uint8, what it was made from
    origin   (h, w, 2) int32, the row and column of the source that each pixel was taken from; −1 where nothing is yet
    """

    source: np.ndarray = field(repr=False)
    origin: np.ndarray = field(repr=False)
    _least: ClassVar[int] = 1


@recorded
def texture(
    net: Network | None,
    image: ImageLike,
    method: str = "gram",
    *,
    size: int | tuple[int, int] | None = None,
    layers: Layers = None,
    gram: str | None = None,
    steps: int | None = None,
    window: int | None = None,
    block: int | None = None,
    overlap: int | None = None,
    tolerance: float | None = None,
    evenness: float | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    progress: Shown = "auto",
    watch: Watch = unwatched,
) -> Result:
    """An image of any size with the texture of another.

    net         the network whose Gram matrices are matched; `nearest` and `quilt` need none (None)
    image       (H, W, 3) uint8, a path or a PIL image, in its own size
    method      'gram': Gatys, Ecker & Bethge 2015, arXiv:1505.07376; 'nearest': Efros & Leung 1999,
                pixel by pixel (`grow`), from the middle 128×128 pixels of a larger image; 'quilt': Efros &
                Freeman 2001, block by block (`quilt`)
    size        side in pixels, or (height, width); None: twice the image, its longer side up to 256 pixels
                (quilt: 1024); of gram 256×256
    layers      gram: the layers to match; None: one at each stride
    gram        gram: matrices 'centred' on the image's means, or 'uncentred', as in the paper; None: centred
    steps       gram: of the optimiser
    window      nearest: side of the neighbourhood, odd; None: 15
    block       quilt: side of a block; None: a third of the image
    overlap     quilt: overlap of blocks; None: a sixth of one
    tolerance   nearest, quilt: how much worse than the best may be drawn; None: 0.1
    evenness    nearest, quilt: 0 as in the papers, more repeats less; None: 0.5
    limits      of the image, where there is no network; a network has its own
    watch       called after each step, for animations; of nearest and quilt the value is the share that is known
    returns     a Result whose picture is the texture: values (h, w, 3) float32, 0 to 1
    raises      UsageError, ImageRejected; Interrupted on Ctrl-C, with what was made so far
    """
    progress = told(progress)
    one_of("method", method, METHODS)
    given = (layers, gram, steps, window, block, overlap, tolerance, evenness)
    options: dict[str, Any] = {
        name: value for name, value in zip(_OPTIONS, given, strict=True) if value is not None
    }
    for name in options:
        if name not in _OWN[method]:
            of = " and ".join(other for other in METHODS if name in _OWN[other])
            raise UsageError(
                f"{name} belongs to {of}, not to {method}, which takes {', '.join(_OWN[method])}"
            )
    wanted = None
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        if min(height, width) < 3:
            raise UsageError(
                f"a texture has at least 3 pixels each way, got {width}×{height} (width × height)"
            )
        check_made(height, width)
        wanted = int(height), int(width)
    if method == "gram":
        if net is None:
            raise UsageError("method gram needs a network; nearest and quilt work without one")
        return _gram(net, image, wanted or (256, 256), seed, progress, watch, **options)
    limits = net.limits if net is not None else limits or Limits()
    return _pieces(net, image, method, wanted, options, seed, limits, progress, watch)


def _pieces(
    net: Network | None,
    image: ImageLike,
    method: str,
    size: tuple[int, int] | None,
    options: dict[str, Any],
    seed: int,
    limits: Limits,
    progress: Progress,
    watch: Watch,
) -> Texture:
    """`nearest` or `quilt`, with progress and what is left of an interrupted run."""
    from onnxviz.image.io import read

    whole = read(image, limits=limits)
    source, piece = _middle(whole, _MOST[method])
    if min(source.shape[:2]) < 5:
        raise ImageRejected(
            f"an image of {whole.shape[1]}×{whole.shape[0]} pixels shows no texture: give one of at least 5 each way"
        )
    if size is None:  # twice the image's, its longer side not over a limit
        factor = min(2.0, _LONGEST[method] / max(whole.shape[:2]))
        size = max(3, round(whole.shape[0] * factor)), max(3, round(whole.shape[1] * factor))
    options = {"tolerance": TOLERANCE, "evenness": EVENNESS, **options}
    make: Any = grow
    what = "pixels"
    if method == "nearest":
        options = {"window": default_window(source), **options}
    else:
        make, what = quilt, "blocks"
        options["block"], options["overlap"] = sides(source, options.get("block"), options.get("overlap"))
    last: Pieces | None = None
    began = time.perf_counter()
    with until_interrupted() as ending:
        for index, last in enumerate(make(source, size, seed=seed, **options)):
            progress(last.done, last.total, what)
            seconds = time.perf_counter() - began
            watch(Shot(index, None, last.done / last.total, {}, seconds, last.image.copy))
    if last is None:
        ending.nothing()
    assert last is not None
    manifest = _manifest(net, method=method, size=size, source=piece, seed=seed, **options)
    if source.shape != whole.shape:
        manifest["warnings"].append(
            f"the source has {whole.shape[1]}×{whole.shape[0]} pixels: method {method} uses its middle "
            f"{source.shape[1]}×{source.shape[0]}; crop or scale it yourself for another part"
        )
    manifest["figures"] = _figures(last, source)
    manifest["limits"] = limits.to_dict()
    values = last.image.astype(np.float32) / np.float32(255)
    return ending.given(Texture(values, manifest, source, last.origin))


def _middle(image: np.ndarray, most: int) -> tuple[np.ndarray, dict[str, int]]:
    """At most `most` pixels each way of the middle of an image, and where they lie."""
    height, width = (min(length, most) for length in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    piece = np.ascontiguousarray(image[top : top + height, left : left + width])
    return piece, {"top": top, "left": left, "height": height, "width": width}


def _figures(made: Pieces, source: np.ndarray) -> dict[str, Any]:
    known = made.origin[..., 0] >= 0
    beside = known[:, 1:] & known[:, :-1]
    together = (made.origin[:, 1:] - made.origin[:, :-1] == (0, 1)).all(axis=2)
    places = made.origin[known].astype(np.int64) @ np.array([source.shape[1], 1])
    return {
        "done": made.done,
        "total": made.total,
        # How much of the texture stands beside its own neighbour of the source, and of the source is seen in it.
        "copied_in_runs": float(together[beside].mean()) if beside.any() else 0.0,
        "source_used": len(np.unique(places)) / (source.shape[0] * source.shape[1]),
    }


def _manifest(net: Network | None, **parameters: Any) -> dict[str, Any]:
    """A network's manifest, or the same without one."""
    if net is not None:
        return net.manifest("texture", **parameters)
    return {
        "schema": "onnxviz.texture/1",
        "technique": "texture",
        "model": None,
        "versions": {"onnxviz": __version__, "numpy": np.__version__},
        "parameters": parameters,
        "warnings": [],
    }


#: How fast the spectrum that L-BFGS moves falls: textures need their fine grain, so slower than natural pictures'.
POWER = 0.5
_STEPS = 300
_LONGEST_SOURCE = 256  # of the source's side: what the deeper layers see at once
_NOISE = 0.05


def _gram(
    net: Network,
    image: ImageLike,
    wanted: tuple[int, int],
    seed: int,
    progress: Progress,
    watch: Watch,
    *,
    layers: Layers = None,
    gram: str = "centred",
    steps: int = _STEPS,
) -> Painting:
    """`gram`: the Gram matrices of several layers are made those of the source, each as a share of its own size.

    Two deviations make light networks do it: activations are measured from the source's means
    (`objectives.likeness.texture`), and what L-BFGS moves is the picture's spectrum, so that large forms and colours
    come as fast as grain.
    """
    one_of("gram", gram, GRAMS)
    at_least("steps", steps)
    whole = read_picture(net, image)
    texture = resized(whole, fitted(whole.shape, None, _LONGEST_SOURCE)).clip(0, 1)
    chosen = Weighted.of(net, layers, style_layers)
    admissible = sizes_of(net, chosen.names)
    texture = fitting(admissible, texture)
    objective = style_terms(net, [(texture, 1.0)], chosen, gram=gram)
    made = admissible.nearest(wanted) or wanted
    machine = Machine(net, objective, size=made, parametrise=Fourier(power=POWER))
    start = noise_about(texture.mean(axis=(0, 1)), made, _NOISE, seed)
    losses = Losses()

    def result() -> Painting:
        manifest = net.manifest(
            "texture",
            method="gram",
            size=list(wanted),
            source_size=list(texture.shape[:2]),
            layers=dict(chosen.weights),
            gram=gram,
            steps=steps,
            power=POWER,
            seed=seed,
        )
        best = min(losses.all)
        manifest["figures"] = {
            "steps_done": len(losses.all),
            "loss_start": losses.all[0],
            "loss": best,
            "fall": losses.all[0] / max(best, 1e-30),
            "loss_by_term": losses.terms,
        }
        return Painting(values=resized(machine.pictures()[0], wanted).clip(0, 1), manifest=manifest)

    with keeping(lambda: result() if losses.all else None):
        for step in Easel(steps, progress, watch).follow(machine.lbfgs(steps, seed=seed, start=start)):
            losses.note(step)
    return result()
