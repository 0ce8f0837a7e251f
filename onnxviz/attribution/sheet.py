"""Several attribution methods on several pictures, side by side."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxviz.attribution.cam import cam
from onnxviz.attribution.methods import METHODS, Method, chosen, of
from onnxviz.attribution.result import Attribution, Attributions, sheet
from onnxviz.attribution.saliency import saliency
from onnxviz.attribution.targets import Channel, Neuron, Targets, parse
from onnxviz.errors import UsageError, renamed
from onnxviz.features.pictures import given
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Interrupted, Progress, Shown, told
from onnxviz.provenance import recorded


@renamed(position="neuron")
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
    options     of single methods (samples, steps, baseline...); each goes to the methods that take it
    returns     Attributions, values (N, M, H, W) float32
    raises      UsageError and what the methods raise; Interrupted on Ctrl-C, with the methods that were done
    """
    progress = told(progress)
    if methods is None or methods == "all":
        methods = list(METHODS)
    wanted = _wanted([methods] if isinstance(methods, str) else methods)
    for key in options:
        if not any(key in _own(row) for row in wanted):
            raise UsageError(f"none of the methods {', '.join(row.name for row in wanted)} takes {key!r}")
    net = net.at(output)
    asked = parse(net, target, objective=objective, layer=layer, channel=channel, neuron=neuron)
    taken = given(net, images)
    names = _names(images, len(taken.pictures))
    explained = asked.settle(net, taken.x)  # once: to class activation maps `layer` is where the map is taken
    shared: dict[str, Any] = {"seed": seed, "batch": batch, "progress": progress}
    if percentile is not None:
        shared["percentile"] = percentile

    def column(row: Method) -> list[Attribution]:
        technique = _technique(row)
        own = {key: value for key, value in options.items() if key in _own(row)}
        own |= {key: value for key, value in shared.items() if key in _parameters(technique)}
        found: list[Attribution] = technique(net, taken.x, method=row.name, target=explained, **own)
        return found

    return _sheet(net, wanted, column, names, progress)


@recorded
def cams(
    net: Network,
    images: Images,
    methods: Sequence[str],
    *,
    names: Sequence[str] = (),
    progress: Shown = "auto",
    **options: Any,
) -> Attributions:
    """Class activation maps of a layer: each method on each picture, in one sheet.

    images    a list of pictures, of one size as the network sees them
    methods   as for `cam`, each once
    names     what the pictures are called
    options   as for `cam`
    returns   Attributions, values (N, M, H, W) float32
    raises    UsageError and what `cam` raises; Interrupted on Ctrl-C, with the methods that were done
    """
    progress = told(progress)
    wanted = _wanted(methods, of("cam"))
    taken = given(net, images)  # of one size: a sheet's maps are one array

    def column(row: Method) -> list[Attribution]:
        found: list[Attribution] = _technique(row)(
            net, taken.x, method=row.name, progress=progress, **options
        )
        return found

    return _sheet(net, wanted, column, names, progress)


def _wanted(
    names: Sequence[str] | Mapping[str, Method], among: Mapping[str, Method] = METHODS
) -> list[Method]:
    """The methods of these names, of those there are.

    raises   UsageError for none, an unknown one, and one that is named twice
    """
    wanted = [chosen(name, among) for name in names]
    if not wanted or len(set(names)) < len(wanted):
        raise UsageError(f"expected at least one method, each once; got {', '.join(names) or 'none'}")
    return wanted


def _technique(row: Method) -> Callable[..., Any]:
    return cam if row.layered else saliency


def _parameters(technique: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(technique).parameters


def _own(row: Method) -> set[str]:
    """The options that a method has and others have not."""
    return set(_parameters(cam)) - set(_parameters(saliency)) if row.layered else set(row.options)


def _sheet(
    net: Network,
    wanted: Sequence[Method],
    column: Callable[[Method], list[Attribution]],
    names: Sequence[str],
    progress: Progress,
) -> Attributions:
    """The methods one after another.

    column   a method's maps of all pictures
    raises   Interrupted on Ctrl-C, with the methods that were done
    """
    columns: list[list[Attribution]] = []
    for number, row in enumerate(wanted, start=1):
        try:
            columns.append(column(row))
        except KeyboardInterrupt as stop:
            if not columns:
                raise
            raise Interrupted(sheet(net, _turned(columns), names, incomplete=True)) from stop
        progress(number, len(wanted), "methods")
    return sheet(net, _turned(columns), names)


def _turned(columns: list[list[Attribution]]) -> list[list[Attribution]]:
    return [list(row) for row in zip(*columns, strict=True)]


def _names(images: Any, count: int) -> list[str]:
    """File names without folder and suffix, where pictures are files."""
    listed = list(images) if isinstance(images, (list, tuple)) else [images] * count
    return [Path(one).stem if isinstance(one, (str, os.PathLike)) else "" for one in listed]
