"""A network and its gradient on other providers, held against the CPU's numbers.

Each provider works in a process of its own, as an isolated network does: drivers crash, hang and print.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import objectives
from onnxviz.errors import (
    GradientNotFinite,
    ModelUnsuitable,
    OnnxVizError,
    ProviderUnavailable,
    UnsupportedOperator,
    UsageError,
    at_least,
)
from onnxviz.network import Network
from onnxviz.programs import filled
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded
from onnxviz.results import Result
from onnxviz.runtime import providers as installed
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.objectives import Objective
    from onnxviz.tables import Columns

#: By how much a provider may depart from the CPU, of the largest number: float32 in another order differs by 1e-6, and
#: TF32, bfloat16 and float16 by more than this.
TOLERANCE: Final = 1e-3
#: What is run on each.
PARTS: Final = ("network", "gradient")
_MOST_OPERATORS: Final = 6  # that are named in a line


@contextmanager
def on(net: Network, provider: str) -> Iterator[Network]:
    """The same network on another provider, in a process of its own where there can be one, which ends with this.

    raises   ProviderUnavailable where there is no such provider
    """
    from onnxviz.runtime.worker import Worker, lacking

    installed.require(provider)
    other = copy.copy(net)
    other.provider = provider
    other._programs, other._gradients, other._backends, other._ran = {}, {}, {}, []
    other.backend, other.worker = "native", None
    if lacking() is None:
        other.worker = Worker("onnxviz.isolated", net.limits)
    try:
        yield other
    finally:
        other.close()


@dataclass(frozen=True)
class Part:
    """The network, or its gradient, on a provider.

    placed      by provider and operator, how many nodes it took; empty on the CPU
    difference  the largest difference from what the CPU gives, over the largest number of that
    seconds     for one picture: of several runs the fastest
    times       that over the CPU's
    """

    placed: Mapping[str, Mapping[str, int]]
    difference: float
    seconds: float
    times: float

    def left(self) -> dict[str, int]:
        """The operators that were left to the CPU, with how many of each."""
        return dict(self.placed.get(installed.CPU, {}))

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: a difference that is no number is None."""
        difference = self.difference if math.isfinite(self.difference) else None
        nodes = {name: sum(counts.values()) for name, counts in self.placed.items()}
        took = {"seconds": self.seconds, "times": self.times}
        return {"difference": difference, **took, "nodes": nodes, "left": self.left()}


