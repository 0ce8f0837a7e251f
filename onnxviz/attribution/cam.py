"""Class activation maps: which places of a deep layer speak for a class, shown over the picture.

What a map needs of the network comes in one run: activations, gradients by the layers, class scores. The backward walk
stops at the layers, so it costs little more than a forward pass. Top classes are found in the same run: `Target.settle`
would take a forward pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz import objectives
from onnxviz.attribution import cam_layers, methods
from onnxviz.attribution.result import Found, attributions, one_pass
from onnxviz.attribution.targets import Measure, Neuron, Target, Targets, parse
from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.features.pictures import also_unequal, given
from onnxviz.graph.layers import Layer
from onnxviz.graph.output import BINARY, SEQUENCE
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, Shown, told
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.occlusion import Swept
    from onnxviz.attribution.result import Attribution


@also_unequal
@recorded
def cam(
    net: Network,
    image: Images,
    *,
    target: Targets = None,
    layers: str | Sequence[str] | None = None,
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
    layers      a layer that has a map; several: the mean of their maps, each divided by its largest magnitude.
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
                receptive field (see `cam_layers.matrices`)
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
    chosen = _layers(net, layers, None if free else asked)
    taken = given(net, image)
    if free or asked is None:  # the layer's energy stands for it
        names = ", ".join(one.name for one in chosen)
        asked = Target(objectives.l2(chosen[0].name), None, (f"first component of {names}",))
    aim, arrays, scores = _see(
        net, taken.x, chosen, asked, gradients="gradients" in row.takes, batch=batch, progress=progress
    )
    shapes = [array.shape[2:] for array in arrays["activations"]]
    size = (taken.pictures[0].shape[0], taken.pictures[0].shape[1])
    places = [cam_layers.matrices(one, shape, size, align) for one, shape in zip(chosen, shapes, strict=True)]
    found, drawn = Found(None, None if free else scores, figures=[{}] * len(taken.x)), row
    if not row.one_pass:
        found = row.run(net, taken.x, arrays["activations"], places, aim, batch=batch, progress=progress)
        count = len(found.raw[0])  # Ctrl-C may have come before the last pictures
        taken = taken._replace(pictures=taken.pictures[:count])
        arrays = {
            "activations": [array[:count] for array in arrays["activations"]],
            "gradients": [weights[:, :, None, None] for weights in found.raw],
        }
        drawn = methods.METHODS["hirescam"]  # channels times their weights
    parameters = {"layers": [one.name for one in chosen], "places": [list(shape) for shape in shapes]}
    parameters |= {"align": align, "batch": batch}
    if "guided_gradient" in row.takes:
        guided = aim.gradients(net, rules="guided")
        array = guided(taken.x, aim.feeds(), batch=batch)[f"{net.input.name}.gradient"]
        arrays = arrays | {"guided_gradient": _planes(array, net.input.layout == "NHWC")}
        parameters["rectifiers"] = guided.rectifiers
    maps = one_pass(net, drawn, arrays, places=places, signed=signed)
    figures = []
    for one, more in zip(maps, found.figures or (), strict=True):
        y, x = np.unravel_index(int(np.argmax(one)), one.shape)
        figures.append({"largest": float(one[y, x]), "largest_at": [int(y), int(x)], **more})
    found = replace(found, parameters={**parameters, "signed": signed}, figures=figures)
    return attributions(net, "cam", row, taken, aim, maps, found, signed=signed, percentile=percentile)


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


def _layers(net: Network, named: str | Sequence[str] | None, asked: Target | None) -> list[Layer]:
    """The layers named, or the default ones for what is explained; None: for whatever comes out."""
    ends: Sequence[str]
    if asked is None:
        ends = [value.name or "" for value in net.model.graph.outputs]
    else:
        ends = asked.objective.layers(net.model, net.input.name)
    if named is None:
        classes = asked is None or (asked.scored and asked.step is None) or _is_classes(net, ends)
        return list(cam_layers.defaults(net.layers, tuple(ends), classes=classes))
    names = [named] if isinstance(named, str) else list(named)
    if not names:
        raise UsageError("no layer was named; give one or more, or None for the default")
    return [cam_layers.named(net, name, ends) for name in dict.fromkeys(names)]


def _is_classes(net: Network, ends: Sequence[str]) -> bool:
    try:
        return set(ends) <= {net.head.logits, net.head.scores}
    except ModelUnsuitable:  # no classifier
        return False


def _see(
    net: Network,
    x: np.ndarray,
    layers: Sequence[Layer],
    asked: Target,
    *,
    gradients: bool,
    batch: int | None,
    progress: Progress,
) -> tuple[Target, dict[str, Any], np.ndarray | None]:
    """Run the network once for the pictures `x`.

    asked       what is explained
    gradients   whether gradients by the layers are wanted too
    returns     what is explained in each picture; 'activations' of each layer, (N, C, H, W) float32, and 'gradients' by
                each, where they were asked for; the objective, (N,), None where it was not computed
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
    endings = {"activations": "", **({"gradients": ".gradient"} if gradients else {})}
    found = {
        name: [_planes(arrays[f"{layer.name}{ending}"], layer.channels_last) for layer in layers]
        for name, ending in endings.items()
    }
    return aim, found, arrays.get("objective")


