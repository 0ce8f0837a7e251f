"""Style transfer: the content of one picture in the style of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxviz.errors import UsageError, one_of
from onnxviz.network import ImageLike, Network
from onnxviz.objectives import tv as total_variation
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.synthesis.layers import (
    GRAMS,
    Layers,
    Weighted,
    content_layer,
    content_terms,
    fitting,
    sizes_of,
    style_layers,
    style_terms,
)
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.made import (
    Easel,
    Losses,
    Painting,
    Watch,
    fitted,
    keeping,
    noise_about,
    read_picture,
    resized,
    rounded,
    unwatched,
)
from onnxviz.synthesis.parametrise import Fourier, Pixels
from onnxviz.synthesis.texture import POWER
from onnxviz.synthesis.updates import Adam

_LONGEST = 512  # of what is made, where no size is asked for
_LEAST = 128  # shorter sides than this are no coarse resolution worth beginning at
_NOISE = 0.1
# Where a style's share of the loss is in balance with the content's. The means, nearly all of an uncentred matrix, are
# soon right; what is left of the error is then a tenth of the centred one's.
_WEIGHTS = {"uncentred": 100.0, "centred": 10.0}


@recorded
def style(
    net: Network,
    content: ImageLike,
    styles: ImageLike | Sequence[ImageLike],
    *,
    style_weights: Sequence[float] | None = None,
    layers: Layers = None,
    content_layers: Layers = None,
    content_weight: float = 1.0,
    style_weight: float | None = None,
    gram: str = "uncentred",
    tv: float = 0.05,
    start: str | ImageLike = "content",
    size: int | tuple[int, int] | None = None,
    style_scale: float = 1.0,
    steps: int = 150,
    scales: int = 2,
    colour: str = "style",
    optimiser: str = "lbfgs",
    rate: float = 0.03,
    spectrum: bool = True,
    seed: int = 0,
    progress: Shown = "auto",
    watch: Watch = unwatched,
) -> Painting:
    """Neural style transfer: paint the content of one picture in the style of others.

    Gatys, Ecker & Bethge 2016, "Image style transfer using convolutional neural networks": the content is a layer's
    activations, the style the Gram matrices of several. Every term is a share of what it is compared with, so that the
    same weights do for any network and layer.

    content          (H, W, 3) uint8, a path or a PIL image
    styles           one such picture, or several, mixed by `style_weights`
    style_weights    one for each style, in this order; None: equal
    layers           of the style: names, or {name: weight}; None: one at each stride (`style_layers`)
    content_layers   the same for the content; None: one at stride 8 (`content_layer`)
    content_weight   how much of the content stays
    style_weight     how much of the style comes; None: 100, or 10 with centred matrices
    tv               weight of total variation, black to white being 1: more is smoother
    gram             Gram matrices 'uncentred', as in the paper, or 'centred': of activations measured from the styles'
                     means, which heeds colours less and what belongs together more (`objectives.likeness.texture`)
    start            'content', 'noise', or a picture
    size             the longer side of the result in pixels, or (height, width); None: the content's own, up to 512
    style_scale      the styles' longer side, as a share of the result's: smaller makes finer strokes
    steps            evaluations of value and gradient at each resolution
    scales           resolutions, each twice the one before; the last is `size`
    colour           'style': as painted; 'luminance': only light and dark are painted, the colours are the content's;
                     'histogram': the styles are given the content's colours first (both: arXiv:1606.05897)
    optimiser        'lbfgs', or 'adam' with `rate`
    rate             of Adam
    spectrum         the optimiser moves the picture's spectrum; False: its pixels, as in the paper
    watch            called at every step
    returns          Painting: values (h, w, 3) float32, 0 to 1; figures: the loss before and after, and each term
    raises           UnknownLayer, UsageError, ImageRejected (a style of one colour, a picture that is too small),
                     ModelUnsuitable; GradientNotFinite and, on Ctrl-C, Interrupted, both with what was done so far
    """
    progress = told(progress)
    weight = _WEIGHTS[one_of("gram", gram, GRAMS)] if style_weight is None else style_weight
    if steps < 1 or scales < 1:
        raise UsageError(f"steps {steps}, scales {scales}: expected 1 or more of each")
    one_of("optimiser", optimiser, ("lbfgs", "adam"))
    if not 0.05 <= style_scale <= 4:
        raise UsageError(f"style_scale {style_scale:g}: expected 0.05 to 4")
    if not all(np.isfinite(one) and one >= 0 for one in (content_weight, weight, tv)) or not weight:
        raise UsageError(
            f"content weight {content_weight:g}, style weight {weight:g}, tv {tv:g}: expected numbers of 0 or more, "
            "and a style weight over 0"
        )
    adam = Adam(rate)
    one_of("colour", colour, COLOURS)
    pictures = list(styles) if isinstance(styles, (list, tuple)) else [styles]
    if not pictures:
        raise UsageError("no style picture was given; expected at least one")
    shares = [1.0] * len(pictures) if style_weights is None else list(style_weights)
    if len(shares) != len(pictures):
        raise UsageError(f"{len(shares)} style weights were given for {len(pictures)} style pictures")
    paints = Weighted.of(net, layers, style_layers, "style layers")
    subjects = Weighted.of(net, content_layers, content_layer, "content layers")
    photo = read_picture(net, content)
    wanted = fitted(photo.shape, size, _LONGEST)
    models = [read_picture(net, picture) for picture in pictures]
    photo, models, finish = _coloured(colour, photo, models)
    begun = start if isinstance(start, str) and start in ("content", "noise") else "picture"
    picture = read_picture(net, start) if begun == "picture" else photo if begun == "content" else None
    admissible = sizes_of(net, [*paints.names, *subjects.names])
    sizes = list(dict.fromkeys(admissible.nearest(one) or one for one in _resolutions(wanted, scales)))
    losses = Losses()
    resolutions: list[list[int]] = []

    def result() -> Painting:
        manifest = net.manifest(
            "style",
            style_weights=shares,
            layers=dict(paints.weights),
            content_layers=dict(subjects.weights),
            content_weight=content_weight,
            style_weight=weight,
            gram=gram,
            tv=tv,
            start=begun,
            size=list(wanted),
            style_scale=style_scale,
            steps=steps,
            scales=scales,
            colour=colour,
            optimiser=optimiser,
            rate=rate if optimiser == "adam" else None,
            spectrum=spectrum,
            seed=seed,
        )
        manifest["figures"] = {
            "resolutions": resolutions,
            "steps_done": len(losses.all),
            "loss_start": rounded(losses.all[0]),
            "loss": rounded(min(losses.all)),
            "loss_last": rounded(losses.all[-1]),
            "loss_by_term": {name: rounded(value) for name, value in losses.terms.items()},
        }
        return Painting(values=finish(resized(machine.pictures()[0], wanted)), manifest=manifest)

    easel = Easel(steps * len(sizes), progress, watch)
    with keeping(lambda: result() if losses.all else None):
        for place, at in enumerate(sizes):
            sight = resized(photo, at).clip(0, 1)
            longer = max(1, round(max(at) * style_scale))
            seen = [resized(model, fitted(model.shape, longer, longer)).clip(0, 1) for model in models]
            seen = [fitting(admissible, one) for one in seen]
            objective = style_terms(net, list(zip(seen, shares, strict=True)), paints, weight, gram=gram)
            if content_weight:
                objective = objective + content_terms(net, sight, subjects, content_weight)
            if tv:
                objective = objective - tv * total_variation()
            moved = Fourier(power=POWER) if spectrum else Pixels()
            update = adam if optimiser == "adam" else None
            fresh = Machine(net, objective, size=at, parametrise=moved, optimiser=update)
            begin = picture if picture is not None else noise_about([0.5] * 3, at, _NOISE, seed)
            way = fresh.lbfgs if update is None else fresh.run
            machine, losses = fresh, Losses()  # until now an early end gives the resolution before
            resolutions.append(list(at))
            loop = way(steps, seed=seed + place, start=resized(begin, at).clip(0, 1)[None])
            for step in easel.follow(loop, lambda shown: finish(resized(shown[0], wanted))[None]):
                losses.note(step)
            picture = machine.pictures()[0]
            easel.done = steps * (place + 1)  # L-BFGS may have ended earlier
    return result()


def _coloured(
    colour: str, photo: np.ndarray, models: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Content and styles as they are worked with, and what is done to the painting at the end."""
    if colour == "luminance":
        grey = luminance(photo)
        light = [matched_light(luminance(model), grey) for model in models]

        def finish(painted: np.ndarray) -> np.ndarray:
            return with_colours_of(painted, resized(photo, painted.shape[:2]).clip(0, 1))

        return grey, light, finish
    if colour == "histogram":
        models = [matched_colours(model, photo) for model in models]
    return photo, models, lambda painted: painted.clip(0, 1)


