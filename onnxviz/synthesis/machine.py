"""The compiled step and its loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import isolate
from onnxviz.errors import GradientNotFinite, LimitExceeded, UsageError, WorkerCrashed
from onnxviz.image.front import centre
from onnxviz.objectives import LOGITS
from onnxviz.synthesis.parametrise import Parametrisation, Pixels
from onnxviz.synthesis.step import (
    GRADIENT,
    NORM,
    PARAMETERS,
    PICTURE,
    Plan,
    fitted,
    picture_model,
    step_model,
)
from onnxviz.synthesis.transforms import Transform
from onnxviz.synthesis.updates import Rule

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.network import Network
    from onnxviz.objectives import Objective
    from onnxviz.runtime.ort import Program, Resident

# So often an isolated network's parameters are copied here, in case that its process dies.
_SAVED: Final = 3.0


@dataclass(frozen=True)
class Step:
    """One step of a loop.

    index     from 0
    value     (N,) the objective of each picture, before this step's update
    terms     each term's weighted value, (N,), by its label
    norm      (N,) the Euclidean norm of the gradient by the parameters
    seconds   since the loop began
    """

    index: int
    value: np.ndarray
    terms: dict[str, np.ndarray]
    norm: np.ndarray
    seconds: float
    _machine: Machine = field(repr=False)
    _parameters: np.ndarray | None = field(repr=False, default=None)

    def pictures(self) -> np.ndarray:
        """(N, H, W, 3) float32, 0 to 1: what the value was measured on. Ask before the next step is taken."""
        return self._machine.pictures(self.parameters())

    def parameters(self) -> np.ndarray:
        """A copy of the parameters that the value was measured on. Ask before the next step is taken."""
        if self._parameters is not None:
            return self._parameters
        return self._machine.parameters(back=1)


class Machine:
    """Pictures, transforms, network, objective, gradient and update as one program.

    net           the network
    objective     what is maximised, summed over the pictures
    size          (height, width) of the pictures in pixels; None: the network's own
    count         how many pictures at once
    parametrise   Pixels() or Fourier(); None: Pixels()
    transforms    what each picture goes through, in this order
    draws         how many differently transformed views of each picture a step sees
    optimiser     Adam() or Ascent(); None: no update, for `lbfgs` and `value_and_gradient`
    regularise    what is done to the parameters after each update (updates.py), in this order
    prune         the percentage of pixels whose gradient, the smallest, is cleared before the update
    raises        UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable, UnsupportedOperator
    """

    def __init__(
        self,
        net: Network,
        objective: Objective,
        *,
        size: tuple[int, int] | None = None,
        count: int = 1,
        parametrise: Parametrisation | None = None,
        transforms: Sequence[Transform] = (),
        draws: int = 1,
        optimiser: Any = None,
        regularise: Sequence[Rule] = (),
        prune: float = 0.0,
    ) -> None:
        if count < 1 or draws < 1 or min(size or (1, 1)) < 1:
            raise UsageError(f"count {count}, draws {draws}, size {size}: expected 1 or more of each")
        height, width = size or net.size
        self.net = net
        self.objective = objective
        self.optimiser = optimiser
        self.regularise = tuple(regularise)
        net.preprocessing.require_pictures("this technique")
        self.centre = centre(net.preprocessing)
        made, seen = parametrise or Pixels(), tuple(transforms)
        self.plan = Plan(count, height, width, made, seen, draws, prune, len(self.centre))
        self._programs: dict[str, Program] = {}
        self._model: ir.Model | None = None
        self._show: Program | None = None
        self._resident: Resident | None = None
        self._kept: np.ndarray | None = None
        names = [term.label for _, term in objective.terms]
        self._labels = [f"{i}: {name}" if names.count(name) > 1 else name for i, name in enumerate(names)]
        with isolate.on(net.worker):
            self._program()

    # --- the loops ------------------------------------------------------------------------------

    def run(
        self,
        steps: int,
        *,
        seed: int = 0,
        start: np.ndarray | None = None,
        fed: Mapping[str, np.ndarray] | None = None,
        redirected: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> Iterator[Step]:
        """Take so many steps, each given out as it is done.

        seed         of the start and of every draw. A picture starts by its own number and the seed, and all go through
                     the same transforms, so that each comes out as it does alone
        start        pictures (N, H, W, 3), 0 to 1, to start from; None: what the parametrisation starts from
        fed          what the objective takes at run time; an array with one entry a picture is repeated for the draws
        redirected   so many first steps use the redirected rules of ReLU (lucid)
        numbers      each picture's number; None: from 0
        raises       GradientNotFinite at the first step whose value or gradient is not finite; `pictures()` then gives
                     those of the step before. WorkerCrashed, LimitExceeded or KeyboardInterrupt, where an isolated
                     network's process was ended: `pictures()` then gives those of some seconds before
        """
        from onnxviz.runtime.ort import Resident

        if self.optimiser is None:
            raise UsageError("this machine has no optimiser: give one, or use `lbfgs`")
        program = self._program()
        parameters, rng = self._begin(seed, start, numbers)
        empty = {name: np.zeros_like(parameters) for name in self.optimiser.state}
        state = {PARAMETERS: parameters, **empty}
        resident = self._resident = Resident(program, state, self._results())
        self._kept = None
        given = self.given(fed or {})
        began = saved = time.perf_counter()
        for index in range(steps):
            scalars = self.optimiser.scalars(index).items()
            feeds = given | self.plan.feeds(rng) | {name: np.asarray(v, np.float32) for name, v in scalars}
            now = self._program("redirected") if index < redirected else program
            try:
                arrays = resident.run(
                    {name: array for name, array in feeds.items() if name in now.inputs}, now
                )
                self._check(arrays, index)
                self._regularised(resident, arrays, index)
                if self.net.worker is not None and time.perf_counter() - saved > _SAVED:
                    parameters, saved = resident.state(PARAMETERS), time.perf_counter()
            except (KeyboardInterrupt, LimitExceeded, WorkerCrashed):
                if resident.lost:
                    self._kept = parameters
                raise
            yield self._step(index, arrays, began)

    def lbfgs(self, steps: int, *, seed: int = 0, start: np.ndarray | None = None) -> Iterator[Step]:
        """The same by L-BFGS (scipy): every evaluation of the objective is a step. The pictures go on together.

        Draws of transforms are made once and kept, since the line search compares values. What stays after the loop is
        the best evaluation.

        raises   GradientNotFinite
        """
        from onnxviz.synthesis.updates import maximise

        first, rng = self._begin(seed, start, None)
        feeds = self.plan.feeds(rng)
        bounds = self.plan.parametrise.bounds(self.centre)
        limits = None
        if bounds is not None:
            low, high = (np.broadcast_to(b, first.shape).ravel().astype(np.float64) for b in bounds)
            limits = low, high
        results: dict[str, np.ndarray] = {}
        numbers = itertools.count()

        def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
            results.update(self.evaluate(x.astype(np.float32).reshape(first.shape), feeds))
            self._check(results, next(numbers))
            return float(results["value"].astype(np.float64).sum()), results[GRADIENT].ravel()

        began = time.perf_counter()
        best = -np.inf
        self._kept = first
        search = maximise(evaluate, first.ravel().astype(np.float64), steps=steps, bounds=limits)
        for index, (x, value) in enumerate(search):
            parameters = x.astype(np.float32).reshape(first.shape)
            if value > best:
                best, self._kept = value, parameters
            yield self._step(index, dict(results), began, parameters)

    def evaluate(self, parameters: np.ndarray, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One evaluation without an update: 'value' (N,), 'term.<i>', 'norm', and 'gradient' of the parameters' shape.

        feeds   as `given` and `plan.feeds` make them
        """
        program = self._program()
        known = {name: array for name, array in feeds.items() if name in program.inputs}
        return program({PARAMETERS: parameters, **known}, [*self._results(gradient=False), GRADIENT])

    def start(self, rng: np.random.Generator, pictures: np.ndarray | None = None) -> np.ndarray:
        """The parameters to start from: those of given pictures (N, H, W, 3), 0 to 1, or the parametrisation's own.

        raises   UsageError for pictures of another number or size
        """
        plan = self.plan
        if pictures is None:
            return plan.parametrise.start(rng, plan.count, plan.height, plan.width, self.centre)
        given = np.asarray(pictures, np.float32)
        given = given[None] if given.ndim == 3 else given
        if len(given) == 1 != plan.count:
            given = np.repeat(given, plan.count, axis=0)
        wanted = plan.count, plan.height, plan.width, 3
        if given.shape != wanted:
            raise UsageError(f"the pictures to start from have shape {given.shape}, expected {wanted}")
        if plan.planes == 1:
            from onnxviz.image.recipe import LUMA

            given = (given @ LUMA)[..., None]
        return plan.parametrise.parameters(given, self.centre)

    def _begin(
        self, seed: int, pictures: np.ndarray | None, numbers: Sequence[int] | None
    ) -> tuple[np.ndarray, np.random.Generator]:
        """The parameters to start from, and what transforms are drawn from: the same, whichever pictures these are."""
        rng, plan = np.random.default_rng(seed), self.plan
        if pictures is not None:
            return self.start(rng, pictures), rng

        def own(generator: np.random.Generator) -> np.ndarray:
            return plan.parametrise.start(generator, 1, plan.height, plan.width, self.centre)

        first = own(rng)  # picture 0 has the seed's own generator, and the transforms what follows in it
        numbers = range(plan.count) if numbers is None else numbers
        found = [own(np.random.default_rng([seed, number])) if number else first for number in numbers]
        return np.concatenate(found), rng

    def given(self, fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the objective is fed: an array with one entry a picture is repeated for the draws."""

        def ready(name: str, array: np.ndarray) -> np.ndarray:
            a_picture = array.ndim > 0 and len(array) == self.plan.count and not name.endswith(".gram")
            return np.concatenate([array] * self.plan.draws) if a_picture else array

        return {name: ready(name, np.asarray(values)) for name, values in fed.items()}

    # --- what comes out -------------------------------------------------------------------------

    def pictures(self, parameters: np.ndarray | None = None) -> np.ndarray:
        """(N, H, W, 3) float32, 0 to 1: of these parameters, or of the loop's last good ones."""
        if self._show is None:
            self._show = self._compiled(picture_model(self.net.preprocessing, self.plan))
        found = self._show({PARAMETERS: self.parameters() if parameters is None else parameters})
        return found[PICTURE]

    def parameters(self, back: int = 0) -> np.ndarray:
        """A copy of the loop's last good parameters, or of those of `back` steps ago (at most two).

        raises   UsageError before the first loop
        """
        if self._kept is not None:
            return self._kept
        if self._resident is None:
            raise UsageError("no loop was run yet")
        return self._resident.state(PARAMETERS, back)

    # --- inside ---------------------------------------------------------------------------------

    def _results(self, gradient: bool = True) -> list[str]:
        wanted = gradient and any(rule.needs_gradient for rule in self.regularise)
        terms = [f"term.{i}" for i in range(len(self.objective.terms))]
        return ["value", *terms, NORM, *([GRADIENT] if wanted else [])]

    def _step(
        self, index: int, arrays: Mapping[str, np.ndarray], began: float, parameters: np.ndarray | None = None
    ) -> Step:
        terms = {label: arrays[f"term.{i}"] for i, label in enumerate(self._labels)}
        seconds = time.perf_counter() - began
        return Step(index, arrays["value"], terms, arrays[NORM], seconds, self, parameters)

    def _check(self, arrays: Mapping[str, np.ndarray], index: int) -> None:
        bad = ~(np.isfinite(arrays["value"]) & np.isfinite(arrays[NORM]))
        if not bad.any():
            return
        if self._resident is not None and self._kept is None:
            # One run back lies what gave this; the one before it is known to be good.
            self._kept = self._resident.state(PARAMETERS, back=min(2, index + 1))
        raise GradientNotFinite(
            f"the objective or its gradient is not finite at step {index} for picture {int(np.argmax(bad))} "
            f"(both from 0): {self.objective}; the pictures of the step before are kept. Take a smaller rate, or "
            "another layer or target"
        )

    def _regularised(self, resident: Resident, arrays: Mapping[str, np.ndarray], index: int) -> None:
        due = [rule for rule in self.regularise if rule.due(index)]
        if not due:
            return
        parameters = resident.state(PARAMETERS)
        for rule in due:
            parameters = rule.apply(parameters, arrays.get(GRADIENT))
        resident.replace(PARAMETERS, parameters)

    def _program(self, rules: str = "plain") -> Program:
        """The step's program under these gradient rules (`grad.model.rules_named`), compiled at first use."""
        if rules not in self._programs:
            from onnxviz.grad.model import rules_named

            net, read = self.net, [term.layer for _, term in self.objective.terms]
            logits = net.logits if LOGITS in read else None
            if self._model is None:
                layers = [logits if name == LOGITS else name for name in read]
                self._model = fitted(net, self.plan, layers)
            model = step_model(
                self._model,
                net.input.name,
                net.preprocessing,
                self.objective,
                self.plan,
                logits=logits,
                update=self.optimiser,
                gradient=self.optimiser is None or any(rule.needs_gradient for rule in self.regularise),
                rules=rules_named(rules),
            )
            self._programs[rules] = self._compiled(model, steps=self.optimiser is not None)
        return self._programs[rules]

    def _compiled(self, model: ir.Model, *, steps: bool = False) -> Program:
        from onnxviz.programs import compile

        net = self.net
        return compile(
            model,
            provider=net.provider,
            threads=net.threads,
            seconds=net.limits.run_seconds,
            worker=net.worker,
            small=True,
            own=net.own,
            steps=steps,
        )
