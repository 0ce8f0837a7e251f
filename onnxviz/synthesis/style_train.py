"""Training a feed-forward style network against the perceptual loss of any ONNX network."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ImageRejected, MissingDependency, RuntimeFailed, UsageError, at_least, one_of
from onnxviz.features.stream import none_used, refusal, source_name, sources
from onnxviz.files import destination
from onnxviz.image.folder import Skipped, decode
from onnxviz.image.io import read
from onnxviz.limits import Limits
from onnxviz.network import ImageLike, Images, Network
from onnxviz.objectives.base import Objective, fed, objective
from onnxviz.objectives.likeness import gram_of, means_of, texture
from onnxviz.progress import Shown, told, until_interrupted
from onnxviz.provenance import note_set, recorded, recording
from onnxviz.results import Result, write
from onnxviz.synthesis.layers import GRAMS, Layers, Weighted, content_layer, style_layers, style_terms
from onnxviz.synthesis.made import bytes_at, fitted
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx
    from PIL import Image

    from onnxviz.synthesis.style_network import StyleNetwork

_TINY = 1e-12


def near_fed(layer: str) -> Objective:
    """Minus the relative squared error of a layer to activations that are fed as `<layer>.content`, one a picture."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        rank = 4 if value.shape is None else len(value.shape)
        wanted = fed(
            op, f"{layer}.content", ir.DataType.FLOAT, ["N", *(f"content{i}" for i in range(1, rank))]
        )
        gap = op.Sub(value, wanted)
        squares = op.ReduceSum(op.Flatten(op.Mul(gap, gap), axis=1), [1], keepdims=0)
        size = op.ReduceSum(op.Flatten(op.Mul(wanted, wanted), axis=1), [1], keepdims=0)
        return op.Neg(op.Div(squares, op.Add(size, _TINY)))

    return objective(f"near({layer})", layer, build)


def _colours(net: Network, style: np.ndarray) -> Objective:
    """Minus the relative distance of the colours' covariances and means to those of a picture (H, W, 3), 0 to 1.

    What a network made for telling things apart does not look at, such as how red black may become, it lets happen.
    """
    last = net.preprocessing.layout == "NHWC"
    x = net.preprocessing.normalise(np.asarray(style, np.float32)[None] * np.float32(255))
    centre = means_of(x.astype(np.float32), channels_last=last)
    target = gram_of(x.astype(np.float32), centre, channels_last=last)
    return texture(net.input.name, target, centre, channels_last=last)


