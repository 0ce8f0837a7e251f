"""Several attribution methods on several pictures, side by side.

The one registry of methods: those of `attribution.saliency` and of `attribution.cam`, by name. Adding a method there
adds it here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxviz.attribution import cam, saliency
from onnxviz.attribution.result import Attribution, Attributions, sheet
from onnxviz.attribution.targets import Channel, Neuron, Targets, parse, renamed
from onnxviz.errors import UsageError, near
from onnxviz.features.pictures import given
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, silent
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    pass


def registry() -> dict[str, Callable[..., Any]]:
    """Every method's name, with the technique that computes it (given as its `method=`)."""
    return dict.fromkeys(saliency.METHODS, saliency.saliency) | dict.fromkeys(cam.METHODS, cam.cam)


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
    progress: Progress = silent,
    **options: Any,
) -> Attributions:
    """What several methods say about the same scores of the same pictures, for a side-by-side sheet.

    images      one picture or several, of one size as the network sees them
    methods     names of gradient methods (`onnxviz.saliency`) and class activation maps (`onnxviz.cam`); None: all
    target      class index or label, or one for each picture; None: each picture's top class
    objective, output, layer, channel, neuron   instead of a class, as in `onnxviz.saliency`
    options     of single methods (samples, steps, baseline...); each goes to the methods that take it
    returns     Attributions, values (N, M, H, W) float32
    raises      UsageError and what the methods raise; Interrupted on Ctrl-C, with the methods that were done
    """
    table = registry()
    wanted = list(table) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    _check(wanted, table, options)
    net = net.at(output)
    asked = parse(net, target, objective=objective, layer=layer, channel=channel, neuron=neuron)
    taken = given(net, images)
    names = _names(images, len(taken.pictures))
    explained = asked.settle(
        net, taken.x
    )  # told once: to class activation maps `layer` is where the map is taken
    shared: dict[str, Any] = {"seed": seed, "batch": batch, "progress": progress}
    if percentile is not None:
        shared["percentile"] = percentile
    columns: list[list[Attribution]] = []
    for number, name in enumerate(wanted):
        own = {key: value for key, value in options.items() if key in _options(name, table)}
        own |= {
            key: value for key, value in shared.items() if key in inspect.signature(table[name]).parameters
        }
        try:
            found = table[name](net, taken.x, method=name, target=explained, **own)
        except KeyboardInterrupt as stop:
            if not columns:
                raise
            raise Interrupted(sheet(net, _turned(columns), names, incomplete=True)) from stop
        columns.append(found)
        progress(number + 1, len(wanted), "methods")
    return sheet(net, _turned(columns), names)


def _check(wanted: Sequence[str], table: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """UsageError for no method, an unknown one, one twice, or an option that none of them takes."""
    if not wanted:
        raise UsageError("no method was given; expected at least one")
    for name in wanted:
        if name not in table:
            raise UsageError(
                f"no method is called {name!r}{near(str(name), table)}; there are {', '.join(table)}"
            )
    if len(set(wanted)) < len(wanted):
        raise UsageError("a method was given twice; each has one column")
    for key in options:
        if not any(key in _options(name, table) for name in wanted):
            raise UsageError(f"none of the methods {', '.join(wanted)} takes {key!r}")


def _options(name: str, table: Mapping[str, Callable[..., Any]]) -> frozenset[str]:
    """The options of one method."""
    if name in saliency.METHODS:
        return frozenset(saliency.METHODS[name].options)
    shared = inspect.signature(saliency.saliency).parameters
    return frozenset(p for p in inspect.signature(table[name]).parameters if p not in shared)


def _turned(columns: list[list[Attribution]]) -> list[list[Attribution]]:
    return [list(row) for row in zip(*columns, strict=True)]


def _names(images: Any, count: int) -> list[str]:
    """File names without folder and suffix, where pictures are files."""
    from pathlib import Path

    listed = list(images) if isinstance(images, (list, tuple)) else [images] * count
    return [Path(one).stem if isinstance(one, (str, os.PathLike)) else "" for one in listed]
