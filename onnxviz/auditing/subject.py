"""What is audited: the file, the pictures, and what the checks share, computed when first asked for."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.errors import ImageRejected, ModelRejected, ModelUnsuitable, OnnxVizError, judged
from onnxviz.graph.output import SEQUENCE

if TYPE_CHECKING:
    from onnxviz.graph.analysis.bypass import Bypass
    from onnxviz.graph.layers import Activations
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.network import Network

_SHOWN: Final = 4  # pictures that evidence is drawn on
#: Where the two best classes are so far apart, the network is taken to be sure.
CONFIDENT: Final = 0.1
_BEST: Final = 5


@dataclass(frozen=True)
class Answers:
    """What the network says of the pictures that could be read, without what it says of other classes.

    place         (n,) the picture, of `Subject.images`
    best          (n, 5) the most probable classes
    probability   (n,) of the best
    margin        (n,) by how much the best is before the second
    """

    place: np.ndarray
    best: np.ndarray
    probability: np.ndarray
    margin: np.ndarray

    @property
    def rows(self) -> dict[int, int]:
        """The row of each picture, by its place."""
        return {int(place): row for row, place in enumerate(self.place)}

    @property
    def sure(self) -> np.ndarray:
        """(n,) boolean: whether the margin says that it is sure."""
        return np.asarray(self.margin >= CONFIDENT)


@dataclass
class Subject:
    """What is audited.

    opened     the network; None where the file was refused
    refused    why, where it was
    images     paths and arrays, as `features.stream.sources` found them, at most `sample`
    truth      the true class of each picture, None where it is not known; None: no labels were given
    masks      the mask of each picture that has one, by its place; None: none were given
    seed       of every random choice
    demands    what the policy says of the accuracy
    skipped    pictures that could not be read, and why; known after the first check that reads them all
    crashed    whether a check was told of a crash: of the same crash the others do not run
    """

    opened: Network | None
    refused: OnnxVizError | None = None
    images: Sequence[Any] = ()
    truth: Sequence[int | None] | None = None
    masks: Mapping[int, Path] | None = None
    seed: int = 0
    demands: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    crashed: bool = False

    @property
    def net(self) -> Network:
        """The network; only for checks that need one."""
        if self.opened is None:
            raise ModelRejected(str(self.refused))
        return self.opened

    @cached_property
    def no_classes(self) -> str:
        """Why it is no classifier; '' for one."""
        if self.no_scores or self.net.end.scored:
            return self.no_scores
        return f"the network is no classifier: {self.net.end.describe()}"

    @cached_property
    def no_scores(self) -> str:
        """Why it is neither a classifier nor a recogniser of text; '' for one."""
        try:
            end = self.net.end
        except ModelUnsuitable as reason:
            return f"the network is no classifier: {reason}"
        return "" if end.scored or end.kind == SEQUENCE else f"the network is no classifier: {end.describe()}"

    @property
    def activations(self) -> Activations:
        """Its values with their shapes."""
        return self.net._activations

    @cached_property
    def bypass(self) -> Bypass:
        """The ways around what was learned."""
        from onnxviz.graph.analysis.bypass import paths

        with judged(self.net.judge):
            return paths(self.activations, None if self.no_scores else self.net.end.output)

    @cached_property
    def probes(self) -> np.ndarray:
        """A few inputs to run the network on: of the first pictures, else pictures of the seed (see `made`)."""
        net = self.net
        if self.images:
            found = list(islice((x for x in map(self._prepared, self.images) if x is not None), _SHOWN))
            if found:
                return np.concatenate([x for x in found if x.shape == found[0].shape])
        if not net.preprocessing.pictorial:
            return net.samples()
        return net.prepare(made(*net.size, self.seed))

    def _prepared(self, image: Any) -> np.ndarray | None:
        try:
            return self.net.prepare([image])
        except OnnxVizError:  # which pictures cannot be read is told elsewhere
            return None

    @cached_property
    def views(self) -> list[np.ndarray]:
        """The first that can be read as the network sees them, (h, w, 3) uint8; none where none can be read."""
        return [view for _, _, view in islice(self.each(), _SHOWN)]

    # --- all pictures -----------------------------------------------------------------------------

    def each(self, places: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each picture that can be read: its place, itself, and as the network sees it; read anew every time.

        places   only these; None: all
        """
        from onnxviz.features.stream import source_name

        recipe = self.net.preprocessing
        for place in range(len(self.images)) if places is None else places:
            image = self.images[place]
            try:
                picture = recipe.read(image)
                yield place, picture, recipe.view(picture)
            except ImageRejected as error:
                self.skipped.setdefault(source_name(image, place), str(error))

    def name(self, place: int) -> str:
        """What a picture is called."""
        from onnxviz.features.stream import source_name

        return source_name(self.images[place], place)

    def probabilities(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """(n, classes), of pictures of one size as the network sees them, uint8 or float of 0 to 255."""
        return self.net.probabilities(self.net.preprocessing.normalise(np.stack(views)))

    @cached_property
    def answers(self) -> Answers:
        """What the network says of each picture."""
        rows = [(place, self.probabilities([view])[0]) for place, _, view in self.each()]
        if not rows:
            raise ImageRejected(f"none of the {len(self.images)} pictures could be read")
        order = [np.argsort(-scores, kind="stable")[:_BEST] for _, scores in rows]
        ranked = np.stack([scores[best] for (_, scores), best in zip(rows, order, strict=True)])
        margin = ranked[:, 0] - (ranked[:, 1] if ranked.shape[1] > 1 else 0)
        return Answers(np.array([place for place, _ in rows]), np.stack(order), ranked[:, 0], margin)

    def under(self, recipe: Preprocessing) -> Subject:
        """The same with another recipe; what was found of the graph stays."""
        net = copy.copy(self.net)
        net.preprocessing = recipe
        return Subject(net, images=self.images, truth=self.truth, seed=self.seed)

    def label(self, index: int) -> str:
        """A class as it is called."""
        return self.net.label(int(index))


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many of them, spread evenly; all where they are no more."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def made(height: int, width: int, seed: int, count: int = 4) -> list[np.ndarray]:
    """Pictures with the spectrum of photographs (power falls with the square of the frequency), (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width))
    found = []
    for _ in range(count):
        waves = rng.standard_normal((3, *fall.shape)) + 1j * rng.standard_normal((3, *fall.shape))
        waves[1:] = 0.9 * waves[:1] + 0.4 * waves[1:]  # colours of a photograph go together
        field_ = np.fft.irfft2(waves * fall, s=(height, width))
        field_ = (field_ - field_.mean()) / (field_.std() or 1.0)
        found.append(np.clip(np.moveaxis(field_, 0, -1) * 60 + 118, 0, 255).astype(np.uint8))
    return found