class PerceptualLoss:
    """Called with content pictures, it gives the loss of painted ones and its gradient by their pixels.

    net            of the size that the pictures have
    style          (H, W, 3) float, 0 to 1
    style_names, content_names   layers with their weights; None: `style_layers`, `content_layer`
    gram            Gram matrices 'uncentred' (the paper's) or 'centred' on the style's means
    colour_weight   of the statistics of the style's colours themselves, beside those of the layers
    raises         UnknownLayer, UsageError, ImageRejected, ModelUnsuitable, UnsupportedOperator
    """

    def __init__(
        self,
        net: Network,
        style: np.ndarray,
        *,
        style_names: Layers = None,
        content_names: Layers = None,
        gram: str = "uncentred",
        style_weight: float = 1.0,
        content_weight: float = 1.0,
        colour_weight: float = 0.0,
    ) -> None:
        self._net = net
        self.style = Weighted.of(net, style_names, style_layers, "the style layers")
        self.content = Weighted.of(net, content_names, content_layer, "the content layers")
        self._weight = content_weight
        total = style_terms(net, [(style, 1.0)], self.style, style_weight, gram=gram)
        if colour_weight:
            total = total + colour_weight * _colours(net, style)
        total = total + self.content.sum(near_fed, content_weight)
        self._gradients = net.gradients(total, also=self.content.names)
        self.parts = (0.0, 0.0)

    def __call__(self, pictures: np.ndarray) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The loss function for the painted versions of pictures (N, h, w, 3) of 0 to 255.

        It takes (N, h, w, 3) float32 of 0 to 255 and gives the losses (N,) and their gradients (N, h, w, 3). `parts`
        then has the means of its style and content terms.
        """
        recipe = self._net.preprocessing
        given = self._net.run(recipe.normalise(pictures).astype(np.float32), self.content.names)
        fed_arrays = {f"{name}.content": given[name].astype(np.float32) for name in self.content.names}

        def loss(painted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            arrays = self._gradients(recipe.normalise(painted).astype(np.float32), fed_arrays)
            values = -arrays["objective"]
            content = np.zeros(len(values))
            for name, weight in self.content.weights.items():
                wanted = given[name].astype(np.float64)
                axes = tuple(range(1, wanted.ndim))
                squares = ((arrays[name] - wanted) ** 2).sum(axis=axes)
                content += self._weight * weight * squares / ((wanted**2).sum(axis=axes) + _TINY)
            self.parts = (float((values - content).mean()), float(content.mean()))
            return values, -recipe.pixel_gradient(arrays[f"{self._net.input.name}.gradient"])

        return loss


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
        from onnxviz.figures.grids import Row, rows

        figures = self.manifest["figures"]
        said = (
            f"{figures['steps_done']} steps; loss {figures['loss_start']:.3g} -> {figures['loss_end']:.3g}, "
            f"of it style {figures['style_loss_end']:.3g} and content {figures['content_loss_end']:.3g}"
        )
        table = [
            Row("", [self.style if i == 0 else np.full((8, 8, 3), 255, np.uint8), one.content, one.painted])
            for i, one in enumerate(self.samples)
        ]
        heads = ["style", "picture", "painted"]
        return rows(table, side=256, lead=1, heads=heads, title="style network", subtitle=said)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the network to `path` (NAME.onnx), and beside it NAME.png, NAME.npy (losses) and NAME.json.

        All of them appear together or none does.

        raises   UsageError, OutputRefused
        """
        target = destination(path, "style.onnx", (".onnx",))
        write(self, target.with_suffix(".png"), {target: self.model.SerializeToString()}, named=target)
        return target


_EPOCHS, _FEWEST_STEPS = 2, 2000
_BATCH, _RATE, _WIDTH, _BLOCKS = 4, 1e-3, 32, 5
_STYLE, _CONTENT, _COLOUR, _TV = {"uncentred": 10.0, "centred": 1.0}, 4.0, 1.0, 0.1  # as in `style`
_SAMPLES = 3
_WORST = 0.1  # grey levels by which the ONNX file may differ from torch


