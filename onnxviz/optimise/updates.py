"""The optimisers that are a part of the graph: parameters and state in, parameters and state out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from onnxviz.errors import UsageError

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
        if self.norm not in _NORMS:
            raise UsageError(f"norm {self.norm!r}: expected {', '.join(_NORMS)}")

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
        if self.norm == "mean":
            g = op.Div(g, op.Add(op.ReduceMean(op.Abs(g), axes), _LEAST))
        elif self.norm == "rms":
            g = op.Div(g, op.Add(op.Sqrt(op.ReduceMean(op.Mul(g, g), axes)), _LEAST))
        elif self.norm == "l2":
            g = op.Div(g, op.Add(op.ReduceL2(g, axes), _LEAST))
        elif self.norm == "progress":
            square = op.Add(op.ReduceSumSquare(g, axes), _LEAST)
            share = op.Min(op.Div(fed["rate"], square), self.most)
            return op.Add(x, op.Mul(g, share)), []
        if not self.momentum:
            return op.Add(x, op.Mul(g, fed["rate"])), []
        velocity = op.Add(op.Mul(state[0], self.momentum), g)
        return op.Add(x, op.Mul(velocity, fed["rate"])), [velocity]


# Keeps a gradient of zero from becoming NaN; the smallest gradients of real networks are far above.
_LEAST = 1e-20
