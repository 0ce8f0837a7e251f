"""What a gradient attribution method gets and gives, and running it on many samples of every picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.attribution.targets import Target
from onnxviz.errors import UsageError
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

if TYPE_CHECKING:
    from onnxviz.gradients import Gradients

#: (picture numbers (n,), sample numbers (n,)) -> input tensors, one for each pair
Draw = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: (picture, sample, the gradient there, the objective there): told once for each
Take = Callable[[int, int, np.ndarray, float], None]


@dataclass
class Job:
    """One call of a method.

    x          the network's input tensor, N pictures, float32
    pictures   each as the network sees it, (H, W, 3) uint8; of arrays (H, W, C), uint8 or float32
    aim        what is explained
    """

    net: Network
    x: np.ndarray
    pictures: list[np.ndarray]
    aim: Target
    seed: int = 0
    batch: int | None = None
    progress: Progress = silent
    _compiled: dict[str, Gradients] = field(default_factory=dict, repr=False)

    @property
    def source(self) -> str:
        """The name of the input that the gradient is taken by."""
        return self.net.input.name

    def gradients(self, rules: str = "plain") -> Gradients:
        """The objective compiled with its gradient, once for the job."""
        if rules not in self._compiled:
            self._compiled[rules] = self.aim.gradients(self.net, rules=rules)
        return self._compiled[rules]

    def gradient(self, rules: str = "plain") -> tuple[np.ndarray, np.ndarray]:
        """The objective on each picture, (N,), and its gradient, of x's shape."""
        run = self.gradients(rules)
        arrays = run(self.x, self.aim.feeds(), batch=self.batch, progress=self.progress)
        return arrays["objective"], arrays[f"{self.source}.gradient"]

    def objective(self, x: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        """The objective on input tensors `x`, (M,), each as that of the picture numbered in `pictures`, (M,)."""
        run = self.gradients()
        return run(x, self.aim.feeds(pictures), batch=self.batch)["objective"]

    def sampled(self, count: int, draw: Draw, take: Take, *, rules: str = "plain") -> np.ndarray:
        """The gradient at `count` samples of every picture, in batches over samples and pictures.

        returns   how many samples each picture got, (N,): fewer than `count` where Ctrl-C ended it. Before every
                  picture has one, it goes on as KeyboardInterrupt.
        """
        total = len(self.x)
        # Sample by sample over all pictures, so that an interrupted run leaves every picture about as far.
        samples, numbers = (grid.ravel() for grid in np.divmod(np.arange(count * total), total))
        run = self.gradients(rules)
        size = self.net.batch_size(self.batch)
        got = np.zeros(total, dtype=np.int64)
        try:
            for start in range(0, len(samples), size):
                part = slice(start, start + size)
                x = draw(numbers[part], samples[part])
                arrays = run(x, self.aim.feeds(numbers[part]), batch=self.batch)
                gradients, values = arrays[f"{self.source}.gradient"], arrays["objective"]
                for k, (number, sample) in enumerate(zip(numbers[part], samples[part], strict=True)):
                    take(int(number), int(sample), gradients[k], float(values[k]))
                    got[number] += 1
                self.progress(start + len(x), len(samples), "samples")
        except KeyboardInterrupt:
            if not got.all():
                raise
        return got


@dataclass
class Found:
    """What a method found for N pictures.

    raw          of x's shape; or (N, H, W) where it has no colours
    scores       the objective on each picture, (N,)
    parameters   what it ran with, for the manifest
    figures      what was measured, for each picture
    warnings     what looks odd, for each picture
    incomplete   whether Ctrl-C ended it
    """

    raw: np.ndarray
    scores: np.ndarray
    parameters: Mapping[str, Any] = field(default_factory=dict)
    figures: list[dict[str, Any]] | None = None
    warnings: list[list[str]] | None = None
    incomplete: bool = False


def at_least(name: str, value: Any, least: int) -> int:
    """A whole number from `least` on.

    raises   UsageError
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise UsageError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)
