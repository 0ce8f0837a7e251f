"""The pictures of one call: one or a list of them, files or arrays, read once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import numpy as np

from onnxviz.errors import UsageError, ways
from onnxviz.network import Images, Network, as_list
from onnxviz.progress import Interrupted
from onnxviz.results import Results


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


class PerPicture(Protocol[_P, _R]):
    """A technique as a type checker sees it: of one picture a result, of a list of them a list."""

    __name__: str

    @overload
    def __call__(self, net: Network, image: list[Any], *args: _P.args, **options: _P.kwargs) -> list[_R]: ...

    @overload
    def __call__(self, net: Network, image: Any, *args: _P.args, **options: _P.kwargs) -> _R: ...


def for_each(technique: Callable[Concatenate[Network, Any, _P], _R]) -> PerPicture[_P, _R]:
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
        listed = _some(list(images) if several else [images[i : i + 1] for i in range(len(images))])
        target = options.get("target")
        targets = list(target) if isinstance(target, (list, tuple)) else [target] * len(listed)
        if len(targets) != len(listed):
            raise UsageError(f"{len(targets)} targets for {len(listed)} pictures; give one, or one for each")
        results: Results[Any] = Results()
        for image, one in zip(listed, targets, strict=True):
            own: Any = options if target is None else {**options, "target": one}
            try:
                results.append(technique(net, image, *args, **own))
            except Interrupted as stop:
                raise Interrupted(Results([*results, stop.partial])) from stop
        return results

    return cast("PerPicture[_P, _R]", wrapper)


def _some(pictures: Any) -> Any:
    if not len(pictures):
        raise UsageError("no picture was given; expected at least one")
    return pictures


class UnequalSizes(UsageError):
    """Pictures that the network sees at different sizes, which make no batch."""


def also_unequal(
    technique: Callable[Concatenate[Network, Any, _P], _R | list[_R]],
) -> PerPicture[_P, _R]:
    """A technique `(net, image, ...)` of several pictures (by `given`): those of different sizes go one by one."""

    @functools.wraps(technique)
    def wrapper(*args: Any, **options: Any) -> Any:
        try:
            return technique(*args, **options)
        except UnequalSizes:
            call: Any = for_each(technique)
            image = [] if len(args) > 1 else [options.pop("image")]
            return call(*args, *image, **options)

    return cast("PerPicture[_P, _R]", wrapper)


def given(net: Network, images: Images) -> Given:
    """One picture or a list of them, or the network's own input tensor (which counts as a list), read once.

    raises   ImageRejected; UsageError for no picture, and for pictures of different sizes where the network keeps them
    """
    if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f":
        x = net.prepare(images)
        return Given(_some(x), list(net.preprocessing.invert(x)), True)
    several = isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4)
    pictures = net.pictures(_some(as_list(images)))
    if len({picture.shape for picture in pictures}) > 1:
        raise UnequalSizes(
            "the pictures have different sizes and this network keeps each picture's own"
            + ways("give --size WIDTHxHEIGHT", "give one picture at a time")
        )
    x = net.preprocessing.normalise(np.stack(pictures)).astype(np.float32, copy=False)
    return Given(x, pictures, several)


def single(net: Network, image: Any, technique: str) -> tuple[np.ndarray, np.ndarray]:
    """One image as the network's input tensor (1, ...) and as the picture that it sees, (H, W, 3) uint8; of arrays
    (H, W, C), uint8 or float32.

    raises   UsageError for several images; ImageRejected
    """
    tensor = isinstance(image, np.ndarray) and image.ndim == 4 and image.dtype.kind == "f"
    count = len(image) if tensor else len(as_list(image))
    if count != 1:
        raise UsageError(f"{technique} looks at one image at a time, got {count}; call it once for each")
    taken = given(net, image)
    return taken.x, taken.pictures[0]
