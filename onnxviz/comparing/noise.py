"""How much noise in the pixels moves A's scores as far as B does: one number that needs no knowledge of networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxviz.auditing.statistics import Share
from onnxviz.errors import ImageRejected
from onnxviz.graph.output import BINARY, Head
from onnxviz.network import Network
from onnxviz.programs import filled

_PROBES: Final = 16  # pictures that noise is tried on
_LARGEST: Final = 64.0  # grey levels of noise, beyond which nobody would call it noise
_REFINED: Final = 3
# Numbers that differ by less of their size are one number: float32 has 6e-8.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Noise:
    """How much noise in the pixels does to A what B does.

    moved       mean over the probes of ‖z_B − z_A‖ / ‖z_A‖, z the logits less their mean; of a network without classes
                each output less its mean, and the root of the mean of squares of several
    sd          the standard deviation of the noise, in grey levels of 0 to 255, that moves A's as far
    beyond      whether it is more than `sd`, the largest that was tried
    agreement   of A with itself under noise of 1 grey level
    pictures    how many probes
    """

    moved: float
    sd: float
    beyond: bool
    agreement: Share
    pictures: int

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "agreement": self.agreement.to_dict()}

    def __str__(self) -> str:
        """In a sentence."""
        more = "more than " if self.beyond else ""
        what = "scores" if self.agreement.of else "outputs"
        told = f"B moves the {what} by {self.moved:.1%}, as {more}{self.sd:.2g} grey levels of noise in the pixels do"
        if not self.agreement.of:
            return told
        return f"{told}; noise of 1 grey level, which nobody sees, leaves A's own class in {self.agreement}"


def noise_equivalent(
    a: Network,
    pictures: Sequence[Any],
    by_b: Mapping[int, float],
    seed: int = 0,
    names: Sequence[str] = (),
) -> Noise | None:
    """The noise whose effect on A is that of B; None where the network sees no pictures of grey levels.

    by_b    how far B moves what is told of (`moved`, `together`), by the place of a picture among `pictures`
    names   of the values that are told of; none: the logits
    """
    if not a.preprocessing.pictorial:
        return None
    used = sorted(by_b)
    # Spread over the set: neighbours in a folder are often of one class.
    chosen = [used[place] for place in np.unique(np.linspace(0, len(used) - 1, _PROBES).round().astype(int))]
    probes = _Probes(a, pictures, chosen, seed, names)
    target = float(np.mean([by_b[index] for index in probes.used]))
    at_one, classes = probes.under(1.0)
    agreement = Share(sum(one == other for one, other in classes), len(classes))
    low, high = (0.0, 0.0), (1.0, at_one)
    if target <= 0:
        return Noise(target, 0.0, False, agreement, len(probes.used))
    while high[1] < target and high[0] < _LARGEST:
        low, high = high, (2 * high[0], probes.under(2 * high[0])[0])
    if high[1] < target:
        return Noise(target, high[0], True, agreement, len(probes.used))
    sd = high[0]
    for _ in range(_REFINED):
        sd = _between(low, high, target)
        found = sd, probes.under(sd)[0]
        low, high = (found, high) if found[1] < target else (low, found)
    return Noise(target, _between(low, high, target), False, agreement, len(probes.used))


def _between(low: tuple[float, float], high: tuple[float, float], target: float) -> float:
    """Where a line through two (sd, moved) meets the target: logits move in proportion to little noise."""
    if high[1] <= low[1]:
        return high[0]
    return low[0] + (high[0] - low[0]) * (target - low[1]) / (high[1] - low[1])


class _Probes:
    """Some of the pictures, and what noise does to A's logits there. One of them is in memory at a time."""

    def __init__(
        self, net: Network, pictures: Sequence[Any], chosen: Sequence[int], seed: int, names: Sequence[str]
    ) -> None:
        self._net, self._pictures, self._seed, self._names = net, pictures, seed, names
        self.used = list(chosen)
        self._plain = {index: self._answers(index, 0.0) for index in chosen}

    def _answers(self, index: int, sd: float) -> list[np.ndarray]:
        """What is told of, with noise of this sd; its pattern is the picture's own, whatever its sd."""
        net = self._net
        try:
            view = net.preprocessing.view(net.preprocessing.read(self._pictures[index]))
        except ImageRejected:  # it was read a moment ago: whoever replaced it is told by the digest
            return []
        pattern = np.random.default_rng((self._seed, index)).standard_normal(view.shape, np.float32)
        noisy = np.clip(view + np.float32(sd) * pattern, 0, 255)
        x = net.preprocessing.normalise(noisy[None])
        if self._names:
            arrays = whole(net, x, self._names)
            return [level(arrays[name]) for name in self._names if name in arrays]
        logits = net.run(x, [net.head.logits])[net.head.logits].reshape(-1).astype(np.float64)
        return [centred(logits, net.head)]

    def under(self, sd: float) -> tuple[float, list[tuple[int, int]]]:
        """What noise of this sd does: the mean of ‖z − z_A‖ / ‖z_A‖, and the classes without and with it, picture by
        picture."""
        pairs = [(z, self._answers(index, sd)) for index, z in self._plain.items() if z]
        pairs = [(z, noisy) for z, noisy in pairs if noisy and all(np.isfinite(one).all() for one in noisy)]
        mean = float(np.mean([together(z, noisy) for z, noisy in pairs])) if pairs else 0.0
        return mean, [] if self._names else [(_best(z[0]), _best(noisy[0])) for z, noisy in pairs]


def whole(net: Network, x: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The values of one picture that are floating point, as they come: not all have an entry for each picture."""
    program = net.program(names)
    wanted = [name for name in names if name in program.outputs]
    arrays = program({net.input.name: filled(x, net.batched[1] or 1)}, wanted)
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def _best(logits: np.ndarray) -> int:
    return int(logits[0] > 0) if logits.size == 1 else int(np.argmax(logits))


def centred(logits: np.ndarray, head: Head) -> np.ndarray:
    """Less their mean, which no probability depends on; one number for two classes as it is."""
    return logits if head.kind == BINARY else level(logits)


def level(array: np.ndarray) -> np.ndarray:
    """Numbers of any form in a row, less their mean; one alone as it is. What rounding leaves of one number is 0."""
    row = array.reshape(-1).astype(np.float64)
    if row.size < 2:
        return row
    left = row - row.mean()
    return left if np.abs(left).max() > _ROUNDING * np.abs(row).max() else np.zeros_like(row)


def together(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """How far several answers are moved: the root of the mean of squares; of one it is `moved`."""
    both = [moved(z, other) for z, other in zip(ours, theirs, strict=True) if z.shape == other.shape]
    return both[0] if len(both) == 1 else float(np.sqrt(np.mean(np.square(both)))) if both else 0.0


def moved(z: np.ndarray, other: np.ndarray) -> float:
    """‖other − z‖ / ‖z‖."""
    length = float(np.linalg.norm(z))
    return float(np.linalg.norm(other - z)) / length if length else 0.0
