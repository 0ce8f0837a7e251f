"""Whether attribution maps tell what the network uses: the score is watched while places go in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.attribution import flipping
from onnxviz.attribution.methods import METHODS, chosen, each_once
from onnxviz.attribution.occlusion import FILLS, occlusion
from onnxviz.attribution.rise import rise
from onnxviz.attribution.sheet import attributions
from onnxviz.attribution.targets import Measure, Target, Targets, parse
from onnxviz.errors import ImageRejected, UsageError, at_least, near, one_of
from onnxviz.features.pictures import single
from onnxviz.features.stream import none_used, refusal, source_name, sources
from onnxviz.network import Network
from onnxviz.progress import Interrupted, Shown, silent, told
from onnxviz.provenance import recorded
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.image.folder import Skipped
    from onnxviz.tables import Columns

#: What any method has to beat: places by chance, and places by their distance from the middle.
BASELINES: Final = ("random", "centre")
_MASKED: Final[dict[str, Callable[..., Any]]] = {"occlusion": occlusion, "rise": rise}
_USUAL: Final = ("occlusion", "grad-cam", "smoothgrad", "saliency")
_RANDOM: Final = 8  # draws a picture
_BOOTSTRAP: Final = 2000


@dataclass(frozen=True)
class Score:
    """What one measure says of one method.

    values      one a picture, float64; of 'random' the mean of its draws
    value       their mean
    low, high   95 % bootstrap limits over the pictures; None for a single one
    better      whether it is better than random: the limits do not meet; None where that cannot be told, and of the
                baselines
    """

    method: str
    measure: str
    values: np.ndarray = field(repr=False)
    value: float
    low: float | None
    high: float | None
    better: bool | None = None

    @property
    def row(self) -> dict[str, Any]:
        """What tables and manifests hold of it."""
        names = ("measure", "method", "value", "low", "high")
        return {name: getattr(self, name) for name in names} | {"better_than_random": self.better}


@dataclass(repr=False)
class Faithfulness(Result):
    """How far the maps of methods tell what the network uses.

    values    (M, N) float32: the first measure, of each method (the baselines last) on each picture
    methods   the M methods
    names     what the N pictures are called
    scores    a row for each method and measure
    curves    (M, 2, S + 1) float32: the mean score while the most (0) and the least (1) important places go first; None
              where symmetric relevance gain was not measured
    covered   (S + 1,) the share of the picture that is covered there
    """

    methods: list[str]
    names: list[str]
    scores: list[Score] = field(repr=False)
    curves: np.ndarray | None = field(default=None, repr=False)
    covered: np.ndarray | None = field(default=None, repr=False)

    def score(self, method: str, measure: str = "srg") -> Score:
        """One row.

        raises   KeyError
        """
        return {(one.method, one.measure): one for one in self.scores}[method, measure]

    @property
    def no_better(self) -> list[str]:
        """The methods that cannot be told from random by the first measure: their limits meet."""
        first = self.scores[0].measure
        return [one.method for one in self.scores if one.measure == first and one.better is False]

    def table(self) -> Columns:
        """A row for each measure and method: mean, limits, whether it is better than random."""
        return {title: [one.row[title] for one in self.scores] for title in self.scores[0].row}

    def picture(self) -> Image.Image:
        """Bars with their limits, a block a measure, and the curves of symmetric relevance gain."""
        from onnxviz.figures.charts import faithfulness as draw

        return draw(self)


@recorded
def faithfulness(
    net: Network,
    images: Any,
    methods: Sequence[str] | str | None = None,
    *,
    target: Targets = None,
    fill: str = "blur",
    grid: int = 14,
    steps: int = 15,
    measures: Sequence[str] | str = "srg",
    output: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Faithfulness:
    """How far attribution maps tell what the network uses: the score while places are covered in a map's order.

    The headline is symmetric relevance gain (Blücher, Vielhaben & Strodthoff 2024, arXiv:2401.06654): the area under
    the score with the least important cells covered first, less that with the most important ones first. It orders
    methods alike for every fill, which one curve alone does not. Beside the methods stand `random` (8 draws a picture)
    and `centre`; a method whose lower limit is under random's upper one cannot be told from random by these pictures.

    images     pictures or folders of them; those that cannot be read are left out and named in the manifest
    methods    names as `onnxviz.saliency` and `onnxviz.cam` take them, 'occlusion', 'rise'; None: occlusion, grad-cam,
               smoothgrad and saliency
    target     class index or label, or one for each picture; None: each picture's top class
    fill       what covered places show, in 'srg': blur, grey, mean, noise or zero
    grid       cells along each side that are covered as one, in 'srg'
    steps      how many times the score is looked at on the way, in 'srg'
    measures   srg              symmetric relevance gain; -1 to 1, higher is better
               deletion         area while the most important pixels become zero, a row's worth a step, as in RISE
                                (Petsiuk et al. 2018, arXiv:1806.07421); lower is better
               insertion        area while they come back into a blurred picture (11 pixels, deviation 5), as in RISE
               pixel-flipping   Quantus's (Bach et al. 2015, doi:10.1371/journal.pone.0130140): the score summed over
                                the steps while the most important pixels become the input's least value
               road             Rong et al. 2022, arXiv:2202.00449: half of the score with the least important pixels
                                taken out, less that with the most important ones, mean over 20, 40, 60 and 80 %; what
                                was taken out is imputed from its neighbours
               Several, or 'all'; all but the first take hundreds of passes for each map
    seed       of the random maps, the methods' noise and the bootstrap
    returns    Faithfulness, values (methods + 2, pictures) float32
    raises     UsageError, UnknownLabel, ImageRejected (no picture could be read), ModelUnsuitable (no classes);
               Interrupted on Ctrl-C, with the pictures so far
    """
    progress = told(progress)
    net = net.at(output)
    wanted, asked = _methods(methods), flipping.chosen(measures)
    one_of("fill", fill, FILLS)
    grid, steps = at_least("grid", grid, 2), at_least("steps", steps)
    aim = parse(net, target)
    how = flipping.How(fill=fill, grid=grid, steps=steps, seed=seed, batch=batch)
    listed, skipped = _listed(net, images)
    aim = aim.each(len(listed)) if len(aim) > 1 else aim

    rows: list[dict[str, np.ndarray]] = []
    names: list[str] = []
    own = dict(methods=wanted, fill=fill, grid=grid, steps=steps, measures=asked, seed=seed, batch=batch)

    def result(incomplete: bool = False) -> Faithfulness:
        everyone = [*wanted, *BASELINES]
        tables = {measure: np.stack([row[measure] for row in rows], axis=1) for measure in asked}
        scores = [one for measure, table in tables.items() for one in judged(everyone, measure, table, seed)]
        manifest = net.manifest("faithfulness", **own)
        manifest["figures"] = {"count": len(rows), "scores": [one.row for one in scores]}
        manifest["skipped"] = [one.to_dict() for one in skipped]
        if incomplete:
            manifest["incomplete"] = True
        values = np.stack([one.values for one in scores[: len(everyone)]]).astype(np.float32)
        found = Faithfulness(values, manifest, everyone, names, scores)
        if "srg" in asked:
            found.curves = np.mean([row["curves"] for row in rows], axis=0)
            found.covered = flipping.levels(grid**2, steps) / grid**2
        return found

    try:
        for number, image in enumerate(listed):
            try:
                x, picture = single(net, image, "faithfulness")
            except ImageRejected as error:
                skipped.append(refusal(image, number, error))
                continue
            known = (aim.at([number]) if len(aim) > 1 else aim).settle(net, x)
            maps = [*_maps(net, x, wanted, known, seed, batch), *_baselines(x, net, seed, len(rows))]
            score = Measure(net, known)
            rows.append(_merged(flipping.measured(net, score, x, picture, maps, asked, how), len(wanted)))
            names.append(source_name(image, number))
            progress(number + 1, len(listed), "pictures")
    except KeyboardInterrupt as stop:
        if not rows:
            raise
        raise Interrupted(result(incomplete=True)) from stop
    if not rows:
        raise none_used(len(listed) + len(skipped), skipped)
    return result()


def _methods(methods: Sequence[str] | str | None) -> list[str]:
    """raises   UsageError for none, an unknown one, or one named twice"""
    names = list(_USUAL) if methods is None else [methods] if isinstance(methods, str) else list(methods)
    for name in each_once("method", names):
        if name not in METHODS and name not in _MASKED:
            if near(str(name), _MASKED):
                raise UsageError(f"no method is called {name!r}{near(str(name), _MASKED)}")
            chosen(name, METHODS)
    return names


def _listed(net: Network, images: Any) -> tuple[list[Any], list[Skipped]]:
    """The pictures, and what is known to be none."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return [images[i : i + 1] for i in range(len(images))], []
    listing = sources(images, net)
    if not listing.images and not listing.skipped:
        raise UsageError("no picture was given; expected at least one")
    return list(listing.images), list(listing.skipped)


