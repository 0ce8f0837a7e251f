"""Recurrent layers, step by step, so that every form of the standard is one loop.

x (time, batch, features) or, with layout 1, batch first; the directions of a bidirectional layer have their own
weights, stacked on the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, operator

Step = Callable[..., tuple[Any, ...]]


def _activation(name: str, alpha: float | None, beta: float | None) -> Callable[[Any], Any]:
    def either(value: float | None, usual: float) -> float:
        return usual if value is None else value

    known: dict[str, Callable[[Any], Any]] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softplus": F.softplus,
        "softsign": F.softsign,
        "affine": lambda x: either(alpha, 1.0) * x + either(beta, 0.0),
        "leakyrelu": lambda x: F.leaky_relu(x, either(alpha, 0.01)),
        "thresholdedrelu": lambda x: torch.where(x > either(alpha, 1.0), x, torch.zeros_like(x)),
        "scaledtanh": lambda x: either(alpha, 1.0) * torch.tanh(either(beta, 1.0) * x),
        "hardsigmoid": lambda x: torch.clamp(either(alpha, 0.2) * x + either(beta, 0.5), 0.0, 1.0),
        "elu": lambda x: F.elu(x, either(alpha, 1.0)),
    }
    if name.lower() not in known:
        raise CannotRun(f"has the activation {name!r}")
    return known[name.lower()]


def _functions(
    names: Sequence[str] | None, usual: Sequence[str], count: int, alphas: Any, betas: Any
) -> list[list[Callable[[Any], Any]]]:
    """The activations of each direction. alpha and beta go to those functions that take them, in order."""
    chosen = list(names or usual)
    if len(chosen) == len(usual):
        chosen = chosen * count
    first, second = list(alphas or []), list(betas or [])
    takes_alpha = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
    takes_beta = {"affine", "scaledtanh", "hardsigmoid"}
    made = []
    for name in chosen:
        alpha = first.pop(0) if first and name.lower() in takes_alpha else None
        beta = second.pop(0) if second and name.lower() in takes_beta else None
        made.append(_activation(name, alpha, beta))
    size = len(usual)
    return [made[i * size : (i + 1) * size] for i in range(count)]


def _walk(
    x: Any,
    lengths: Any,
    states: Sequence[Any],
    hidden: int,
    direction: str,
    layout: int,
    outputs: int,
    step: Callable[[int], Callable[..., tuple[Any, ...]]],
) -> Any:
    """Run every direction over time. Beyond a sequence's end its states stay, and its outputs are 0.

    states   the initial states, (directions, batch, hidden) each or None; the first is what is given out
    step     direction -> (x at one time, *states) -> the new states
    """
    x = x.movedim(0, 1) if layout else x
    time, batch = x.shape[:2]
    count = 2 if direction == "bidirectional" else 1
    ends = torch.full((batch,), time, device=x.device) if lengths is None else lengths.to(x.device)
    all_outputs, finals = [], []
    for d in range(count):
        backwards = direction == "reverse" or d == 1
        function = step(d)
        now = [x.new_zeros((batch, hidden)) if s is None else (s[:, d] if layout else s[d]) for s in states]
        found: list[Any] = [None] * time
        for t in range(time - 1, -1, -1) if backwards else range(time):
            alive = (t < ends)[:, None]
            new = function(x[t], *now)
            now = [torch.where(alive, a, b) for a, b in zip(new, now, strict=True)]
            found[t] = torch.where(alive, now[0], torch.zeros_like(now[0]))
        all_outputs.append(torch.stack(found) if found else x.new_zeros((0, batch, hidden)))
        finals.append(now)
    y = torch.stack(all_outputs, 1)  # (time, directions, batch, hidden)
    last = [torch.stack(parts) for parts in zip(*finals, strict=True)]  # (directions, batch, hidden)
    if layout:
        y, last = y.permute(2, 0, 1, 3), [s.movedim(0, 1) for s in last]
    return (y, *last)[:outputs] if outputs > 1 else y


def _weights(w: Any, r: Any, b: Any, d: int) -> tuple[Any, Any, Any, Any]:
    if b is None:
        zeros = w.new_zeros(w.shape[1])
        return w[d].T, r[d].T, zeros, zeros
    return w[d].T, r[d].T, *b[d].chunk(2)


def _clipped(clip: float | None) -> Callable[[Any], Any]:
    return (lambda v: v) if not clip else (lambda v: torch.clamp(v, -clip, clip))


@operator("RNN")
def rnn(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    initial_h: Any = None,
    *,
    outputs: int,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> Any:
    """h = f(xW + hR + b)."""
    functions = _functions(activations, ["Tanh"], w.shape[0], activation_alpha, activation_beta)
    limit = _clipped(clip)

    def step(d: int) -> Step:
        to, back, wb, rb = _weights(w, r, b, d)
        return lambda at, h: (functions[d][0](limit(at @ to + wb + h @ back + rb)),)

    return _walk(x, lengths, [initial_h], r.shape[-1], direction, layout, outputs, step)


@operator("GRU")
def gru(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    initial_h: Any = None,
    *,
    outputs: int,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> Any:
    """Gates in the order update, reset, hidden."""
    functions = _functions(activations, ["Sigmoid", "Tanh"], w.shape[0], activation_alpha, activation_beta)
    limit = _clipped(clip)

    def step(d: int) -> Step:
        to, back, wb, rb = _weights(w, r, b, d)
        f, g = functions[d]
        size = back.shape[0]

        def one(at: Any, h: Any) -> tuple[Any, ...]:
            given = at @ to + wb
            kept = h @ back[:, : 2 * size] + rb[: 2 * size]
            update, reset = f(limit(given[:, : 2 * size] + kept)).chunk(2, 1)
            if linear_before_reset:
                inner = reset * (h @ back[:, 2 * size :] + rb[2 * size :])
            else:
                inner = (reset * h) @ back[:, 2 * size :] + rb[2 * size :]
            new = g(limit(given[:, 2 * size :] + inner))
            return ((1 - update) * new + update * h,)

        return one

    return _walk(x, lengths, [initial_h], r.shape[-1], direction, layout, outputs, step)


@operator("LSTM")
def lstm(
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    initial_h: Any = None,
    initial_c: Any = None,
    p: Any = None,
    *,
    outputs: int,
    activation_alpha: Any = None,
    activation_beta: Any = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> Any:
    """Gates in the order input, output, forget, cell; p holds the peepholes of the first three."""
    functions = _functions(
        activations, ["Sigmoid", "Tanh", "Tanh"], w.shape[0], activation_alpha, activation_beta
    )
    limit = _clipped(clip)

    def step(d: int) -> Step:
        to, back, wb, rb = _weights(w, r, b, d)
        f, g, h = functions[d]
        peep_i, peep_o, peep_f = p[d].chunk(3) if p is not None else (0.0, 0.0, 0.0)

        def one(at: Any, state: Any, cell: Any) -> tuple[Any, ...]:
            i, o, forget, c = (at @ to + wb + state @ back + rb).chunk(4, 1)
            i = f(limit(i + peep_i * cell))
            forget = 1 - i if input_forget else f(limit(forget + peep_f * cell))
            cell = forget * cell + i * g(limit(c))
            o = f(limit(o + peep_o * cell))
            return o * h(cell), cell

        return one

    return _walk(x, lengths, [initial_h, initial_c], r.shape[-1], direction, layout, outputs, step)
