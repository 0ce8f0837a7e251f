"""DeepDream: a photo in which the network sees more and more of what it sees."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import UsageError
from onnxviz.network import ImageLike, Network
from onnxviz.objectives import layer as whole_layer
from onnxviz.objectives.likeness import excitement, resemblance
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.synthesis.layers import Layers, Weighted, dream_layer, feature_maps, fitting, sizes_of, smallest
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.made import (
    Easel,
    Painting,
    Watch,
    as_bytes,
    fitted,
    keeping,
    read_picture,
    resized,
    rounded,
    unwatched,
)
from onnxviz.synthesis.transforms import Jitter
from onnxviz.synthesis.updates import Ascent

if TYPE_CHECKING:
    from onnxviz.objectives import Objective

_LONGEST = 512  # of what is made, where no size is asked for
_GUIDE = 224  # the longer side that a guiding picture is brought to


@dataclass
class Dream(Painting):
    """A dreamed picture.

    values   (H, W, 3) float32, 0 to 1; of a zoom, the last frame
    frames   of a zoom, (H, W, 3) uint8 each, from the picture on; otherwise empty
    """

    frames: list[np.ndarray] = field(default_factory=list, repr=False)


@recorded
def dream(
    net: Network,
    image: ImageLike,
    layers: Layers = None,
    *,
    channels: Sequence[int] | None = None,
    guide: ImageLike | None = None,
    size: int | tuple[int, int] | None = None,
    octaves: int = 4,
    scale: float = 1.4,
    steps: int = 10,
    rate: float = 1.5,
    jitter: int = 32,
    zoom: int = 0,
    zoom_by: float = 1.05,
    seed: int = 0,
    progress: Shown = "auto",
    watch: Watch = unwatched,
) -> Dream:
    """DeepDream: change a photo so that a layer answers more, at several sizes from small to large.

    Mordvintsev, Olah & Tyka 2015, "Inceptionism: going deeper into neural networks". Each size (octave) takes up what
    was changed at the one before; a step goes along the gradient of ½‖activation‖², which is the activation itself
    sent back, divided by the mean of its magnitudes.

    image      (H, W, 3) uint8, a path or a PIL image; any size that the layer has places for
    layers     a layer's name, several, or {name: weight}; None: one of the middle (`style_layers.dream_layer`)
    channels   only these channels of the layers; None: all
    guide      a second picture: instead of what the layer sees already, the best match of the guide's features
    size       the longer side of the result in pixels, or (height, width); None: the image's own, up to 512
    octaves    how many sizes, each `scale` times the one before; those too small for the layer are left out, and each
               is rounded to what the network can take
    scale      from octave to octave
    steps      of each octave
    rate       how far a step moves a pixel on average, in levels of 256
    jitter     by up to so many pixels the picture is rolled before each step
    zoom_by    the enlargement from frame to frame
    zoom       so many frames of a way into the picture: each is the last one enlarged by `zoom_by` and dreamed on
    watch      called at every step
    returns    Dream: values (h, w, 3) float32, 0 to 1; figures: the objective of each octave before and after
    raises     UnknownLayer, UsageError, ImageRejected, ModelUnsuitable; GradientNotFinite and, on Ctrl-C, Interrupted,
               both with what was done so far
    """
    progress = told(progress)
    if octaves < 1 or steps < 1 or zoom < 0 or jitter < 0:
        raise UsageError(
            f"octaves {octaves}, steps {steps}, zoom {zoom}, jitter {jitter}: expected octaves and steps of 1 or more, "
            "zoom and jitter of 0 or more"
        )
    if not 1 < scale <= 4 or not 1 < zoom_by <= 2:
        raise UsageError(f"scale {scale:g} (over 1, to 4) and zoom-by {zoom_by:g} (over 1, to 2)")
    if not 0 < rate <= 255:
        raise UsageError(f"rate {rate:g}: expected levels of 256, over 0")
    chosen = Weighted.of(net, layers, dream_layer)
    photo = read_picture(net, image)
    whole = resized(photo, fitted(photo.shape, size, _LONGEST)).clip(0, 1)
    if channels is not None and (guide is not None or not len(channels)):
        raise UsageError("channels are at least one, and go with no guide, which brings its own features")
    guiding = None if guide is None else read_picture(net, guide)
    admissible = sizes_of(net, chosen.names)
    least = [smallest(net.layer(name)) for name in chosen.names]
    sizes = octave_sizes(
        whole.shape[:2],
        octaves,
        scale,
        (max(y for y, _ in least), max(x for _, x in least)),
        admissible.nearest,
    )
    feature_maps(net, resized(whole, sizes[0]).clip(0, 1), chosen.names)  # refuses what is too small
    if guiding is not None:
        guiding = fitting(admissible, resized(guiding, fitted(guiding.shape, _GUIDE, _GUIDE)).clip(0, 1))
    aim = objective(net, chosen, channels, guiding)
    rolled, update = (Jitter(jitter),) if jitter else (), Ascent(rate / 255, norm="mean")

    @functools.cache
    def machine(size: tuple[int, int]) -> Machine:
        return Machine(net, aim, size=size, transforms=rolled, optimiser=update)

    job = _Job(machine, sizes, Easel(len(sizes) * steps * (1 + zoom), progress, watch))

    def result() -> Dream:
        assert job.best is not None
        manifest = net.manifest(
            "dream",
            layers=dict(chosen.weights),
            channels=None if channels is None else list(channels),
            guided=guide is not None,
            size=list(whole.shape[:2]),
            octaves=octaves,
            scale=scale,
            steps=steps,
            rate=rate,
            jitter=jitter,
            zoom=zoom,
            zoom_by=zoom_by,
            seed=seed,
        )
        manifest["figures"] = {"octaves": job.octaves, "frames": len(job.frames)}
        return Dream(values=job.best, manifest=manifest, frames=job.frames)

    with keeping(lambda: None if job.best is None else result()):
        picture = job.dream(whole, steps, seed)
        if zoom:
            job.frames += [as_bytes(whole), as_bytes(picture)]
        for number in range(zoom):
            picture = job.dream(enlarged(picture, zoom_by), steps, seed + number + 1, note=False)
            job.frames.append(as_bytes(picture))
    return result()


@dataclass
class _Job:
    """The octaves, each on a machine of its own."""

    machine: Callable[[tuple[int, int]], Machine]
    sizes: Sequence[tuple[int, int]]
    easel: Easel
    octaves: list[dict[str, Any]] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    best: np.ndarray | None = None  # the last picture at full size

    def dream(self, photo: np.ndarray, steps: int, seed: int, note: bool = True) -> np.ndarray:
        """One picture, (H, W, 3) 0 to 1, through all octaves."""
        full = photo.shape[0], photo.shape[1]
        detail = np.zeros((1, 1, 3), np.float32)
        for place, size in enumerate(self.sizes):
            base = resized(photo, size).clip(0, 1)
            start = (base + resized(detail, size)).clip(0, 1)
            machine = self.machine(size)

            # Only the change is enlarged: the photo keeps its own sharpness.
            def shown(pictures: np.ndarray, base: np.ndarray = base) -> np.ndarray:
                return (photo + resized(pictures[0] - base, full)).clip(0, 1)[None]

            values = []
            loop = machine.run(steps, seed=seed * len(self.sizes) + place, start=start[None])
            try:
                for step in self.easel.follow(loop, shown):
                    values.append(float(step.value[0]))
            finally:
                if values:
                    self.best = shown(machine.pictures())[0]
            picture = machine.pictures()[0]
            if note:
                # The photo itself at this size, and the end, rolled as at the first step, like the steps' own values.
                ends = (next(machine.run(1, start=p[None])).value for p in (base, picture))
                before, after = (float(value[0]) for value in ends)
                self.octaves.append(
                    {
                        "size": list(size),
                        "objective_photo": rounded(before),
                        "objective_start": rounded(values[0]),
                        "objective_end": rounded(after),
                        "rise": rounded(after / before if before else float("inf")),
                    }
                )
            detail = picture - base
        assert self.best is not None
        return self.best


def objective(
    net: Network, layers: Weighted, channels: Sequence[int] | None, guide: np.ndarray | None
) -> Objective:
    """½‖activation‖² of the layers or of their channels, or with a guide, (H, W, 3) 0 to 1, its features' matches."""
    maps = {} if guide is None else feature_maps(net, guide, layers.names)

    def term(name: str) -> Objective:
        last = net.layer(name).channels_last
        if guide is not None:
            return resemblance(name, maps[name][0], channels_last=last)
        return whole_layer(name) if channels is None else excitement(name, channels, channels_last=last)

    return layers.sum(term)


