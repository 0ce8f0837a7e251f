"""Class activation maps: which places of a deep layer speak for a class, shown over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution import cam_layers, cam_score
from onnxviz.attribution.cam_methods import METHODS, grad_cam
from onnxviz.attribution.cam_run import see, see_without_aim
from onnxviz.attribution.cam_upsample import combined, matrices, upsampled
from onnxviz.attribution.result import attributions, sheet
from onnxviz.attribution.targets import Neuron, Target, Targets, parse, renamed
from onnxviz.errors import ModelUnsuitable, UsageError, near
from onnxviz.features.pictures import also_unequal, given
from onnxviz.graph.layers import Layer
from onnxviz.graph.output import SEQUENCE
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, silent
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution
    from onnxviz.gradients import Gradients

__all__ = ["METHODS", "cam"]


@renamed(position="neuron")
@also_unequal
@recorded
def cam(
    net: Network,
    image: Images,
    *,
    target: Targets = None,
    layer: str | Sequence[str] | None = None,
    method: str = "grad-cam",
    objective: Objective | str | None = None,
    output: str | None = None,
    neuron: Neuron = None,
    signed: bool = False,
    align: str = "stretch",
    percentile: float | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> Attribution | list[Attribution]:
    """Where in the picture a layer finds what speaks for a class.

    Selvaraju et al. 2017, arXiv:1610.02391 (Grad-CAM), unless `method` names another; each stands with its paper in
    `onnxviz.attribution.cam_methods`. The layer's map is upsampled bilinearly to what the network sees.

    image       (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these, or the input tensor itself
    target      class index or label, one for all or one for each picture; None: each picture's top class
    layer       a layer that has a map; several: the mean of their maps, each divided by its largest magnitude.
                None: the last one before the places are pooled (`cam_layers.default`), or for a detector's boxes the
                maps of every scale that they are read from
    method      'grad-cam', 'grad-cam++', 'layercam', 'hirescam', 'xgrad-cam', 'eigencam' (of no class), 'score-cam'
                (one forward pass a channel, no gradient), 'guided-grad-cam' (at the picture's own resolution)
    objective   instead of a class: any objective (`onnxviz.objectives`) or its text, for detectors, segmenters,
                embeddings
    output      which of the file's outputs holds the classes; None: the one that looks like it
    neuron      of a sequence: the step that is explained, by its best class or `target`
    signed      keep what speaks against it, as negative values; else they are 0. 'guided-grad-cam' then keeps the sign
                of the guided gradient
    align       'stretch': the map over the whole picture, as other tools do; 'field': each place at the middle of its
                receptive field (`cam_upsample` has the measurement)
    percentile  of the magnitudes, drawn in the deepest colour with all that lies above; changes no values. None: 100,
                or 99 for 'guided-grad-cam', where single pixels stand out
    batch       pictures at once (for 'score-cam': channels at once); None: what memory allows
    returns     Attribution, values (H, W) float32 in units of the objective (of several layers: 0...1); a list of them
                where several pictures were given
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable (no layer with a map; an
                objective that does not depend on the layer), UnsupportedOperator, GradientNotFinite; Interrupted on
                Ctrl-C in 'score-cam', whose partial map is that of the channels so far
    """
    if method not in METHODS:
        raise UsageError(
            f"no method is called {method!r}{near(str(method), METHODS)}; there are {', '.join(METHODS)}"
        )
    if percentile is None:
        percentile = 99.0 if method == "guided-grad-cam" else 100.0
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile is over 0 and at most 100, got {percentile}")
    net = net.at(output)
    free = method == "eigencam"  # of no objective
    asked = None if free and objective is neuron is None else _asked(net, target, objective, neuron)
    layers = _layers(net, layer, None if free else asked)
    taken = given(net, image)
    if free or asked is None:
        seen = see_without_aim(net, taken.x, layers, batch=batch, progress=progress)
    else:
        seen = see(
            net,
            taken.x,
            layers,
            asked,
            gradients=METHODS[method].gradients,
            batch=batch,
            progress=progress,
        )
    size = (taken.pictures[0].shape[0], taken.pictures[0].shape[1])
    places = [
        matrices(one, (array.shape[2], array.shape[3]), size, align)
        for one, array in zip(layers, seen.activations, strict=True)
    ]
    scores, figures, incomplete = seen.scores, None, False
    extra: dict[str, Any] = {}
    if method == "score-cam":
        scored = cam_score.score_cam(
            net, taken.x, seen.activations, places, seen.aim, batch=batch, progress=progress
        )
        scores, figures, incomplete = scored.scores, scored.figures, scored.incomplete
        coarse = scored.maps
        # Ctrl-C may have come before the last pictures.
        taken = taken._replace(pictures=taken.pictures[: len(scores)])
    else:
        formula = METHODS[method].formula or grad_cam
        gradients = seen.gradients or seen.activations  # those that use none are given something
        coarse = [formula(a, g) for a, g in zip(seen.activations, gradients, strict=True)]
    kept = coarse if signed else [np.maximum(one, 0) for one in coarse]
    maps = combined([upsampled(one, *to) for one, to in zip(kept, places, strict=True)])
    if method == "guided-grad-cam":
        guided = seen.aim.gradients(net, rules="guided")
        maps = _guided(net, guided, taken.x, seen.aim, signed, batch) * np.maximum(maps, 0)
        extra = {"rectifiers": guided.rectifiers}
    results = attributions(
        net,
        "cam",
        method,
        taken,
        seen.aim,
        maps,
        signed=signed,
        scores=scores,
        figures=[{**_peak(one), **more} for one, more in zip(maps, figures or [{}] * len(maps), strict=True)],
        incomplete=incomplete,
        percentile=percentile,
        layers=[one.name for one in layers],
        places=[list(array.shape[2:]) for array in seen.activations],
        align=align,
        batch=batch,
        **extra,
    )
    for one in results:
        one.manifest["parameters"]["signed"] = signed
    if incomplete:
        raise Interrupted(results[0] if len(results) == 1 else sheet(net, [[one] for one in results]))
    return results if taken.several else results[0]


def _asked(net: Network, target: Targets, objective: Objective | str | None, neuron: Neuron) -> Target:
    """What is explained; the layer is where the map is taken.

    raises   UsageError where a step is named of what is no sequence, or beside an objective
    """
    if neuron is not None and objective is not None:
        raise UsageError("give --neuron or --objective: they are different things to explain")
    if neuron is not None and net.end.kind != SEQUENCE:
        raise UsageError(
            f"here --neuron is the step of a sequence, and output {net.end.spelled} is none; leave it out, or give "
            "--objective"
        )
    return parse(net, target, objective=objective, neuron=neuron)


def _layers(net: Network, layer: str | Sequence[str] | None, asked: Target | None) -> list[Layer]:
    """The layers named, or the default ones for what is explained; None: for whatever comes out."""
    ends: Sequence[str]
    if asked is None:
        ends = [value.name or "" for value in net.model.graph.outputs]
    else:
        ends = asked.objective.layers(net.model, net.input.name)
    if layer is None:
        classes = asked is None or (asked.scored and asked.step is None) or _is_classes(net, ends)
        return list(cam_layers.defaults(net.layers, tuple(ends), classes=classes))
    names = [layer] if isinstance(layer, str) else list(layer)
    if not names:
        raise UsageError("no layer was named; give one or more, or None for the default")
    return [cam_layers.named(net, name, ends) for name in dict.fromkeys(names)]


def _is_classes(net: Network, ends: Sequence[str]) -> bool:
    try:
        return set(ends) <= {net.head.logits, net.head.scores}
    except ModelUnsuitable:  # no classifier
        return False


def _peak(values: np.ndarray) -> dict[str, Any]:
    """Where the map is largest."""
    y, x = np.unravel_index(int(np.argmax(values)), values.shape)
    return {"largest": float(values[y, x]), "largest_at": [int(y), int(x)]}


def _guided(
    net: Network, gradients: Gradients, x: np.ndarray, aim: Target, signed: bool, batch: int | None
) -> np.ndarray:
    """The guided gradient of each pixel, (N, H, W): the largest magnitude of the colours; signed: their sum."""
    found = gradients(x, aim.feeds(), batch=batch)[f"{net.input.name}.gradient"]
    axis = 1 if net.input.layout == "NCHW" else 3
    flat: np.ndarray = found.sum(axis=axis) if signed else np.abs(found).max(axis=axis)
    return flat
