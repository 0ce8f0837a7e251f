"""Feature inversion: a picture with the same activations as a photo, which shows what a layer still knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import UsageError
from onnxviz.network import ImageLike, Network
from onnxviz.objectives import norm, tv
from onnxviz.objectives.likeness import near
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.results import Result
from onnxviz.synthesis.layers import check_size
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.made import Easel, Watch, as_bytes, keeping, noise_about, rounded, unwatched
from onnxviz.synthesis.parametrise import Fourier
from onnxviz.synthesis.transforms import Jitter
from onnxviz.synthesis.updates import Adam

if TYPE_CHECKING:
    from PIL import Image

_NOISE = 0.05
#: How fast the spectrum that is moved falls: as in natural pictures.
POWER = 1.0


@dataclass
class Inversion(Result):
    """Pictures with the activations of a photo, one a layer.

    values   (layers, H, W, 3) float32, 0 to 1
    image    (H, W, 3) uint8, the photo as the network sees it
    layers   the layers' names, as given
    errors   ‖Φ(x) − Φ₀‖² / ‖Φ₀‖² of each
    """

    values: np.ndarray = field(repr=False)
    image: np.ndarray = field(repr=False)
    layers: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def picture(self) -> Image.Image:
        """A sheet: the photo, then the inversions with their relative errors."""
        from onnxviz.figures import grids

        cards = [(self.image, "photo")]
        cards += [
            (as_bytes(picture), f"{name}\nrelative error {error:.2g}")
            for picture, name, error in zip(self.values, self.layers, self.errors, strict=True)
        ]
        return grids.side_by_side(cards, height=max(224, self.image.shape[0]))


@recorded
def invert(
    net: Network,
    image: ImageLike,
    layers: str | Sequence[str],
    *,
    steps: int = 200,
    alpha: float = 6.0,
    alpha_weight: float = 1e-3,
    beta: float = 2.0,
    tv_weight: float = 0.1,
    jitter: int = 0,
    rate: float = 0.05,
    seed: int = 0,
    progress: Shown = "auto",
    watch: Watch = unwatched,
) -> Inversion:
    """Feature inversion: from noise, find a picture that a layer cannot tell from the photo.

    Mahendran & Vedaldi 2015, arXiv:1412.0035: the least ‖Φ(x) − Φ₀‖² / ‖Φ₀‖² + λα‖x‖α^α + λV·R_Vβ(x), by L-BFGS on
    the picture's spectrum. What comes back is what the layer still knows; the rest is what the priors like. A layer
    whose units are nearly all zero (the last ReLU) hardly leads anywhere from noise: invert what it reads instead.

    image          (H, W, 3) uint8, or anything `Network.prepare` takes; one
    layers         a layer's name, or several (the sheet has them in this order)
    steps          evaluations of value and gradient, for each layer
    alpha          exponent of the norm, which keeps pixels from black and white
    alpha_weight   weight of the norm: the mean of |x|^alpha, black and white being 1
    beta           exponent of total variation
    tv_weight      weight of total variation, the mean over neighbouring pixels: more is smoother
    rate           with `jitter`: of Adam
    jitter         roll the picture by up to so many pixels before each step (by Adam with `rate` instead of L-BFGS)
    watch          called at every step
    returns        Inversion; figures: each layer's relative error, before and after
    raises         UnknownLayer, UsageError, ImageRejected, ModelUnsuitable (the layer does not depend on the input);
                   GradientNotFinite and, on Ctrl-C, Interrupted, both with what was done so far
    """
    progress = told(progress)
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names or steps < 1 or jitter < 0:
        raise UsageError(
            f"{len(names)} layers, steps {steps}, jitter {jitter}: expected a layer, steps over 0, jitter of 0 or more"
        )
    adam = Adam(rate)
    if not (alpha_weight >= 0 and tv_weight >= 0):
        raise UsageError("the weights of the norm and of total variation must be 0 or more")
    values = [net.layer(name).name for name in names]
    net.preprocessing.require_pictures("invert")
    photo = net.pictures(image)
    if len(photo) != 1:
        raise UsageError(f"invert takes one image, got {len(photo)}")
    check_size(net, values, photo[0].shape[:2])
    targets = net.run(net.preprocessing.normalise(photo[0][None]), list(dict.fromkeys(values)))
    done: list[tuple[np.ndarray, dict[str, Any]]] = []
    errors: list[float] = []  # of the layer at work
    prior = alpha_weight * 2.0**alpha * norm(alpha) + tv_weight * tv(beta=beta)

    def finish() -> None:
        """Put the layer at work among those that are done."""
        if errors:
            figures = {
                "layer": names[len(done)],
                "error_start": rounded(errors[0]),
                "error": rounded(error),
                "steps_done": len(errors),
            }
            done.append((machine.pictures()[0], figures))
            errors.clear()

    def result() -> Inversion:
        finish()
        manifest = net.manifest(
            "invert",
            layers=names,
            steps=steps,
            alpha=alpha,
            alpha_weight=alpha_weight,
            beta=beta,
            tv_weight=tv_weight,
            jitter=jitter,
            seed=seed,
        )
        manifest["figures"] = {"layers": [figures for _, figures in done]}
        return Inversion(
            values=np.stack([picture for picture, _ in done]),
            manifest=manifest,
            image=photo[0],
            layers=names[: len(done)],
            errors=[float(figures["error"]) for _, figures in done],
        )

    easel = Easel(steps * len(names), progress, watch)
    with keeping(lambda: result() if done or errors else None):
        for place, value in enumerate(values):
            term = near(value, targets[value])
            machine = Machine(
                net,
                term - prior,
                size=photo[0].shape[:2],
                parametrise=Fourier(power=POWER),
                transforms=(Jitter(jitter),) if jitter else (),
                optimiser=adam if jitter else None,
            )
            start = noise_about([0.5] * 3, photo[0].shape[:2], _NOISE, seed + place)[None]
            way = machine.run if jitter else machine.lbfgs
            best, error = np.inf, np.inf
            for step in easel.follow(way(steps, seed=seed + place, start=start)):
                errors.append(-float(step.terms[term.terms[0][1].label][0]))
                loss = -float(step.value[0])
                if jitter or loss <= best:
                    best, error = loss, errors[-1]
            finish()
            easel.done = steps * (place + 1)  # L-BFGS may have ended earlier
    return result()
