"""Gradient attributions: which pixels move the score, by one of several methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution import methods
from onnxviz.attribution.methods import Method
from onnxviz.attribution.result import Found, attributions, joined, one_pass
from onnxviz.attribution.sampled import Job
from onnxviz.attribution.targets import Channel, Neuron, Targets, parse
from onnxviz.errors import UsageError
from onnxviz.features.pictures import also_unequal, given
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution


@also_unequal
@recorded
def saliency(
    net: Network,
    image: Images,
    *,
    target: Targets = None,
    method: str = "saliency",
    objective: Objective | str | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    samples: int | None = None,
    noise: float | None = None,
    steps: int | None = None,
    baseline: Any = None,
    baselines: Any = None,
    percentile: float = 99.0,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Attribution | list[Attribution]:
    """How strongly each pixel moves a score: the gradient, and what averages, integrates or filters it.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, unless `method` says another; each method's paper is in its
    own description (`onnxviz.attribution.methods`). Gradients are by the network's input tensor, that is by pixels
    after scaling.

    image       (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these, or the input tensor itself
    target      class index or label, one for all or one for each picture; None: each picture's top class
    method      'saliency' (largest |gradient| of the colours), 'gradient' (signed), 'input-x-gradient', 'guided',
                'deconvnet', 'smoothgrad', 'smoothgrad-squared', 'vargrad', 'integrated-gradients',
                'expected-gradients', 'full-gradient'
    objective   instead of a class: any objective (`onnxviz.objectives`) or its text, for detectors, segmenters,
                embeddings
    output      which of the file's outputs holds the classes; None: the one that looks like it
    layer, channel, neuron   instead of a class: a channel's mean activation, or one neuron (y, x) or 'middle'; `neuron`
                alone: the step of a sequence
    samples     of smoothgrad and its like, and of expected-gradients; None: 25, or 100
    noise       of smoothgrad and its like: a part of the input's range; None: 0.15
    steps       of integrated-gradients; None: 50
    baseline    of integrated-gradients: 'black', 'grey', 'mean', 'blur', 'noise', 'zero', or a picture; None: black
    baselines   of expected-gradients: a folder or pictures; None: noise
    percentile  of the magnitudes, drawn in the deepest colour with all that lies above; changes no values
    batch       gradients at once; None: what memory allows
    returns     Attribution, values (H, W) float32; a list of them where several pictures were given. Signed methods
                sum over the colours; the others take the largest magnitude
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable (the score does not depend on the
                picture), UnsupportedOperator, GradientNotFinite; Interrupted on Ctrl-C in methods of many samples,
                whose partial result is a map of the samples so far
    """
    progress = told(progress)
    row = methods.chosen(method, methods.of("saliency"))
    own = {"samples": samples, "noise": noise, "steps": steps, "baseline": baseline, "baselines": baselines}
    options = {key: value for key, value in own.items() if value is not None}
    for key in options:
        if key not in row.options:
            takers = [name for name, other in methods.of("saliency").items() if key in other.options]
            raise UsageError(
                f"method {row.name!r} takes no {key}; {', '.join(takers)} do" + "es" * (len(takers) == 1)
            )
    methods.check_percentile(percentile)
    net = net.at(output)
    asked = parse(net, target, objective=objective, layer=layer, channel=channel, neuron=neuron)
    taken = given(net, image)
    aim = asked.settle(net, taken.x)
    job = Job(net, taken.x, taken.pictures, aim, seed=seed, batch=batch, progress=progress)
    found = _one_pass(job, row) if row.one_pass else row.run(job, **options)
    maps = found.raw
    if maps.ndim == 4:
        maps = joined(net, job.planes(maps), row.colours)
    return attributions(
        net, "saliency", row, taken, aim, maps, found, signed=row.signed, percentile=percentile
    )


def _one_pass(job: Job, row: Method) -> Found:
    """A method that is a function of the input and gradients by it."""
    arrays, scores, parameters = {}, None, {}
    for name in row.takes:
        if name == "input":
            arrays[name] = job.planes(job.x)
            continue
        rules = name.removesuffix("gradient").rstrip("_") or "plain"
        scores, found = job.gradient(rules)
        arrays[name] = job.planes(found)
        if rules != "plain":
            parameters["rectifiers"] = job.gradients(rules).rectifiers
    if scores is None:
        scores = job.objective(job.x, np.arange(len(job.x)))
    return Found(one_pass(job.net, row, arrays), scores, parameters)