@dataclass(frozen=True)
class Trial:
    """One provider.

    provider   as it is typed: 'openvino'
    options    its own
    parts      'network' and 'gradient', as far as it gave any and the network has one
    state      'ran', 'refused' (it does not work here, or does not take this network) or 'failed' (it crashed, took too
               long, or failed as it ran)
    reason     why, where it did not run
    """

    provider: str
    options: Mapping[str, str]
    parts: Mapping[str, Part] = field(default_factory=dict)
    state: str = "ran"
    reason: str = ""

    @property
    def network(self) -> Part | None:
        """What it gave for the network."""
        return self.parts.get("network")

    @property
    def gradient(self) -> Part | None:
        """What it gave for the gradient."""
        return self.parts.get("gradient")

    def departs(self, tolerance: float) -> bool:
        """Whether it gives other numbers than the CPU, or none because it failed."""
        return self.state == "failed" or any(not one.difference <= tolerance for one in self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        parts = {name: self.parts[name].to_dict() if name in self.parts else None for name in PARTS}
        more = {"reason": self.reason} if self.reason else {}
        asked = {"provider": self.provider, "options": dict(self.options)}
        return {**asked, "state": self.state, **more, **parts}


@dataclass
class Trials(Result):
    """What each provider gave, the CPU first.

    values      (providers, 2) float32: the largest relative difference of network and gradient; NaN where there is none
    trials      one each
    tolerance   from which difference on a provider counts as departing
    notes       what there is to say of all
    """

    trials: list[Trial]
    tolerance: float
    notes: list[str] = field(default_factory=list)

    @property
    def departing(self) -> list[str]:
        """The providers that give other numbers than the CPU, or failed."""
        return [one.provider for one in self.trials if one.departs(self.tolerance)]

    def table(self) -> Columns:
        """A row for each provider and part."""
        rows: list[dict[str, Any]] = []
        for one in self.trials:
            for name in PARTS:
                row = one.parts[name].to_dict() if name in one.parts else {}
                row |= {key: sum(row[key].values()) for key in ("nodes", "left") if key in row}
                row |= {"provider": one.provider, "part": name, "state": one.state, "reason": one.reason}
                rows.append(row)
        names = ("provider", "part", "state", "reason", "nodes", "left", "difference", "seconds", "times")
        return {name: [row.get(name) for row in rows] for name in names}

    def lines(self) -> list[str]:
        """A table for the eye."""
        width = max(len("provider"), *(len(one.provider) for one in self.trials))
        lines = [f"{'provider'.ljust(width)}  part      difference  ms      over CPU  nodes"]
        for one in self.trials:
            if one.state != "ran":
                lines.append(f"{one.provider.ljust(width)}  {one.state}: {printable(one.reason, 300)}")
            for name, part in one.parts.items():
                mark = "" if part.difference <= self.tolerance else "  DEPARTS"
                lines.append(
                    f"{one.provider.ljust(width)}  {name:8}  {part.difference:<10.1e}  {part.seconds * 1e3:<6.1f}  "
                    f"{part.times:<8.2f}  {_nodes(part)}{mark}".rstrip()
                )
        return lines


def _nodes(part: Part) -> str:
    own = {name: sum(counts.values()) for name, counts in part.placed.items() if name != installed.CPU}
    left = sorted(part.left().items(), key=lambda one: -one[1])
    told = [str(sum(own.values()))] if own else []
    if left:
        more = ", …" if len(left) > _MOST_OPERATORS else ""
        named = ", ".join(f"{count} {name}" for name, count in left[:_MOST_OPERATORS])
        told.append(f"{sum(count for _, count in left)} on the CPU ({named}{more})")
    return ", ".join(told)


@recorded
def providers(
    net: Network,
    image: Any = None,
    *,
    tolerance: float = TOLERANCE,
    runs: int = 5,
    progress: Shown = "auto",
) -> Trials:
    """Run the network and its gradient on every provider that is installed, and hold them against the CPU.

    A provider that crashes or refuses is a row that says so. Of a classifier the class scores before softmax are
    compared, and the gradient of the highest; of others the first output, and the gradient of half its square.

    image       a picture (a path, PIL image or array); None: noise
    tolerance   the largest difference from the CPU, over its largest number, that is no departure
    runs        of each, for the time: the fastest counts
    returns     the CPU's row first, then each other provider's; of a network that was opened on one, that alone
    raises      UsageError; ProviderUnavailable where that one refuses; what the network raises on the CPU itself
    """
    runs = at_least("runs", runs)
    if not tolerance >= 0:
        raise UsageError(f"tolerance must be at least 0, got {tolerance!r}")
    report = told(progress)
    x = net.samples()[:1] if image is None else net.prepare(image)
    if len(x) != 1:
        raise UsageError(f"providers takes one picture, got {len(x)}")
    certain = installed.parted(net.provider)[0] != "auto"
    names = [net.provider] if certain else [one for one in installed.available() if one != "cpu"]
    names = [one for one in names if installed.name(one) != installed.CPU]
    notes: list[str] = []
    with on(net, "cpu") as cpu:
        reference = Reference.of(cpu, x, runs, notes)
        trials = [reference.trial("cpu", reference.ran)]
        report(1, len(names) + 1, "providers")
        for done, name in enumerate(names, 2):
            trials.append(reference.on(cpu, name, runs))
            if certain and trials[-1].state == "refused":
                raise ProviderUnavailable(trials[-1].reason)
            report(done, len(names) + 1, "providers")
    if not names:
        notes.append("no other provider is installed here than the CPU: `onnxviz doctor` lists them")
    differences = [[one.parts[n].difference if n in one.parts else math.nan for n in PARTS] for one in trials]
    manifest = net.manifest("providers", tolerance=tolerance, runs=runs)
    return Trials(np.array(differences, np.float32), manifest, trials, tolerance, notes)


@dataclass(frozen=True)
class Ran:
    """One of the two on a provider: what it gave, where its nodes were, and how long it took."""

    values: np.ndarray
    placed: Mapping[str, Mapping[str, int]]
    seconds: float


@dataclass(frozen=True)
class Reference:
    """What the CPU gives for one picture.

    x           the network's input tensor
    layer       the value that is compared
    objective   what is differentiated; None where there is no gradient
    ran         by part, what the CPU gave
    """

    x: np.ndarray
    layer: str
    objective: Objective | None
    ran: Mapping[str, Ran]

    @classmethod
    def of(cls, cpu: Network, x: np.ndarray, runs: int = 1, notes: list[str] | None = None) -> Reference:
        """Of a network on the CPU; what has no gradient is told in `notes`.

        raises   what the network raises
        """
        try:
            layer = cpu.logits
        except ModelUnsuitable:
            outputs = cpu.model.graph.outputs
            layer = next(
                str(one.name) for one in outputs if one.dtype is None or one.dtype.is_floating_point()
            )
            found = cls(x, layer, objectives.layer(layer), {})
        else:
            scores = cpu.run(x, [layer])[layer]
            found = cls(x, layer, objectives.logit(int(np.argmax(scores.reshape(-1)))), {})
        try:
            return replace(found, ran=found.run(cpu, runs))
        except (UnsupportedOperator, ModelUnsuitable, GradientNotFinite) as reason:
            if notes is not None:
                notes.append(f"no gradient is compared: {reason}")
            found = replace(found, objective=None)
            return replace(found, ran=found.run(cpu, runs))

    def run(self, net: Network, runs: int = 1) -> dict[str, Ran]:
        """The network, and its gradient, wherever `net` runs."""
        program = net.program([self.layer])
        fed = {net.input.name: filled(self.x, net.batched[1] or 1)}
        arrays, seconds = _fastest(lambda: program(fed, [self.layer]), runs)
        found = {"network": Ran(arrays[self.layer], program.placed, seconds)}
        if self.objective is not None:
            gradients = net.gradients(self.objective)
            arrays, seconds = _fastest(lambda: gradients(self.x), runs)
            name = f"{net.input.name}.gradient"
            found["gradient"] = Ran(arrays[name], gradients.placed, seconds)
        return found

    def on(self, net: Network, provider: str, runs: int = 1) -> Trial:
        """The same on another provider; whatever goes wrong there is told."""
        try:
            with on(net, provider) as there:
                return self.trial(provider, self.run(there, runs))
        except OnnxVizError as error:
            name, options = installed.parted(provider)
            state = "refused" if isinstance(error, ProviderUnavailable) else "failed"
            return Trial(name, options, state=state, reason=str(error))

    def trial(self, provider: str, ran: Mapping[str, Ran]) -> Trial:
        """What was run, held against the CPU."""
        name, options = installed.parted(provider)
        parts = {}
        for part, one in ran.items():
            cpu = self.ran[part]
            times = one.seconds / max(cpu.seconds, 1e-9)
            parts[part] = Part(one.placed, apart(cpu.values, one.values), one.seconds, times)
        return Trial(name, options, parts)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two arrays over the largest number of the first; infinite where one is not finite."""
    if one.shape != other.shape or not np.isfinite(other).all() or not np.isfinite(one).all():
        return 0.0 if np.array_equal(one, other, equal_nan=True) else math.inf
    difference = float(np.abs(one.astype(np.float64) - other).max(initial=0))
    largest = float(np.abs(one).max(initial=0))
    return difference / largest if largest else (0.0 if difference == 0 else math.inf)


def _fastest(run: Callable[[], dict[str, np.ndarray]], runs: int) -> tuple[dict[str, np.ndarray], float]:
    """What it gives, and the seconds of the fastest run; the first, which may compile, does not count."""
    arrays, best = run(), math.inf
    for _ in range(runs):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return arrays, best