@recorded
def style_train(
    net: Network,
    style: ImageLike,
    images: Images,
    *,
    style_layers: Layers = None,
    content_layers: Layers = None,
    style_weight: float | None = None,
    gram: str = "uncentred",
    content_weight: float = _CONTENT,
    colour_weight: float = _COLOUR,
    tv_weight: float = _TV,
    style_size: int | None = None,
    steps: int | None = None,
    batch: int = _BATCH,
    rate: float = _RATE,
    width: int = _WIDTH,
    blocks: int = _BLOCKS,
    seed: int = 0,
    progress: Shown = "auto",
) -> StyleTrained:
    """A network that paints any picture in the style of one, as an ONNX model.

    Johnson, Alahi & Fei-Fei 2016, arXiv:1603.08155, with instance normalisation and nearest-neighbour upsampling. torch
    moves the weights; the perceptual loss and its gradient by the painted picture come from the gradient graph of
    `net`, so any network in ONNX form will do. Losses are relative errors (`PerceptualLoss`): weights do not depend on
    how large a network's activations are.

    net              what measures style and content; pictures are shown to it at its own size (`load(size=)`)
    style            the picture whose style it is
    images           a folder or list of pictures to learn on; square crops, drawn from the seed
    style_layers     what measures style: names, or {name: weight}; None: one at each stride (`style_layers`)
    content_layers   what measures content: names, or {name: weight}; None: the middle layer at stride 8
    style_weight     weight of the style; None: 10, or 1 with centred matrices
    content_weight   weight of the content
    gram             Gram matrices 'uncentred', as in the paper, or 'centred' on the style's means (`style`)
    style_size       the style picture's longer side in pixels when it is measured; None: the size of the crops
    colour_weight    weight of the style's own colours (mean and covariance), which light networks hardly see; 0: none
    tv_weight        weight of the squared differences of neighbouring pixels, which smooths
    steps            of training; None: two passes over the pictures, at least 2000
    batch            pictures a step
    rate             Adam's learning rate
    width            channels of the first layer
    blocks           residual blocks
    returns          StyleTrained: the model, its values the losses (steps, 3): total, style, content
    raises           MissingDependency without torch, UsageError, ImageRejected, UnknownLayer, ModelUnsuitable,
                     UnsupportedOperator, GradientNotFinite, RuntimeFailed where the file disagrees with torch;
                     Interrupted on Ctrl-C, with the network so far
    """
    progress = told(progress)
    try:
        import torch
    except ImportError as error:
        raise MissingDependency("training needs torch: pip install 'onnxviz[torch]'") from error
    from onnxviz.opening import load
    from onnxviz.synthesis import style_network
    from onnxviz.synthesis.style_apply import style_apply

    style_weight = _STYLE[one_of("gram", gram, GRAMS)] if style_weight is None else style_weight
    for name, number in (("steps", steps), ("batch", batch), ("width", width)):
        if number is not None:
            at_least(name, number)
    if blocks < 0 or not rate > 0 or not min(style_weight, content_weight, colour_weight, tv_weight) >= 0:
        raise UsageError("blocks and weights are 0 or more, and the learning rate is over 0")
    size = net.size
    if min(size) < 16:
        raise UsageError(
            f"crops of {size[1]}×{size[0]} pixels are too small to train on: give --size 64 or more"
        )
    listing = sources(images).require()
    pictured, longest = read(style, limits=net.limits), style_size or max(size)
    pictured = bytes_at(pictured, fitted(pictured.shape, min(longest, max(pictured.shape[:2])), longest))
    loss = PerceptualLoss(
        net,
        pictured / np.float32(255),
        style_names=style_layers,
        content_names=content_layers,
        gram=gram,
        style_weight=style_weight,
        content_weight=content_weight,
        colour_weight=colour_weight,
    )
    wanted = steps or max(_FEWEST_STEPS, -(-_EPOCHS * len(listing.images) // batch))
    crops = _Crops(listing.images, size, seed, net.limits)
    network = style_network.fresh(width, blocks, seed)
    losses: list[tuple[float, float, float]] = []
    with until_interrupted() as ending:
        for step in style_network.train(
            network, crops.batches(batch), loss, steps=wanted, rate=rate, tv=tv_weight
        ):
            losses.append((step, *loss.parts))
            progress(len(losses), wanted, "steps")
    if not losses:
        ending.nothing()
    if (noted := note_set()) is not None:
        noted.add([crops.digests[place] for place in sorted(crops.digests)])
    called = printable(source_name(style, 0))
    model = _finished(network, net, called)
    difference = _compare(network, model, crops.first)
    manifest = net.manifest(
        "style-train",
        style=called,
        style_size=list(pictured.shape[:2]),
        size=list(size),
        style_layers=dict(loss.style.weights),
        content_layers=dict(loss.content.weights),
        style_weight=style_weight,
        gram=gram,
        content_weight=content_weight,
        colour_weight=colour_weight,
        tv_weight=tv_weight,
        steps=wanted,
        batch=batch,
        rate=rate,
        width=width,
        blocks=blocks,
        seed=seed,
    )
    manifest["versions"]["torch"] = str(torch.__version__)
    manifest["figures"] = _figures(losses, crops, len(listing.images), difference)
    manifest["skipped"] = [one.to_dict() for one in (*listing.skipped, *crops.skipped.values())]
    # A few of the pictures it learned on, and how it paints them.
    opened = load(model, provider="cpu")
    samples = [Sample(picture, style_apply(opened, picture).image) for picture in crops.first[:_SAMPLES]]
    values = np.array(losses, np.float32)
    return ending.given(StyleTrained(values, manifest, model, pictured, samples))


class _Crops:
    """Endless batches of crops: each picture once a round, in another order every round.

    first     the first pictures, for samples
    skipped   what cannot be read, by its place
    digests   the SHA-256 of what was learned on, by its place
    """

    def __init__(self, images: Sequence[Any], size: tuple[int, int], seed: int, limits: Limits) -> None:
        self._images, self._size, self._seed, self._limits = images, size, seed, limits
        self.skipped: dict[int, Skipped] = {}
        self.digests: dict[int, str] = {}
        self.first: list[np.ndarray] = []
        self.shown = 0

    def batches(self, count: int) -> Iterator[np.ndarray]:
        """(count, h, w, 3) uint8."""
        crops = self._crops()
        while True:
            made = np.stack(list(itertools.islice(crops, count)))
            self.first = self.first or list(made)
            self.shown += len(made)
            yield made

    def _drawn(self) -> Iterator[tuple[int, np.ndarray]]:
        """Places of pictures, and three numbers of 0 to 1 that say which crop; drawn here, in order, not in threads."""
        random = np.random.default_rng(self._seed)
        while len(self.skipped) < len(self._images):
            for place in random.permutation(len(self._images)).tolist():
                yield place, random.random(3)

    def _crops(self) -> Iterator[np.ndarray]:
        def crop(item: tuple[int, np.ndarray]) -> tuple[np.ndarray, str]:
            """At least half of what fits into the picture, at the size of training."""
            place, drawn = item
            with recording() as record:
                picture = read(self._images[place], limits=self._limits)
            height, width = self._size
            fits = min(picture.shape[0] / height, picture.shape[1] / width) * (0.5 + 0.5 * drawn[0])
            h, w = max(1, int(height * fits)), max(1, int(width * fits))
            top, left = int(drawn[1] * (picture.shape[0] - h + 1)), int(drawn[2] * (picture.shape[1] - w + 1))
            part = np.ascontiguousarray(picture[top : top + h, left : left + w])
            return bytes_at(part, (height, width)), record.pictures[0]["sha256"]

        for (place, _), found in decode(self._drawn(), crop, workers=2, ahead=8):
            if isinstance(found, ImageRejected):
                self.skipped.setdefault(place, refusal(self._images[place], place, found))
                if len(self.skipped) == len(self._images):
                    break
            else:
                made, self.digests[place] = found
                yield made
        raise none_used(len(self._images), list(self.skipped.values()))


def _finished(network: StyleNetwork, net: Network, style: str) -> onnx.ModelProto:
    """The ONNX model, which says itself how pictures become its input and where it comes from."""
    from onnx import helper

    from onnxviz.graph import metadata
    from onnxviz.image.preprocessing import PRESETS
    from onnxviz.synthesis.style_network import to_onnx

    model = to_onnx(network)
    props: dict[str, str] = {}
    recipe, source = replace(PRESETS["raw"], size=None), f"onnxviz style-train: {style}, loss of {net.name}"
    metadata.write(props, metadata.Metadata(preprocessing=recipe.to_dict(), source=source))
    helper.set_model_props(model, props)
    return model


def _compare(network: StyleNetwork, model: onnx.ModelProto, pictures: Sequence[np.ndarray]) -> float:
    """The largest difference of torch and ONNX Runtime, in grey levels, at two sizes and batches.

    raises   RuntimeFailed where it is visible
    """
    import onnx_ir as ir

    from onnxviz.programs import compile
    from onnxviz.synthesis.style_network import paint

    program = compile(ir.from_proto(model), provider="cpu", own=())
    worst = 0.0
    for part in (np.stack(pictures[:2]), pictures[0][None, : pictures[0].shape[0] - 3, 5:]):
        x = part.transpose(0, 3, 1, 2).astype(np.float32)
        found = program({"image": x}, ["styled"])["styled"]
        expected = paint(network, part)
        if found.shape != expected.shape:
            raise RuntimeFailed(f"the file gives {found.shape} for {x.shape}, torch {expected.shape}")
        worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= _WORST:
        raise RuntimeFailed(
            f"the file differs from torch by {worst:.3g} grey levels of 255; this is a bug in onnxviz, please report it"
        )
    return worst


def _figures(
    losses: Sequence[tuple[float, float, float]], crops: _Crops, images: int, difference: float
) -> dict[str, Any]:
    tenth = max(1, len(losses) // 10)
    ends = {"start": np.mean(losses[:tenth], axis=0), "end": np.mean(losses[-tenth:], axis=0)}
    names = ("loss", "style_loss", "content_loss")
    return {
        "steps_done": len(losses),
        "images": images,
        "skipped": len(crops.skipped),
        "crops_shown": crops.shown,
        **{f"{name}_{at}": float(end[i]) for at, end in ends.items() for i, name in enumerate(names)},
        "onnx_difference": difference,
    }
