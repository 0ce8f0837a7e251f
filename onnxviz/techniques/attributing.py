"""What the gradient and class activation methods share: pictures in, attributions out, and maps that say nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from onnxviz.errors import UsageError, ways
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network, as_list
from onnxviz.results import Attribution
from onnxviz.techniques.aim import Aim


class Given(NamedTuple):
    """The pictures of one call.

    x          the network's input tensor, one entry a picture, float32
    pictures   each as the network sees it, (H, W, 3) uint8; of arrays (H, W, C), uint8 or float32
    several    whether a list was given: then a list comes back
    """

    x: np.ndarray
    pictures: list[np.ndarray]
    several: bool


_P = ParamSpec("_P")
_R = TypeVar("_R")


def for_each(
    technique: Callable[Concatenate[Network, Any, _P], Any],
) -> Callable[Concatenate[Network, Any, _P], Any]:
    """A technique of one picture that takes a list of them too and then gives a list, each as if it had come alone.

    `target` may be one for all or a list with one for each. Ctrl-C: `Interrupted` with the list so far.
    """

    name = list(inspect.signature(technique).parameters)[1]

    @functools.wraps(technique)
    def wrapper(net: Network, *args: Any, **options: Any) -> Any:
        if not args and name not in options:
            return technique(net, *args, **options)  # Python says what is missing
        images, args = (args[0], args[1:]) if args else (options.pop(name), ())
        several = isinstance(images, (list, tuple))
        if not several and not (isinstance(images, np.ndarray) and images.ndim == 4 and len(images) != 1):
            return technique(net, images, *args, **options)
        listed = list(images) if several else [images[i : i + 1] for i in range(len(images))]
        if not listed:
            raise UsageError("no picture was given; expected at least one")
        target = options.get("target")
        targets = list(target) if isinstance(target, (list, tuple)) else [target] * len(listed)
        if len(targets) != len(listed):
            raise UsageError(f"{len(targets)} targets for {len(listed)} pictures; give one, or one for each")
        results: list[Any] = []
        for image, one in zip(listed, targets, strict=True):
            own: Any = options if target is None else {**options, "target": one}
            try:
                results.append(technique(net, image, *args, **own))
            except Interrupted as stop:
                raise Interrupted([*results, stop.partial]) from stop
        return results

    return wrapper


class UnequalSizes(UsageError):
    """Pictures that the network sees at different sizes, which make no batch."""


def also_unequal(technique: Callable[_P, _R]) -> Callable[_P, _R]:
    """A technique `(net, image, ...)` of several pictures (by `given`): those of different sizes go one by one."""

    @functools.wraps(technique)
    def wrapper(*args: _P.args, **options: _P.kwargs) -> _R:
        try:
            return technique(*args, **options)
        except UnequalSizes:
            call: Any = for_each(technique)  # type: ignore[arg-type]
            image = [] if len(args) > 1 else [options.pop("image")]
            return call(*args, *image, **options)

    return wrapper


def given(net: Network, images: Images) -> Given:
    """One picture or a list of them, or the network's own input tensor (which counts as a list), read once.

    raises   ImageRejected; UsageError for no picture, and for pictures of different sizes where the network keeps them
    """
    if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f":
        x = net.prepare(images)
        if not len(x):
            raise UsageError("no picture was given; expected at least one")
        return Given(x, list(net.preprocessing.invert(x)), True)
    several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    wanted = as_list(images)
    if not wanted:
        raise UsageError("no picture was given; expected at least one")
    pictures = net.pictures(wanted)
    if len({picture.shape for picture in pictures}) > 1:
        raise UnequalSizes(
            "the pictures have different sizes and this network keeps each picture's own"
            + ways("give --size WIDTHxHEIGHT", "give one picture at a time")
        )
    x = net.preprocessing.normalise(np.stack(pictures)).astype(np.float32, copy=False)
    return Given(x, pictures, several)


def attributions(
    net: Network,
    technique: str,
    method: str,
    taken: Given,
    aim: Aim,
    maps: np.ndarray,
    *,
    signed: bool,
    scores: np.ndarray | None = None,
    figures: Sequence[Mapping[str, Any]] | None = None,
    warnings: Sequence[Sequence[str]] | None = None,
    incomplete: bool = False,
    percentile: float = 99.0,
    **parameters: Any,
) -> list[Attribution]:
    """One attribution a picture, each with its manifest; a map that is zero everywhere is said in its warnings.

    maps         (N, H, W)
    signed       whether negative values mean something
    scores       (N,): the objective on each picture; a class's probability is used before it
    figures      what was measured, for each picture
    warnings     what looks odd, for each picture
    parameters   for the manifest
    """
    results = []
    for number, (values, picture) in enumerate(zip(maps, taken.pictures, strict=True)):
        score = None if scores is None else float(scores[number])
        if aim.probabilities is not None:
            shown: float | None = float(aim.probabilities[number])
        else:
            shown = score
        manifest = net.manifest(
            technique,
            method=method,
            target=aim.targets[number],
            label=aim.labels[number],
            objective=str(aim.objective),
            percentile=percentile,
            **parameters,
        )
        manifest["figures"] = {"score": shown, "objective": score, **(figures[number] if figures else {})}
        manifest["warnings"] += list(warnings[number]) if warnings else []
        if not np.any(values):
            manifest["warnings"].append(
                f"the {method} map is zero everywhere: nothing of the picture moves {aim.labels[number]!r} here "
                "(units that are off, or a saturated output); another target, layer or method may tell more"
            )
        if incomplete:
            manifest["incomplete"] = True
        results.append(
            Attribution(
                values=np.ascontiguousarray(values, dtype=np.float32),
                manifest=manifest,
                image=net.preprocessing.shown(picture),
                target=aim.targets[number],
                label=aim.labels[number],
                method=method,
                score=shown,
                signed=signed,
                percentile=percentile,
                view=None if picture.shape[2] == 3 and net.preprocessing.pictorial else picture,
            )
        )
    return results