def _resolutions(wanted: tuple[int, int], scales: int) -> list[tuple[int, int]]:
    """(height, width) from coarse to fine; those with a side under `_LEAST` pixels are left out."""
    found = [
        (round(wanted[0] / 2**k), round(wanted[1] / 2**k))
        for k in range(scales - 1, 0, -1)
        if min(wanted) / 2**k >= _LEAST
    ]
    return [*found, wanted]


# From RGB to light and two colour differences (YIQ, NTSC), as Gatys et al. 2016 use.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
COLOURS = ("style", "luminance", "histogram")


def luminance(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 grey of a picture (H, W, 3), 0 to 1."""
    light = picture @ _YIQ[0].astype(np.float32)
    return np.repeat(light[:, :, None], 3, axis=2).astype(np.float32)


def with_colours_of(light: np.ndarray, coloured: np.ndarray) -> np.ndarray:
    """The luminance of one picture with the colours of another, (H, W, 3) float32, 0 to 1.

    Gatys, Bethge, Hertzmann & Shechtman 2016, arXiv:1606.05897, section 4.2.
    """
    yiq = coloured @ _YIQ.T.astype(np.float32)
    yiq[:, :, 0] = luminance(light)[:, :, 0]
    return np.clip(yiq @ np.linalg.inv(_YIQ).T, 0, 1).astype(np.float32)


def matched_light(picture: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A grey picture with the mean and the spread of light of another."""
    spread = float(picture.std())
    factor = float(to.std()) / spread if spread > 1e-6 else 1.0
    return np.clip((picture - picture.mean()) * factor + to.mean(), 0, 1).astype(np.float32)


def matched_colours(picture: np.ndarray, to: np.ndarray) -> np.ndarray:
    """A picture whose colours have the mean and covariance of another's, (H, W, 3) float32, 0 to 1.

    The linear map of Gatys et al. 2016, arXiv:1606.05897, section 4.1, by the symmetric square roots.
    """
    flat, wanted = (p.reshape(-1, 3).astype(np.float64) for p in (picture, to))
    own, other = (np.cov(p, rowvar=False) + 1e-6 * np.eye(3) for p in (flat, wanted))
    root = _root(own)
    inverse = np.linalg.inv(root)
    # The optimal transport map between the two Gaussians: symmetric, so no colour is turned into another.
    move = inverse @ _root(root @ other @ root) @ inverse
    found = (flat - flat.mean(axis=0)) @ move.T + wanted.mean(axis=0)
    return np.clip(found, 0, 1).reshape(picture.shape).astype(np.float32)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)
