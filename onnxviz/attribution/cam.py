"""Class activation maps: which places of a deep layer speak for a class, shown over the picture.

What a map needs of the network comes in one run: activations, gradients by the layers, class scores. The backward walk
stops at the layers, so it costs little more than a forward pass. Top classes are found in the same run: `Target.settle`
would take a forward pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxviz import objectives
from onnxviz.attribution import cam_layers, methods, one_pass
from onnxviz.attribution.result import attributions, finished
from onnxviz.attribution.targets import Neuron, Target, Targets, parse
from onnxviz.errors import ModelUnsuitable, UsageError, renamed
from onnxviz.features.pictures import also_unequal, given
from onnxviz.graph.layers import Layer
from onnxviz.graph.output import BINARY, SEQUENCE
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, Shown, told
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution


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
    progress: Shown = "auto",
) -> Attribution | list[Attribution]:
    """Class activation maps, Grad-CAM and its relatives: where a layer finds what speaks for a class.

    Selvaraju et al. 2017, arXiv:1610.02391 (Grad-CAM), unless `method` names another; each stands with its paper in
    `onnxviz.attribution.methods`. The layer's map is upsampled bilinearly to what the network sees.

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
                receptive field (`cam_layers.matrices` has the measurement)
    percentile  of the magnitudes, drawn in the deepest colour with all that lies above; changes no values. None: 100,
                or 99 for 'guided-grad-cam', where single pixels stand out
    batch       pictures at once (for 'score-cam': channels at once); None: what memory allows
    returns     Attribution, values (H, W) float32 in units of the objective (of several layers: 0...1); a list of them
                where several pictures were given
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable (no layer with a map; an
                objective that does not depend on the layer), UnsupportedOperator, GradientNotFinite; Interrupted on
                Ctrl-C in 'score-cam', whose partial map is that of the channels so far
    """
    progress = told(progress)
    row = methods.chosen(method, methods.of("cam"))
    if percentile is None:
        percentile = 99.0 if row.caption.fine else 100.0
    methods.check_percentile(percentile)
    net = net.at(output)
    free = row.takes == {"activations"}  # of no objective
    asked = None if free and objective is neuron is None else _asked(net, target, objective, neuron)
    layers = _layers(net, layer, None if free else asked)
    taken = given(net, image)
    if free or asked is None:  # the layer's energy stands for it
        names = ", ".join(one.name for one in layers)
        asked = Target(objectives.l2(layers[0].name), None, (f"first component of {names}",))
    seen = _see(
        net,
        taken.x,
        layers,
        asked,
        gradients="gradients" in row.takes,
        batch=batch,
        progress=progress,
    )
    shapes = [array.shape[2:] for array in seen.arrays["activations"]]
    size = (taken.pictures[0].shape[0], taken.pictures[0].shape[1])
    places = [cam_layers.matrices(one, shape, size, align) for one, shape in zip(layers, shapes, strict=True)]
    scores, arrays = None if free else seen.scores, seen.arrays
    extra: dict[str, Any] = {}
    figures: list[dict[str, Any]] = [{}] * len(taken.x)
    incomplete, drawn = False, row
    if not row.one_pass:
        scored = row.run(
            net, taken.x, arrays["activations"], places, seen.aim, batch=batch, progress=progress
        )
        scores, figures, incomplete = scored.scores, scored.figures, scored.incomplete
        # Ctrl-C may have come before the last pictures.
        taken = taken._replace(pictures=taken.pictures[: len(scores)])
        arrays = {
            "activations": [array[: len(scores)] for array in arrays["activations"]],
            "gradients": [weights[:, :, None, None] for weights in scored.weights],
        }
        drawn = methods.METHODS["hirescam"]  # channels times their weights
    if "guided_gradient" in row.takes:
        guided = seen.aim.gradients(net, rules="guided")
        found = guided(taken.x, seen.aim.feeds(), batch=batch)[f"{net.input.name}.gradient"]
        arrays = arrays | {"guided_gradient": _planes(found, net.input.layout == "NHWC")}
        extra = {"rectifiers": guided.rectifiers}
    maps = one_pass.run(net, drawn, arrays, places=places, signed=signed)
    results = attributions(
        net,
        "cam",
        row.name,
        taken,
        seen.aim,
        maps,
        caption=row.caption,
        signed=signed,
        scores=scores,
        figures=[{**_peak(one), **more} for one, more in zip(maps, figures, strict=True)],
        incomplete=incomplete,
        percentile=percentile,
        layers=[one.name for one in layers],
        places=[list(shape) for shape in shapes],
        align=align,
        batch=batch,
        **extra,
    )
    for one in results:
        one.manifest["parameters"]["signed"] = signed
    return finished(net, results, incomplete=incomplete, several=taken.several)


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


class _Seen(NamedTuple):
    """One run on N pictures.

    aim      what is explained
    arrays   'activations' of each layer, (N, C, H, W) float32, and 'gradients' by each, where they were asked for
    scores   the objective on each picture, (N,); None where it was not computed
    """

    aim: Target
    arrays: dict[str, Any]
    scores: np.ndarray | None


def _see(
    net: Network,
    x: np.ndarray,
    layers: Sequence[Layer],
    asked: Target,
    *,
    gradients: bool,
    batch: int | None,
    progress: Progress,
) -> _Seen:
    """Run the network once for the pictures `x`.

    asked       what is explained
    gradients   whether gradients by the layers are wanted too
    raises      UsageError, ModelUnsuitable (an objective that does not depend on a layer), UnsupportedOperator,
                GradientNotFinite
    """
    names = [layer.name for layer in layers]
    if len(x) == 1 and batch is None:
        batch = 1  # what memory allows takes a while to tell
    aim = asked.each(len(x))
    known = [one is not None for one in aim.classes]
    told = aim.scored and aim.step is None and aim.probabilities is None and all(known) == any(known)
    if not told:
        aim = aim.settle(net, x)
    also = [net.head.logits, net.head.scores] if told else []
    wanted = list(dict.fromkeys([*names, *also]))
    if gradients:
        run = aim.gradients(net, names, also=wanted)
        arrays = run(x, aim.feeds(), batch=batch, progress=progress)
    else:
        arrays = net.run(x, wanted, batch=batch, progress=progress)
    if told:
        logits, scores = (arrays[name].reshape(len(x), -1) for name in also)
        if net.head.kind == BINARY:
            logits = np.concatenate([-logits, logits], axis=1)
        aim = aim.told(net, net.to_probabilities(scores), logits)
    found = {
        name: [_planes(arrays[f"{layer.name}{ending}"], layer.channels_last) for layer in layers]
        for name, ending in (("activations", ""), *([("gradients", ".gradient")] if gradients else []))
    }
    return _Seen(aim, found, arrays.get("objective"))


def _planes(array: np.ndarray, channels_last: bool) -> np.ndarray:
    """(N, C, H, W) float32."""
    return (np.moveaxis(array, 3, 1) if channels_last else array).astype(np.float32, copy=False)
