"""How the numbers of a picture move: optimisers as a part of the graph, scipy's L-BFGS, and what follows an update."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UsageError, one_of

#: A number, or a function from the step number (from 0) to one.
Rate = float | Callable[[int], float]


def at(rate: Rate, step: int) -> float:
    """The rate at a step."""
    return float(rate(step)) if callable(rate) else float(rate)


@dataclass(frozen=True)
class Adam:
    """Kingma & Ba 2015, as torch computes it (but upwards)."""

    rate: Rate = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    state: tuple[str, ...] = field(default=("first", "second"), init=False)

    def __post_init__(self) -> None:
        if not callable(self.rate) and not 0 < self.rate < float("inf"):
            raise UsageError(f"rate {self.rate:g}: expected a number over 0")

    def scalars(self, step: int) -> dict[str, float]:
        """What the update is fed at this step."""
        return {
            "rate": at(self.rate, step) / (1 - self.beta1 ** (step + 1)),
            "correction": (1 - self.beta2 ** (step + 1)) ** -0.5,
        }

    def append(self, op: Any, x: ir.Value, g: ir.Value, state: list[Any], fed: dict[str, Any]) -> Any:
        """(new x, [new first moment, new second moment])."""
        first = op.Add(op.Mul(state[0], self.beta1), op.Mul(g, 1 - self.beta1))
        second = op.Add(op.Mul(state[1], self.beta2), op.Mul(op.Mul(g, g), 1 - self.beta2))
        spread = op.Add(op.Mul(op.Sqrt(second), fed["correction"]), self.epsilon)
        return op.Add(x, op.Div(op.Mul(first, fed["rate"]), spread)), [first, second]


_NORMS = ("mean", "rms", "l2", "none", "progress")


@dataclass(frozen=True)
class Ascent:
    """A step along the gradient, of a length that its own size does not change.

    norm       what the gradient of each picture is divided by: 'mean' (of its magnitudes; DeepDream), 'rms', 'l2',
               'none', or 'progress': its square, so that the objective rises by `rate` to first order, but the factor
               of the gradient is at most `most` (Yosinski et al. 2015)
    momentum   the share of the last step that is kept
    """

    rate: Rate = 1.0
    norm: str = "mean"
    momentum: float = 0.0
    most: float = 100 / 255**2

    def __post_init__(self) -> None:
        one_of("norm", self.norm, _NORMS)

    @property
    def state(self) -> tuple[str, ...]:
        """What it remembers."""
        return ("velocity",) if self.momentum and self.norm != "progress" else ()

    def scalars(self, step: int) -> dict[str, float]:
        """What the update is fed at this step."""
        return {"rate": at(self.rate, step)}

    def append(self, op: Any, x: ir.Value, g: ir.Value, state: list[Any], fed: dict[str, Any]) -> Any:
        """(new x, [new velocity])."""
        axes = [1, 2, 3]
        if self.norm == "progress":
            square = op.Add(op.ReduceSumSquare(g, axes), _LEAST)
            share = op.Min(op.Div(fed["rate"], square), self.most)
            return op.Add(x, op.Mul(g, share)), []
        sizes = {
            "mean": lambda: op.ReduceMean(op.Abs(g), axes),
            "rms": lambda: op.Sqrt(op.ReduceMean(op.Mul(g, g), axes)),
            "l2": lambda: op.ReduceL2(g, axes),
        }
        step = op.Div(g, op.Add(sizes[self.norm](), _LEAST)) if self.norm in sizes else g
        step = op.Add(op.Mul(state[0], self.momentum), step) if self.momentum else step
        return op.Add(x, op.Mul(step, fed["rate"])), [step] if self.momentum else []


# Keeps a gradient of zero from becoming NaN; the smallest gradients of real networks are far above.
_LEAST = 1e-20


class Rule(ABC):
    """Something done to the parameters between two steps.

    needs_gradient   whether it looks at the gradient of the step
    """

    needs_gradient = False

    def due(self, step: int) -> bool:
        """Whether it is applied after this step."""
        return True

    @abstractmethod
    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """The new parameters, (N, 3, H, W); the given array is not changed."""


@dataclass(frozen=True)
class Decay(Rule):
    """Draw every pixel so much of its way towards the mean colour: L2 decay."""

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UsageError(f"decay {self.share:g}: expected 0 to 1, 1 not included")

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """(1 − share)·x."""
        return np.asarray(pictures * np.float32(1 - self.share))


@dataclass(frozen=True)
class Blurring(Rule):
    """A Gaussian blur of `sigma` pixels after every `every`-th step: high frequencies that nothing restores go."""

    sigma: float
    every: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 50 or self.every < 1:
            raise UsageError(
                f"blur of {self.sigma:g} pixels every {self.every} steps: expected over 0 to 50 pixels, every 1 or more"
            )

    def due(self, step: int) -> bool:
        """Every `every` steps."""
        return (step + 1) % self.every == 0

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """Along rows and columns; the edge is drawn out."""
        from scipy.ndimage import gaussian_filter

        return np.asarray(gaussian_filter(pictures, (0, 0, self.sigma, self.sigma), mode="nearest"))


@dataclass(frozen=True)
class SmallPixels(Rule):
    """Clear the `percent` % of pixels that are nearest to the mean colour. They stay free to grow."""

    percent: float
    what: ClassVar[str] = "small pixels"

    def __post_init__(self) -> None:
        if not 0 <= self.percent < 100:
            raise UsageError(f"{self.what}: {self.percent:g} %, expected 0 to 100, 100 not included")

    def measure(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """What is small, (N, 1, H, W)."""
        return np.asarray(np.linalg.norm(pictures, axis=1, keepdims=True))

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """Sets them to 0."""
        measure = self.measure(pictures, gradient)
        limit = np.percentile(measure, self.percent, axis=(1, 2, 3), keepdims=True)
        return np.where(measure < limit, np.float32(0), pictures).astype(np.float32, copy=False)


@dataclass(frozen=True)
class SmallContributions(SmallPixels):
    """Clear the `percent` % of pixels that matter least to the objective, to first order: |Σ x·∂/∂x| over colours.

    As the authors' own program (`px_abs_benefit_percentile`): what a pixel's colours do for and against cancels.
    """

    what = "small contributions"
    needs_gradient = True

    def measure(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """What is small, (N, 1, H, W)."""
        return np.abs((pictures * gradient).sum(axis=1, keepdims=True))


class _Stop(Exception):
    """Ends scipy's search from inside its own call."""


