"""Gradient attributions: which pixels move the score, by one of several methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution import saliency_full as full
from onnxviz.attribution import saliency_noise as noisy
from onnxviz.attribution import saliency_paths as paths
from onnxviz.attribution import saliency_plain as plain
from onnxviz.attribution.result import attributions, sheet
from onnxviz.attribution.saliency_job import Found, Job
from onnxviz.attribution.targets import Channel, Neuron, Targets, parse, renamed
from onnxviz.errors import UsageError, near
from onnxviz.features.pictures import also_unequal, given
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, silent
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution


@dataclass(frozen=True)
class Method:
    """A method, and how its numbers for each colour become one map.

    run       what computes it; its keyword arguments are the method's options
    colours   'largest': the largest magnitude over the colours; 'sum': shares of the score, which add up
    """

    run: Callable[..., Found]
    colours: str

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The method's own options with their defaults."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    @property
    def signed(self) -> bool:
        """Whether negative values mean something."""
        return self.colours == "sum"


METHODS: dict[str, Method] = {
    "saliency": Method(plain.gradient, "largest"),
    "gradient": Method(plain.gradient, "sum"),
    "input-x-gradient": Method(plain.input_x_gradient, "sum"),
    "guided": Method(plain.guided, "largest"),
    "deconvnet": Method(plain.deconvnet, "largest"),
    "smoothgrad": Method(noisy.smoothgrad, "largest"),
    "smoothgrad-squared": Method(noisy.smoothgrad_squared, "largest"),
    "vargrad": Method(noisy.vargrad, "largest"),
    "integrated-gradients": Method(paths.integrated_gradients, "sum"),
    "expected-gradients": Method(paths.expected_gradients, "sum"),
    "full-gradient": Method(full.full_gradient, "largest"),
}


@renamed(position="neuron")
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
    progress: Progress = silent,
) -> Attribution | list[Attribution]:
    """How strongly each pixel moves one score.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034, unless `method` says another; each method's paper is in its
    own description (`onnxviz.attribution.saliency.METHODS`). Gradients are by the network's input tensor, that is by
    pixels after scaling.

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
    samples, noise   of smoothgrad and its like (25, 0.15); samples of expected-gradients (100)
    steps, baseline  of integrated-gradients (50, 'black')
    baselines   of expected-gradients: a folder or pictures
    percentile  of the magnitudes, drawn in the deepest colour with all that lies above; changes no values
    batch       gradients at once; None: what memory allows
    returns     Attribution, values (H, W) float32; a list of them where several pictures were given. Signed methods
                sum over the colours; the others take the largest magnitude
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable (the score does not depend on the
                picture), UnsupportedOperator, GradientNotFinite; Interrupted on Ctrl-C in methods of many samples,
                whose partial result is a map of the samples so far
    """
    chosen = _method(method)
    options = _options(
        method,
        {"samples": samples, "noise": noise, "steps": steps, "baseline": baseline, "baselines": baselines},
    )
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile is over 0 and at most 100, got {percentile}")
    net = net.at(output)
    asked = parse(net, target, objective=objective, layer=layer, channel=channel, neuron=neuron)
    taken = given(net, image)
    aim = asked.settle(net, taken.x)
    job = Job(net, taken.x, taken.pictures, aim, seed=seed, batch=batch, progress=progress)
    found = chosen.run(job, **options)
    results = attributions(
        net,
        "saliency",
        method,
        taken,
        aim,
        _flat(found.raw, net.input.layout, chosen.colours),
        signed=chosen.signed,
        scores=found.scores,
        figures=found.figures,
        warnings=found.warnings,
        incomplete=found.incomplete,
        percentile=percentile,
        **found.parameters,
    )
    if found.incomplete:
        raise Interrupted(results[0] if len(results) == 1 else sheet(net, [[one] for one in results]))
    return results if taken.several else results[0]


def _method(name: str) -> Method:
    if name not in METHODS:
        raise UsageError(f"no method is called {name!r}{near(name, METHODS)}; there are {', '.join(METHODS)}")
    return METHODS[name]


def _options(name: str, given_: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, all of which the method must take."""
    options = {key: value for key, value in given_.items() if value is not None}
    for key in options:
        if key not in METHODS[name].options:
            takers = [other for other, method in METHODS.items() if key in method.options]
            raise UsageError(
                f"method {name!r} takes no {key}; {', '.join(takers)} do" + "es" * (len(takers) == 1)
            )
    return options


def _flat(raw: np.ndarray, layout: str, colours: str) -> np.ndarray:
    """(N, H, W) of values for each colour, or of maps that have none."""
    if raw.ndim == 3:
        return raw
    axis = 1 if layout == "NCHW" else 3
    flat: np.ndarray = np.abs(raw).max(axis=axis) if colours == "largest" else raw.sum(axis=axis)
    return flat
