"""Several attribution methods on several pictures, side by side."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxviz.attribution.cam import cam
from onnxviz.attribution.methods import METHODS, Method, chosen, each_once
from onnxviz.attribution.result import Attribution, Attributions, sheet
from onnxviz.attribution.saliency import saliency
from onnxviz.attribution.targets import Channel, Neuron, Targets, parse
from onnxviz.errors import UsageError
from onnxviz.features.pictures import given
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Interrupted, Shown, told
from onnxviz.provenance import recorded


@recorded
def attributions(
    net: Network,
    images: Images,
    methods: Sequence[str] | str | None = None,
    *,
    target: Targets = None,
    objective: Objective | str | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    percentile: float | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
    **options: Any,
) -> Attributions:
    """What several methods say about the same scores of the same pictures, for a side-by-side sheet.

    images      one picture or several, of one size as the network sees them
    methods     names of gradient methods (`onnxviz.saliency`) and class activation maps (`onnxviz.cam`);
                None or 'all': all
    target      class index or label, or one for each picture; None: each picture's top class
    objective, output, layer, channel, neuron   instead of a class, as in `onnxviz.saliency`
    options     of single methods (samples, steps, baseline; layers, signed, align...); each goes to those that take it
    returns     Attributions, values (N, M, H, W) float32
    raises      UsageError and what the methods raise; Interrupted on Ctrl-C, with the methods that were done
    """
    progress = told(progress)
    listed = [methods] if isinstance(methods, str) else list(METHODS if methods is None else methods)
    listed = list(METHODS) if listed == ["all"] else listed
    wanted = [chosen(name, METHODS) for name in listed]
    each_once("method", listed)
    for key in options:
        if not any(key in _own(row) for row in wanted):
            raise UsageError(f"none of the methods {', '.join(row.name for row in wanted)} takes {key!r}")
    net = net.at(output)
    explained = None
    # What is made from a layer alone explains nothing: it needs no classes.
    if (
        any(row.takes != {"activations"} for row in wanted)
        or not target is objective is layer is neuron is None
    ):
        explained = parse(net, target, objective=objective, layer=layer, channel=channel, neuron=neuron)
    taken = given(net, images)
    files = list(images) if isinstance(images, (list, tuple)) else [images] * len(taken.pictures)
    names = [Path(one).stem if isinstance(one, (str, os.PathLike)) else "" for one in files]
    if explained is not None:
        explained = explained.settle(net, taken.x)  # once
    shared: dict[str, Any] = {"seed": seed, "batch": batch, "progress": progress}
    if percentile is not None:
        shared["percentile"] = percentile
    columns: list[list[Attribution]] = []

    def result(**how: Any) -> Attributions:
        return sheet(net, [list(row) for row in zip(*columns, strict=True)], names, **how)

    for number, row in enumerate(wanted, start=1):
        technique: Callable[..., Any] = cam if row.layered else saliency
        own = {key: value for key, value in options.items() if key in _own(row)}
        own |= {key: value for key, value in shared.items() if key in _parameters(technique)}
        try:
            columns.append(technique(net, taken.x, method=row.name, target=explained, **own))
        except KeyboardInterrupt as stop:
            if not columns:
                raise
            raise Interrupted(result(incomplete=True)) from stop
        progress(number, len(wanted), "methods")
    return result()


def _parameters(technique: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(technique).parameters)


def _own(row: Method) -> set[str]:
    """The options that a method has and others have not."""
    return _parameters(cam) - _parameters(saliency) if row.layered else set(row.options)