def maximise(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    *,
    steps: int,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> Iterator[tuple[np.ndarray, float]]:
    """Parameters and value of each evaluation, until `steps` of them or until nothing improves any more.

    evaluate   from parameters (flat, float64) to the value and its gradient (flat); called in the caller's thread, so
               that Ctrl-C and errors arise there
    start      flat, float64
    bounds     least and greatest value of each parameter, of start's shape; None: unbounded
    yields     (parameters, value); what an evaluation of the line search tried, so the value may fall between two
    """
    asked: queue.Queue[Any] = queue.Queue(1)
    answers: queue.Queue[Any] = queue.Queue(1)

    def ask(x: np.ndarray) -> tuple[float, np.ndarray]:
        asked.put(np.array(x))
        answer = answers.get()
        if answer is None:
            raise _Stop
        value, gradient = answer
        return -value, -np.asarray(gradient, np.float64)

    def search() -> None:
        from scipy.optimize import Bounds, minimize
        from threadpoolctl import threadpool_limits

        limits = None if bounds is None else Bounds(*bounds)
        # float32 gradients end the usual tests too early or never: the number of steps is the limit.
        options = {
            "maxcor": 10,
            "maxiter": steps,
            "maxfun": steps,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxls": 25,
        }
        try:
            # Threads of the linear algebra wait in a busy loop, beside ONNX Runtime's: on vectors this short that
            # costs ten times what it saves.
            with threadpool_limits(limits=1, user_api="blas"):
                minimize(ask, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)
        except _Stop:
            pass
        except BaseException as error:
            asked.put(error)
            return
        asked.put(None)

    worker = threading.Thread(target=search, name="L-BFGS", daemon=True)
    worker.start()
    done = 0
    waiting = False  # whether the worker waits for an answer
    try:
        while True:
            x = asked.get()
            if x is None:
                return
            if isinstance(x, BaseException):
                raise x
            waiting = True
            if done == steps:
                return
            value, gradient = evaluate(x)
            done += 1
            yield x, value
            answers.put((value, gradient))
            waiting = False
    finally:
        if waiting:
            answers.put(None)
        worker.join(timeout=5)
