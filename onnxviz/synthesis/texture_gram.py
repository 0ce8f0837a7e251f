"""Texture synthesis by the Gram matrices of a network's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxviz.errors import UsageError
from onnxviz.network import ImageLike, Network
from onnxviz.optimise import Fourier, Machine
from onnxviz.optimise.shot import Watch, unwatched
from onnxviz.progress import Progress, silent
from onnxviz.synthesis.feature_maps import fitting, sizes_of
from onnxviz.synthesis.painting import (
    Easel,
    Painting,
    fitted,
    keeping,
    noise_about,
    read_picture,
    resized,
)
from onnxviz.synthesis.style_layers import style_layers
from onnxviz.synthesis.style_terms import Weighted, checked_gram, style_terms

#: How fast the spectrum that L-BFGS moves falls: textures need their fine grain, so slower than natural pictures'.
POWER = 0.5
_STEPS = 300
_LONGEST = 256  # of the source's side: what the deeper layers see at once
_NOISE = 0.05


def gram_texture(
    net: Network,
    image: ImageLike,
    *,
    size: int | tuple[int, int] | None = None,
    layers: Sequence[str] | Mapping[str, float] | None = None,
    gram: str = "centred",
    steps: int = _STEPS,
    source: int | None = _LONGEST,
    seed: int = 0,
    progress: Progress = silent,
    watch: Watch = unwatched,
) -> Painting:
    """A picture of any size with the texture of another, from noise.

    Gatys, Ecker & Bethge 2015, arXiv:1505.07376: the Gram matrices of several layers are made those of the source,
    each as a share of its own size, by L-BFGS. Two deviations make light networks do it: activations are measured
    from the source's means (`objectives.likeness.texture`; gram='uncentred' as in the paper), and what L-BFGS moves is
    the picture's spectrum, so that large forms and colours come as fast as grain.

    image     (H, W, 3) uint8, a path or a PIL image
    size      (height, width) in pixels, or the side of a square; larger than the source if wanted; None: 256
    layers    names, or {name: weight}; None: `style_layers`
    gram      Gram matrices 'centred' on the source's means, or 'uncentred'
    steps     evaluations of value and gradient
    source    the source is made smaller to this longer side first, so that its features are of a size that the
              network sees; None: never
    watch     called at every step
    returns   Painting: values (height, width, 3) float32, 0 to 1
    raises    UnknownLayer, UsageError, ImageRejected (one colour only, too small), ModelUnsuitable, GradientNotFinite;
              Interrupted on Ctrl-C, with the best so far
    """
    checked_gram(gram)
    if steps < 1:
        raise UsageError(f"steps must be at least 1, got {steps}")
    whole = read_picture(net, image)
    most = max(whole.shape) if source is None else source
    texture = resized(whole, fitted(whole.shape, min(most, max(whole.shape)), most)).clip(0, 1)
    wanted = (size, size) if isinstance(size, int) else size or (256, 256)
    chosen = Weighted.of(net, layers, [] if layers else style_layers(net))
    admissible = sizes_of(net, chosen.names)
    texture = fitting(admissible, texture)
    objective = style_terms(net, [(texture, 1.0)], chosen, gram=gram)
    made = admissible.nearest(wanted) or wanted
    machine = Machine(net, objective, size=made, parametrise=Fourier(power=POWER))
    start = noise_about(texture.mean(axis=(0, 1)), made, _NOISE, seed)
    losses: list[float] = []
    terms: dict[str, float] = {}

    def result() -> Painting | None:
        if not losses:
            return None
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
        manifest["figures"] = _figures(losses, terms)
        return Painting(values=resized(machine.pictures()[0], wanted).clip(0, 1), manifest=manifest)

    with keeping(result):
        for step in Easel(steps, progress, watch).follow(machine.lbfgs(steps, seed=seed, start=start)):
            losses.append(-float(step.value[0]))
            if losses[-1] == min(losses):
                terms.update({name: -float(value[0]) for name, value in step.terms.items()})
    found = result()
    assert found is not None
    return found


def _figures(losses: Sequence[float], terms: Mapping[str, float]) -> dict[str, Any]:
    best = min(losses)
    return {
        "steps_done": len(losses),
        "loss_start": losses[0],
        "loss": best,
        "fall": losses[0] / max(best, 1e-30),
        "loss_by_term": dict(terms),
    }