def _maps(
    net: Network, x: np.ndarray, methods: Sequence[str], aim: Target, seed: int, batch: int | None
) -> Iterator[np.ndarray]:
    """Each method's map of one picture, (H, W)."""
    for name in methods:
        shared: dict[str, Any] = {"target": aim, "seed": seed, "batch": batch}
        if name in _MASKED:
            yield _MASKED[name](net, x, **shared, progress=silent).values
        else:
            yield attributions(net, x, [name], **shared, progress=silent).values[0, 0]


def _baselines(x: np.ndarray, net: Network, seed: int, number: int) -> Iterator[np.ndarray]:
    """The random maps of a picture, then the one that falls from the middle to the border."""
    height, width = (x.shape[1:3]) if net.input.layout == "NHWC" else x.shape[2:4]
    rng = np.random.default_rng([seed, number])
    for _ in range(_RANDOM):
        yield rng.random((height, width), dtype=np.float32)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    yield -np.hypot(rows, columns).astype(np.float32)


def _merged(found: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """With one entry for all random maps, their mean."""
    random = slice(count, count + _RANDOM)
    return {
        name: np.concatenate([array[:count], array[random].mean(axis=0, keepdims=True), array[random.stop :]])
        for name, array in found.items()
    }


def judged(methods: Sequence[str], measure: str, table: np.ndarray, seed: int) -> list[Score]:
    """The methods by one measure, with limits, held against random.

    table   (methods, pictures), the baselines last
    """
    count = table.shape[1]
    draws = np.random.default_rng(seed).integers(0, count, (_BOOTSTRAP, count))
    limits = np.quantile(table[:, draws].mean(axis=2), (0.025, 0.975), axis=1).T  # (methods, 2)
    chance = limits[list(methods).index("random")]
    scores = []
    for name, values, (low, high) in zip(methods, table, limits, strict=True):
        better = None
        if count > 1 and name not in BASELINES:
            better = bool(high < chance[0] if measure in flipping.LOWER else low > chance[1])
        lower, upper = (float(low), float(high)) if count > 1 else (None, None)
        scores.append(Score(name, measure, values, float(values.mean()), lower, upper, better))
    return scores
