"""Class and feature visualisation: the picture that a class, a channel or a neuron answers to most."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz import objectives
from onnxviz.attribution.targets import Channel, Neuron, Target, Targets, parse, place_of
from onnxviz.errors import ModelUnsuitable, UsageError, at_least
from onnxviz.image.io import read
from onnxviz.programs import filled
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.synthesis.machine import Machine, Step
from onnxviz.synthesis.made import (
    Easel,
    Made,
    Watch,
    as_bytes,
    bytes_at,
    clipped,
    keeping,
    rounded,
    stretched,
    unwatched,
)
from onnxviz.synthesis.presets import Recipe, recipe
from onnxviz.text import file_name, shorten

if TYPE_CHECKING:
    from onnxviz.network import Network
    from onnxviz.objectives import Objective

# Pictures that are made together: more go through the network faster, but the first is done later.
_TOGETHER = 4
# "best" looks at this last share of the steps: before, the objective rises anyway.
_JUDGED = 0.25


@recorded
def ascent(
    net: Network,
    *,
    target: Targets = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    direction: np.ndarray | None = None,
    cosine: float = 0.0,
    objective: Objective | str | None = None,
    preset: str = "lucid",
    size: int | tuple[int, int] | None = None,
    copies: int = 1,
    diversity: float = 0.0,
    alignment: float = 0.0,
    start: Any = None,
    seed: int = 0,
    batch: int | None = None,
    watch: Watch = unwatched,
    progress: Shown = "auto",
    **options: Any,
) -> Made:
    """Make the picture that a class score, a channel or a neuron answers to most, by ascent on its gradient.

    Simonyan, Vedaldi & Zisserman 2014, arXiv:1312.6034 (classes); Yosinski et al. 2015, arXiv:1506.06579; Olah,
    Mordvintsev & Schubert 2017, "Feature Visualization" (doi:10.23915/distill.00007).

    target      class index or label, or several: their scores before softmax
    layer       with `channel`: the mean of that channel, of several, or of each ('all'); with `neuron` (row, column) or
                'middle' too: that unit; alone: ½‖a‖² of the whole layer. Of a layer that ends in ReLU6 take the value
                in front of it: where a channel has reached 6, its gradient ends
    direction   (C,) numbers: a direction in the layer's channels
    cosine      with `direction`: the power of the cosine beside it
    objective   anything else (`onnxviz.objectives`)
    preset      'lucid', 'lecture', 'simonyan', 'yosinski-1' to 'yosinski-4'; `options` change single values of it
    size        pixels that the network sees, or (height, width); None: its own size. The picture is larger by the
                preset's margin
    copies      so many pictures of each, from different noise
    diversity   weight of the term that makes the copies differ
    alignment   weight of the one that makes neighbours alike
    start       a picture to start from (a path, PIL image or array); None: noise, or the mean colour
    seed        of the noise to start from, together with each picture's place in the list, and of the transforms
    batch       pictures at once; it changes nothing but the time
    watch       called after each step (synthesis/made.py)
    returns     Made; values (N, H, W, 3) float32, 0 to 1. Figures: the objective before and after, the share of values
                at black or white, and for classes the probability and rank when the picture is shown to the network.
                Presets that `stretch` show pictures with more contrast than they were made with: `contrast` says how
                much more, the other figures are those of `values`
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable, UnsupportedOperator; GradientNotFinite,
                LimitExceeded and WorkerCrashed with the last good pictures as `.partial`; Interrupted on Ctrl-C with
                what was done so far
    """
    progress = told(progress)
    at_least("copies", copies)
    chosen = recipe(preset, options)
    if target is layer is objective is None:
        raise UsageError("give one of --target, --layer and --objective: that is what the picture is to show")
    aim = parse(
        net,
        target,
        objective=objective,
        layer=layer,
        channel=channel,
        neuron=neuron,
        direction=direction,
        power=cosine,
        shown=True,
    )
    aim = aim.at(np.repeat(np.arange(len(aim)), copies))
    seen = (size, size) if isinstance(size, int) else size or net.size
    parameters = {
        "target": list(aim.classes) if target is not None else None,
        "layer": aim.layer,
        "channel": list(aim.channels) if None not in aim.channels and channel != "all" else channel,
        "neuron": None if neuron is None else place_of(neuron),
        "cosine": cosine,
        "objective": str(aim.objective),
        "preset": preset,
        "recipe": dict(vars(chosen)),
        "size": list(seen),
        "copies": copies,
        "diversity": diversity,
        "alignment": alignment,
        "start": None if start is None else "picture",
        "seed": seed,
    }
    terms: Objective = aim.objective
    if chosen.l2:
        terms = terms - chosen.l2 * objectives.l2()
    if chosen.tv:
        terms = terms - chosen.tv * objectives.tv(beta=chosen.tv_beta)
    if diversity:
        if aim.layer is None:
            raise UsageError("diversity compares the pictures in a layer: give layer and channel")
        terms = terms + diversity * objectives.diversity(aim.layer)
    if alignment:
        terms = terms + alignment * objectives.alignment()
    together, different = _together(net, chosen, len(aim), copies, batch, bool(diversity or alignment))
    job = _Job(net, aim, chosen, seen, terms, together, different)
    with keeping(lambda: job.result(parameters) if job.done() else None):
        job.run(seed, start, Easel(-(-len(aim) // different) * chosen.steps, progress, watch))
    return job.result(parameters)


def _together(
    net: Network, chosen: Recipe, count: int, copies: int, batch: int | None, compared: bool
) -> tuple[int, int]:
    """How many pictures are made at once, and how many of them are different ones.

    Whole sets of copies, so that they can be compared; one where the network does not keep them apart.
    """
    fixed = net.batched[1]
    if fixed is not None:
        if fixed % chosen.draws:
            raise ModelUnsuitable(
                f"this file takes {fixed} images at once and no other number, which {chosen.draws} draws do not divide"
            )
        different = fixed // chosen.draws if net.alone is None else 1
        if compared and different < copies:
            why = (
                f"images go through this network one at a time ({net.alone})"
                if net.alone
                else f"it takes {fixed}"
            )
            raise ModelUnsuitable(
                f"diversity and alignment compare {copies} copies with each other, which go through together: {why}; "
                "leave both out"
            )
        return fixed // chosen.draws, different
    wanted = max(1, _TOGETHER // chosen.draws) if batch is None else at_least("batch", batch)
    together = min(count, -(-wanted // copies) * copies)
    if together > 1 and net.alone is not None:
        together = copies if compared else 1
    return together, together


@dataclass
class _Job:
    """The groups of pictures, one after the other on one machine: so many together, of which some are different."""

    net: Network
    aim: Target
    chosen: Recipe
    seen: tuple[int, int]
    terms: Objective
    together: int
    different: int
    _pictures: list[np.ndarray] = field(default_factory=list)
    _first: list[np.ndarray] = field(default_factory=list)
    _last: list[np.ndarray] = field(default_factory=list)
    _machine: Machine | None = None
    _best: tuple[np.ndarray, np.ndarray] | None = None  # values, parameters
    _running: int = 0  # pictures of the group at work; 0 between groups

    def run(self, seed: int, start: Any, easel: Easel) -> None:
        """Make all groups."""
        chosen = self.chosen
        height, width = chosen.canvas(self.seen)
        machine = self._machine = Machine(
            self.net,
            self.terms,
            size=(height, width),
            count=self.together,
            parametrise=chosen.parametrisation(),
            transforms=chosen.transforms(self.seen),
            draws=chosen.draws,
            optimiser=chosen.update(),
            regularise=chosen.regularise(),
            prune=chosen.small_gradients,
        )
        first = None
        if start is not None:
            picture = bytes_at(read(start, limits=self.net.limits), (height, width))
            first = np.asarray(picture, np.float32)[None] / 255
        for group in range(0, len(self.aim), self.different):
            rows = np.arange(group, min(group + self.different, len(self.aim)))
            self._running = len(rows)
            rows = filled(rows, self.together)
            self._best = None
            steps = machine.run(
                chosen.steps,
                seed=seed,
                start=first,
                fed=self.aim.feeds(rows),
                redirected=chosen.redirected,
                numbers=rows.tolist(),
            )
            for step in easel.follow(steps, lambda pictures: self._stretched(pictures)[0], self._running):
                self._note(step)
            self._finish()

    def _note(self, step: Step) -> None:
        value = step.value[: self._running]
        if step.index == 0:
            self._first.append(value)
            self._last.append(value)
        self._last[-1] = value
        if self.chosen.keep == "best" and step.index >= self.chosen.steps * (1 - _JUDGED):
            if self._best is None:
                self._best = step.value.copy(), step.parameters()
            elif (better := step.value > self._best[0]).any():
                self._best[0][better] = step.value[better]
                self._best[1][better] = step.parameters()[better]

    def _finish(self) -> None:
        """The pictures of the group at work, as they are now."""
        assert self._machine is not None
        kept = None if self._best is None else self._best[1]
        if self._best is not None:
            self._last[-1] = self._best[0][: self._running]
        self._pictures.append(self._machine.pictures(kept)[: self._running])
        self._running = 0

    def _stretched(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The pictures as they are shown, and by how much their contrast was raised; None: as they are."""
        assert self._machine is not None
        return stretched(pictures, self._machine.centre) if self.chosen.stretch else (pictures, None)

    def done(self) -> bool:
        """Whether there is a picture yet."""
        return bool(self._pictures or (self._running and self._first[len(self._pictures) :]))

    def result(self, parameters: dict[str, Any]) -> Made:
        """The pictures with their figures."""
        if self._running and len(self._first) > len(self._pictures):
            self._finish()
        values = np.concatenate(self._pictures)
        labels = list(self.aim.labels[: len(values)])
        manifest = self.net.manifest("ascent", **parameters)
        figures, captions = self._figures(values, labels)
        shown, factors = self._stretched(values)
        if factors is not None:
            for place, factor in enumerate(factors):
                captions[place] += f"\nshown at {factor:.3g} × its contrast"
                figures[place]["contrast"] = rounded(factor, 4)
        manifest["figures"] = {"pictures": figures}
        title = self.aim.layer or "" if len(values) > 1 else ""
        return Made(values, manifest, labels, captions, title, None if factors is None else shown)

    def _figures(self, values: np.ndarray, labels: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
        first, last = np.concatenate(self._first), np.concatenate(self._last)
        shares = clipped(values)
        rows = [
            {
                "label": label,
                "objective_start": rounded(first[i]),
                "objective_end": rounded(last[i]),
                "clipped": rounded(shares[i], 3),
            }
            for i, label in enumerate(labels)
        ]
        captions = [f"{row['objective_start']:.3g} → {row['objective_end']:.3g}" for row in rows]
        for row, channel in zip(rows, self.aim.channels, strict=False):
            if channel is not None:
                row["channel"] = channel
        if any(target is not None for target in self.aim.classes):
            if self.chosen.stretch and values.shape[1:3] == self.net.size:
                # Differences of less than a grey level are to be seen as they are, not rounded to 256.
                seen = self.net.preprocessing.normalise(values * np.float32(255)).astype(np.float32)
            else:
                seen = self.net.prepare(list(as_bytes(values)))
            shown = self.aim.rows(self.net, seen)
            for i, row in enumerate(rows):
                target = self.aim.classes[i]
                assert target is not None
                row["target"] = target
                row["probability"] = rounded(shown[i, target])
                row["rank"] = 1 + int((shown[i] > shown[i, target]).sum())
                captions[i] = f"rank {row['rank']}, {row['probability']:.1%}"
        return rows, captions


_QUALITY = 82


def page_bytes(
    result: Made, path: str | os.PathLike[str], patches: str | os.PathLike[str] | None = None
) -> bytes:
    """The page, whole in one file, with the pictures inside it.

    result    what `ascent` gave for several channels of a layer
    path      where it will lie, from where its links lead
    patches   a folder that `patches` wrote for the same layer: each channel links to its sheet there
    raises    UsageError where the folder has no sheets of this layer
    """
    from urllib.parse import quote

    from onnxviz.figures.html import data_uri, environment, webp

    parameters, model = result.manifest["parameters"], result.manifest["model"]
    layer = str(parameters["layer"])
    folder = None if patches is None else Path(patches) / file_name(layer)
    if folder is not None and not any(folder.glob("channel-*.png")):
        raise UsageError(
            f"{str(patches)!r} has no sheets of layer {layer!r}: make them with "
            f"onnxviz patches MODEL DIR --layer {layer} --channel … -o {patches}"
        )
    cells: list[dict[str, Any]] = []
    for picture, figure in zip(result.pictures(), result.manifest["figures"]["pictures"], strict=True):
        channel = int(figure["channel"])
        sheet = None if folder is None else folder / f"channel-{channel:04d}.png"
        link = None
        if sheet is not None and sheet.exists():
            link = quote(Path(os.path.relpath(sheet.resolve(), Path(path).resolve().parent)).as_posix())
        uri, value = data_uri(webp(picture, quality=_QUALITY)), f"{figure['objective_end']:.3g}"
        cells.append({"channel": channel, "picture": uri, "value": value, "link": link})
    facts = {
        "network": f"{shorten(model['name'], 200)}, SHA-256 {model['sha256'][:16]}…",
        "preset": parameters["preset"],
        "steps": parameters["recipe"]["steps"],
        "seed": parameters["seed"],
        **({"contrast": "stretched, each picture by itself"} if result.shown is not None else {}),
        "onnxviz": result.manifest["versions"]["onnxviz"],
    }
    page = environment().get_template("channels.html.j2")
    linked = any(cell["link"] for cell in cells)
    return page.render(layer=shorten(layer, 200), cells=cells, facts=facts, linked=linked).encode("utf-8")
