"""Several attribution methods on several pictures, side by side.

The one registry of methods: those of `techniques.saliency` and of `techniques.cam`, by name. Adding a method there
adds it here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import UsageError, near
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network
from onnxviz.objectives import Objective
from onnxviz.progress import Progress, silent
from onnxviz.provenance import recorded
from onnxviz.results import Attribution, Result
from onnxviz.techniques.aim import Position, Target, choose, step_objective
from onnxviz.techniques.attributing import given

if TYPE_CHECKING:
    from PIL import Image


_ON_A_PAGE = 8  # pictures of one sheet: more is a strip that no program shows


@dataclass
class Attributions(Result):
    """Attributions of several pictures by several methods.

    values   (N, M, H, W) float32: pictures, methods, the map
    grid     the attributions themselves, one list a picture
    names    what each picture is called
    """

    grid: list[list[Attribution]] = field(repr=False)
    names: list[str] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        """The methods, in the order of the columns."""
        return [one.method for one in self.grid[0]]

    def picture(self) -> Image.Image:
        """The maps in one sheet, beside their photos; of many pictures the first page of `pages`."""
        return self._page(0)

    def pages(self) -> list[Image.Image]:
        """The sheets of so many pictures at a time as can be looked at."""
        return [self._page(start) for start in range(0, len(self.grid), _ON_A_PAGE)]

    def _page(self, start: int) -> Image.Image:
        from onnxviz.image.method_sheet import draw

        end = start + _ON_A_PAGE
        return draw(self.grid[start:end], names=self.names[start:end])

    def table(self) -> dict[str, list[Any]]:
        """A row for each picture and method: picture, method, target, label, score, and the map's sum and range."""
        maps = [(row, name, one) for row, name in zip(self.grid, self._named(), strict=True) for one in row]
        values = [np.nan_to_num(np.asarray(one.values, np.float64)) for _, _, one in maps]
        return {
            "picture": [name for _, name, _ in maps],
            "method": [one.method for _, _, one in maps],
            "target": [one.target for _, _, one in maps],
            "label": [one.label for _, _, one in maps],
            "score": [one.score for _, _, one in maps],
            "sum": [float(value.sum()) for value in values],
            "smallest": [float(value.min()) for value in values],
            "largest": [float(value.max()) for value in values],
        }

    def _named(self) -> list[str]:
        return [*self.names, *("" for _ in range(len(self.grid) - len(self.names)))][: len(self.grid)]


def registry() -> dict[str, Callable[..., Any]]:
    """Every method's name, with the technique that computes it (given as its `method=`)."""
    from onnxviz.techniques import cam, saliency

    return dict.fromkeys(saliency.METHODS, saliency.saliency) | dict.fromkeys(cam.METHODS, cam.cam)


@recorded
def attributions(
    net: Network,
    images: Images,
    methods: Sequence[str] | str | None = None,
    *,
    target: Target = None,
    objective: Objective | str | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: int | None = None,
    position: Position = None,
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
    objective, output, layer, channel, position   instead of a class, as in `onnxviz.saliency`
    options     of single methods (samples, steps, baseline...); each goes to the methods that take it
    returns     Attributions, values (N, M, H, W) float32
    raises      UsageError and what the methods raise; Interrupted on Ctrl-C, with the methods that were done
    """
    table = registry()
    wanted = list(table) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    _check(wanted, table, options)
    net = net.at(output)
    taken = given(net, images)
    names = _names(images, len(taken.pictures))
    aim = choose(
        net, taken.x, target=target, objective=objective, layer=layer, channel=channel, position=position
    )
    # A layer and channel become an objective, since to class activation maps `layer` is where the map is taken.
    explained: dict[str, Any] = (
        {"objective": aim.objective} if aim.targets[0] is None else {"target": aim.targets}
    )
    if aim.targets[0] is not None and position is not None:  # a step of a sequence: as an objective for all
        if len(set(aim.targets)) > 1 and target is not None:
            raise UsageError(
                "of a step of a sequence one class is explained in all pictures; give one target"
            )
        explained = {"objective": step_objective(net, position, None if target is None else aim.targets[0])}
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
            found = table[name](net, taken.x, method=name, **explained, **own)
        except KeyboardInterrupt as stop:
            if not columns:
                raise
            raise Interrupted(sheet(net, _turned(columns), names, incomplete=True)) from stop
        columns.append(found)
        progress(number + 1, len(wanted), "methods")
    return sheet(net, _turned(columns), names)


def sheet(
    net: Network, grid: list[list[Attribution]], names: Sequence[str] = (), *, incomplete: bool = False
) -> Attributions:
    """Attributions that were computed already, as one result. One row a picture, one column a method."""
    manifest = net.manifest("attributions", methods=[one.method for one in grid[0]])
    manifest["figures"] = {
        "pictures": [
            {
                "name": names[number] if number < len(names) else None,
                "target": row[0].target,
                "label": row[0].label,
                "score": row[0].score,
                "methods": {
                    one.method: {
                        "parameters": one.manifest["parameters"],
                        "figures": one.manifest["figures"],
                        "warnings": [text for text in one.manifest["warnings"] if text not in net.warnings],
                    }
                    for one in row
                },
            }
            for number, row in enumerate(grid)
        ]
    }
    if incomplete or any("incomplete" in one.manifest for row in grid for one in row):
        manifest["incomplete"] = True
    values = np.stack([np.stack([_map(one) for one in row]) for row in grid])
    return Attributions(values=values, manifest=manifest, grid=grid, names=list(names))


def _map(one: Attribution) -> np.ndarray:
    """The map at the picture's size."""
    from onnxviz.image.colour import fit

    assert one.values is not None
    return fit(one.values, *one.image.shape[:2])


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
    from onnxviz.techniques import saliency

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