def octave_sizes(
    full: tuple[int, ...],
    octaves: int,
    scale: float,
    least: tuple[int, int],
    nearest: Callable[[tuple[int, int]], tuple[int, int] | None] = lambda size: size,
) -> list[tuple[int, int]]:
    """(height, width) of the octaves, small to large; the last is `full`, and none has a side under `least` pixels.

    nearest   the size near one that the network can take, or None: such an octave is left out (but for the last)
    """
    found: dict[tuple[int, int], None] = {}
    for k in reversed(range(octaves)):
        asked = round(full[0] / scale**k), round(full[1] / scale**k)
        size = nearest(asked) if k == 0 or (asked[0] >= least[0] and asked[1] >= least[1]) else None
        if k == 0:
            found[size or asked] = None
        elif size is not None and size[0] >= least[0] and size[1] >= least[1]:
            found[size] = None
    return list(found)


def enlarged(picture: np.ndarray, factor: float) -> np.ndarray:
    """The middle of a picture (H, W, 3), enlarged to its own size."""
    height, width = picture.shape[:2]
    near, far = (1 - 1 / factor) / 2, (1 + 1 / factor) / 2
    box = width * near, height * near, width * far, height * far
    return resized(picture, (height, width), box, "BICUBIC").clip(0, 1)