def _planes(array: np.ndarray, channels_last: bool) -> np.ndarray:
    """(N, C, H, W) float32."""
    return (np.moveaxis(array, 3, 1) if channels_last else array).astype(np.float32, copy=False)


# --- Score-CAM: channels weighted by the score of the picture when only what they mark shows ------------

_AT_ONCE = 64  # channels whose maps are upsampled together


def score_cam(
    net: Network,
    x: np.ndarray,
    activations: Sequence[np.ndarray],
    upsampling: Sequence[tuple[np.ndarray, np.ndarray]],
    aim: Target,
    *,
    batch: int | None,
    progress: Progress,
) -> Found:
    """Channels weighted by the score when only they show: one forward pass a channel, no gradient.

    Wang et al. 2020, arXiv:1910.01279, algorithm 1: each channel's map, upsampled and scaled to 0...1, is multiplied
    with the picture (in the network's input, where 0 is mostly the mean colour); the scores, before softmax over the
    classes, go through a softmax over the channels. The score of the empty picture, which the paper takes off all of
    them, changes nothing in that softmax and is not run. Masks are made inside the graph from the layer's own maps.

    x             the network's input tensor, N pictures
    activations   of each layer, (N, C, h, w) float32
    upsampling    for each layer the matrices of `cam_layers.matrices`
    aim           what is scored
    returns       raw: of each layer's channels, (n, C) float32, summing to 1; 0 for channels that mark nothing. n is
                  less than N where Ctrl-C ended it
    """
    from onnxviz.attribution.occlusion import sweep
    from onnxviz.graph import occlude

    score = Measure(net, aim, probable=False)

    def weigh(number: int, layer: int) -> tuple[np.ndarray, Swept]:
        """The weights of a layer's channels for one picture, (C,), and what the masked pictures told."""
        values, (rows, columns) = activations[layer][number], upsampling[layer]
        image = x[number : number + 1]
        masks, used = cells(values, rows, columns)
        moving = {occlude.CELLS: np.concatenate([np.ones_like(values[:1]), masks])}
        moving |= aim.feeds(np.full(len(masks) + 1, number))
        how: dict[str, Any] = {"batch": batch, "progress": progress, "what": "channels"}
        swept = sweep(net, occlude.shown, image, {}, moving, score, **how, rows=rows, columns=columns)
        found = swept.scores[1:].astype(np.float64)
        weights = np.zeros(len(values), dtype=np.float32)
        if len(found):
            shares = np.exp(found - found.max())
            weights[np.flatnonzero(used)[: len(found)]] = shares / shares.sum()
        return weights, swept

    told: list[list[tuple[np.ndarray, Swept]]] = []
    incomplete = False
    try:
        for number in range(len(x)):
            told.append([])
            for layer in range(len(activations)):
                told[-1].append(weigh(number, layer))
                if told[-1][-1][1].done < told[-1][-1][1].total:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        incomplete = True
        if len(told[-1]) < len(activations):  # a picture whose every layer has begun is kept
            del told[-1]
        if not told:
            raise
    figures = []
    for one in told:
        total, done = (sum(getattr(swept, part) for _, swept in one) for part in ("total", "done"))
        figures.append({"masks": total} if done == total else {"masks": total, "masks_done": done})
    return Found(
        [np.stack([one[layer][0] for one in told]) for layer in range(len(activations))],
        np.array([one[0][1].scores[0] for one in told], np.float32),
        figures=figures,
        incomplete=incomplete,
    )


def cells(activations: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each channel's map shifted and scaled so that upsampled it runs from 0 to 1.

    activations   (C, h, w)
    returns       (M, h, w) float32 for the M channels that are not the same everywhere, and which these are, (C,) bool
    """
    low, high = (np.empty(len(activations)) for _ in range(2))
    for start in range(0, len(activations), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        whole = rows @ activations[part].astype(np.float64) @ columns.T
        low[part], high[part] = whole.min(axis=(1, 2)), whole.max(axis=(1, 2))
    span = high - low
    used = span > 1e-6 * np.abs(high)
    scaled = (activations[used] - low[used, None, None]) / span[used, None, None]
    return scaled.astype(np.float32), used
