"""Value and gradients of one objective on arrays: what every gradient technique runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxviz import isolate, programs
from onnxviz.backends.choose import Task, compile
from onnxviz.backends.native import SideBySide
from onnxviz.errors import GradientNotFinite, ModelFailed, RuntimeFailed, UsageError, judged, ways
from onnxviz.graph.layers import aliases
from onnxviz.progress import Progress, silent
from onnxviz.runtime import providers

if TYPE_CHECKING:
    from onnxviz.objectives import Objective
    from onnxviz.running import Running


class Gradients:
    """A function of the network's input that gives an objective, its gradients, and layers beside them.

    Made by `Network.gradients`.

    objective   what is differentiated
    sources     the value names that it is differentiated by
    also        the value names that are given out too
    rectifiers  how many rectifiers the rules acted on; None for the plain rules
    """

    def __init__(
        self,
        net: Running,
        objective: Objective,
        sources: Sequence[str],
        also: Sequence[str] = (),
        rules: str = "plain",
    ) -> None:
        from onnxviz.graph.float32 import real_input

        names = aliases(net.model)  # what a quantised file calls its layers besides
        self.objective = objective = objective.renamed(names)
        self.sources = tuple(dict.fromkeys(names.get(name, name) for name in sources))
        self.also = tuple(dict.fromkeys(names.get(name, name) for name in also))
        self._aliases = {name: names[name] for name in (*sources, *also) if name in names}
        self._net = net
        with judged(net.judge), isolate.on(net.worker):
            task = Task(
                model=real_input(net.batched[0], net.input.name),
                objective=objective,
                sources=self.sources,
                also=self.also,
                rules=rules,
                provider=net.provider,
                threads=net.threads,
                seconds=net.limits.run_seconds,
                worker=net.worker,
            )
            compiled = compile(task, net.backend)
        net.ran_on(compiled.backend, compiled.note)
        self._program = compiled.program
        self.rectifiers = compiled.program.rectifiers
        if self.rectifiers == 0:
            from onnxviz.graph.rectifiers import without_rectifiers

            net.warn(without_rectifiers(rules, self.sources))

    @property
    def placed(self) -> Mapping[str, Mapping[str, int]]:
        """By provider and operator, how many nodes it takes, where that is not the CPU; of the native backend."""
        return self._program.placed if isinstance(self._program, SideBySide) else {}

    def __call__(
        self,
        x: np.ndarray,
        fed: Mapping[str, np.ndarray] | None = None,
        *,
        batch: int | None = None,
        progress: Progress = silent,
    ) -> dict[str, np.ndarray]:
        """Run on the network's own input tensor.

        x         float32, one entry a picture
        fed       what the objective takes at run time; arrays of len(x) entries are cut into batches with x
        batch     pictures a run; None: what is fastest and fits the memory
        returns   'objective' (N,), '<source>.gradient' of the source's shape, and each of `also`; all float32
        raises    GradientNotFinite naming the first picture, UsageError for an objective that is not one value a
                  picture, LimitExceeded, ModelFailed where the network itself fails on such a run, RuntimeFailed where
                  only its gradient does
        """
        parts: dict[str, list[np.ndarray]] = {name: [] for name in self._program.outputs}
        done = 0
        for count, given, arrays in self._watched(self._runs(x, fed or {}, batch), x, batch):
            values = arrays["objective"].size
            if values != given:
                self._alone(x[done : done + count])
                alone = self._net.alone
                also = f", or give --batch {len(x)}" if alone is None else ""
                why = "" if alone is None else f" (images go through this network one at a time: {alone})"
                raise UsageError(
                    f"{self.objective} has {values} values for {given} pictures in a run{why}: what it is compared "
                    f"with does not follow the pictures; feed it at each call{also}"
                )
            for name, array in arrays.items():
                whole = self._net.pictures_first(name.removesuffix(".gradient"), array)
                parts[name].append(whole[:count])
            done += count
            progress(done, len(x), "images")
        found = {
            name: np.concatenate(arrays).astype(np.float32, copy=False) for name, arrays in parts.items()
        }
        self._check(found)
        for alias, name in self._aliases.items():
            ends = [end for end in ("", ".gradient") if f"{name}{end}" in found]
            found |= {f"{alias}{end}": found[f"{name}{end}"] for end in ends}
        return found

    def _watched(
        self, runs: Iterator[tuple[int, int, dict[str, np.ndarray]]], x: np.ndarray, batch: int | None
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """The runs; where one fails, the network alone is run on the same pictures, to see whose mistake it is."""
        done = 0

        def alone() -> None:
            self._alone(x[done : done + self._net.batch_size(batch)])

        try:
            with judged(alone):
                for run in runs:
                    yield run
                    done += run[0]
        except ModelFailed as failed:
            alone()
            raise RuntimeFailed(f"{failed}; but the network itself runs") from failed

    def _alone(self, pictures: np.ndarray) -> None:
        """Run the network by itself, for what is wrong with it: see `Network.run`."""
        fed = programs.filled(pictures, self._net.batched[1] or 1)
        self._net.require_rows(self._net.program()({self._net.input.name: fed}), len(fed))

    def _runs(
        self, x: np.ndarray, fed: Mapping[str, np.ndarray], batch: int | None
    ) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """Each run in turn: pictures that count, pictures given, what came out."""
        fixed = self._net.batched[1]
        alone = batch is None and fixed is None and providers.name(self._net.provider) == providers.CPU
        if alone and isinstance(self._program, SideBySide):
            size, workers = programs.GRADIENTS_ON_CPU, self._workers(len(x))
        else:
            size, workers = self._net.batch_size(batch), 1
        counts = [min(size, len(x) - start) for start in range(0, len(x), size)]
        feeds = (self._feeds(x, fed, start, size, fixed) for start in range(0, len(x), size))
        if workers > 1:
            assert isinstance(self._program, SideBySide)
            for count, arrays in zip(counts, self._program.each(feeds, workers), strict=True):
                yield count, count, arrays
        else:
            for count, one in zip(counts, feeds, strict=True):
                yield count, fixed or count, self._program(one)

    def _feeds(
        self, x: np.ndarray, fed: Mapping[str, np.ndarray], start: int, size: int, fixed: int | None
    ) -> dict[str, np.ndarray]:
        count = len(x[start : start + size])
        feeds: dict[str, np.ndarray] = {}
        for name, array in {self._net.input.name: x, **fed}.items():
            given = array[start : start + size] if len(array) == len(x) else array
            short = fixed is not None and len(given) == count < fixed
            feeds[name] = programs.filled(given, fixed) if fixed is not None and short else given
        return {name: array for name, array in feeds.items() if name in self._program.inputs}

    def _workers(self, count: int) -> int:
        """How many pictures go side by side: one a core, as far as memory holds what their gradients keep."""
        most = min(self._net.threads or programs.cores(), count)
        return 1 if most < 2 else min(most, programs.batch_size(2 * self._net.elements, most))

    def _check(self, found: Mapping[str, np.ndarray]) -> None:
        for name in ("objective", *(f"{source}.gradient" for source in self.sources)):
            bad = ~np.isfinite(found[name]).reshape(len(found[name]), -1).all(axis=1)
            if bad.any():
                odd = ", ".join(self._net.findings[:1])
                why = odd or "`onnxviz inspect` tells of weights that are NaN or infinite"
                what = "value" if name == "objective" else f"gradient by {name.removesuffix('.gradient')!r}"
                raise GradientNotFinite(
                    f"the {what} of {self.objective} is not finite for picture {int(np.argmax(bad))} (from 0) of "
                    f"{len(bad)}; {why}"
                    + ways("another --layer may avoid the operator that overflows", "another --target may")
                )
