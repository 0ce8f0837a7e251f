"""Operators that run through time or hold graphs: recurrent layers, If, Loop, Scan; sequences and optional values.

A sequence is a Python list of tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, Ints, enter, numbers, operator, single, torch_type

Run = Callable[..., list[Any]]


def _results(found: Sequence[Any]) -> Any:
    return found[0] if len(found) == 1 else tuple(found)


@operator("If")
def if_(condition: Any, *, then_branch: Any, else_branch: Any, run: Run) -> Any:
    """One of two graphs."""
    return _results(run(then_branch if bool(single(condition)) else else_branch, []))


@operator("Loop")
def loop(trips: Any, condition: Any, *carried: Any, body: Any, run: Run) -> Any:
    """A graph again and again: its carried values, then what it gave each time, stacked."""
    most = None if trips is None else int(single(trips))
    going = True if condition is None else bool(single(condition))
    values = list(carried)
    scanned: list[list[Any]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    i = 0
    while going and (most is None or i < most):
        found = run(body, [torch.tensor(i), torch.tensor(going), *values])
        going = bool(single(found[0]))
        values = found[1 : 1 + len(carried)]
        for rows, row in zip(scanned, found[1 + len(carried) :], strict=True):
            rows.append(row)
        i += 1
    stacked = [_stacked(rows, value) for rows, value in zip(scanned, _last(body, scanned), strict=True)]
    return _results([*values, *stacked])


def _last(body: Any, scanned: list[list[Any]]) -> list[Any]:
    return list(body.outputs)[len(body.outputs) - len(scanned) :]


def _stacked(rows: list[Any], declared: Any, axis: int = 0) -> Any:
    """What a graph gave each time, along a new axis; of the declared shape where it never ran."""
    if rows:
        return torch.stack(rows, axis)
    inner = [d if isinstance(d, int) else 0 for d in declared.shape or ()]
    kind = torch.float32 if declared.dtype is None else torch_type(declared.dtype)
    return torch.zeros([0, *inner], dtype=kind)


@operator("Scan")
def scan(
    *inputs: Any, body: Any, num_scan_inputs: int, run: Run, scan_input_axes: Ints = None,
    scan_input_directions: Ints = None, scan_output_axes: Ints = None, scan_output_directions: Ints = None,
) -> Any:  # fmt: skip
    """A graph over the entries of its last inputs, the first ones being carried."""
    carried = list(inputs[: len(inputs) - num_scan_inputs])
    swept = inputs[len(inputs) - num_scan_inputs :]
    axes = list(scan_input_axes or [0] * num_scan_inputs)
    backwards = list(scan_input_directions or [0] * num_scan_inputs)
    rows = [x.movedim(axis, 0) for x, axis in zip(swept, axes, strict=True)]
    rows = [x.flip(0) if b else x for x, b in zip(rows, backwards, strict=True)]
    count = len(body.outputs) - len(carried)
    found: list[list[Any]] = [[] for _ in range(count)]
    for i in range(rows[0].shape[0]):
        values = run(body, [*carried, *(x[i] for x in rows)])
        carried = values[: len(carried)]
        for parts, value in zip(found, values[len(carried) :], strict=True):
            parts.append(value)
    out_axes = list(scan_output_axes or [0] * count)
    out_backwards = list(scan_output_directions or [0] * count)
    given = []
    for parts, axis, back, declared in zip(found, out_axes, out_backwards, _last(body, found), strict=True):
        given.append(_stacked(parts[::-1] if back else parts, declared, axis))
    return _results([*carried, *given])


# --- recurrent layers, step by step, so that every form of the standard is one loop ---------------

Cell = Callable[..., tuple[Any, ...]]
"""(x at one time, *states) -> the new states, the first of which is what is given out."""

# Name -> the function of (alpha, beta, x), and the defaults of alpha and beta where it takes them.
_ACTIVATIONS: dict[str, tuple[Callable[[Any, Any, Any], Any], tuple[float, ...]]] = {
    "sigmoid": (lambda a, b, x: torch.sigmoid(x), ()),
    "tanh": (lambda a, b, x: torch.tanh(x), ()),
    "relu": (lambda a, b, x: torch.relu(x), ()),
    "softplus": (lambda a, b, x: F.softplus(x), ()),
    "softsign": (lambda a, b, x: F.softsign(x), ()),
    "affine": (lambda a, b, x: a * x + b, (1.0, 0.0)),
    "leakyrelu": (lambda a, b, x: F.leaky_relu(x, a), (0.01,)),
    "thresholdedrelu": (lambda a, b, x: torch.where(x > a, x, torch.zeros_like(x)), (1.0,)),
    "scaledtanh": (lambda a, b, x: a * torch.tanh(b * x), (1.0, 1.0)),
    "hardsigmoid": (lambda a, b, x: torch.clamp(a * x + b, 0.0, 1.0), (0.2, 0.5)),
    "elu": (lambda a, b, x: F.elu(x, a), (1.0,)),
}


def _functions(
    chosen: Sequence[str], usual: int, count: int, alphas: Ints, betas: Ints
) -> list[list[Callable[[Any], Any]]]:
    """The activations of each direction. alpha and beta go to those functions that take them, in order."""
    names = [name.lower() for name in (chosen if len(chosen) != usual else [*chosen] * count)]
    given = [list(alphas or ()), list(betas or ())]
    made: list[Callable[[Any], Any]] = []
    for name in names:
        if name not in _ACTIVATIONS:
            raise CannotRun(f"has the activation {name!r}")
        function, defaults = _ACTIVATIONS[name]
        own = [rest.pop(0) if rest else default for rest, default in zip(given, defaults, strict=False)]
        made.append(functools.partial(function, *(*own, None, None)[:2]))
    return [made[i * usual : (i + 1) * usual] for i in range(count)]


def _rnn(f: Any, w: Any, r: Any, wb: Any, rb: Any, p: Any, limit: Any, flag: int) -> Cell:
    """h = f(xW + hR + b)."""
    return lambda x, h: (f[0](limit(x @ w + wb + h @ r + rb)),)


def _gru(f: Any, w: Any, r: Any, wb: Any, rb: Any, p: Any, limit: Any, linear_before_reset: int) -> Cell:
    """Gates in the order update, reset, hidden."""
    size = r.shape[0]

    def cell(x: Any, h: Any) -> tuple[Any, ...]:
        given = x @ w + wb
        kept = h @ r[:, : 2 * size] + rb[: 2 * size]
        update, reset = f[0](limit(given[:, : 2 * size] + kept)).chunk(2, 1)
        if linear_before_reset:
            inner = reset * (h @ r[:, 2 * size :] + rb[2 * size :])
        else:
            inner = (reset * h) @ r[:, 2 * size :] + rb[2 * size :]
        new = f[1](limit(given[:, 2 * size :] + inner))
        return ((1 - update) * new + update * h,)

    return cell


def _lstm(f: Any, w: Any, r: Any, wb: Any, rb: Any, p: Any, limit: Any, input_forget: int) -> Cell:
    """Gates in the order input, output, forget, cell; p holds the peepholes of the first three."""
    peep_i, peep_o, peep_f = p.chunk(3) if p is not None else (0.0, 0.0, 0.0)

    def cell(x: Any, h: Any, c: Any) -> tuple[Any, ...]:
        i, o, forget, new = (x @ w + wb + h @ r + rb).chunk(4, 1)
        i = f[0](limit(i + peep_i * c))
        forget = 1 - i if input_forget else f[0](limit(forget + peep_f * c))
        c = forget * c + i * f[1](limit(new))
        o = f[0](limit(o + peep_o * c))
        return o * f[2](c), c

    return cell


def _recurrent(name: str, cell: Callable[..., Cell], usual: Sequence[str]) -> None:
    """Enter a recurrent layer.

    x (time, batch, features) or, with layout 1, batch first; the directions of a bidirectional layer have their own
    weights, stacked on the first axis.
    """

    @operator(name)
    def layer(
        x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, initial_h: Any = None, initial_c: Any = None,
        p: Any = None, *, outputs: int, activation_alpha: Any = None, activation_beta: Any = None,
        activations: Sequence[str] | None = None, clip: float = 0.0, direction: str = "forward",
        hidden_size: int | None = None, input_forget: int = 0, layout: int = 0, linear_before_reset: int = 0,
    ) -> Any:  # fmt: skip
        functions = _functions(
            activations or usual, len(usual), w.shape[0], activation_alpha, activation_beta
        )
        states = [initial_h, initial_c] if name == "LSTM" else [initial_h]

        def limit(v: Any) -> Any:
            return torch.clamp(v, -clip, clip) if clip else v

        def step(d: int) -> Cell:
            biases = (w.new_zeros(w.shape[1]),) * 2 if b is None else b[d].chunk(2)
            peepholes = None if p is None else p[d]
            return cell(
                functions[d], w[d].T, r[d].T, *biases, peepholes, limit, input_forget or linear_before_reset
            )

        return _walk(x, lengths, states, r.shape[-1], direction, layout, outputs, step)


def _walk(
    x: Any, lengths: Any, states: Sequence[Any], hidden: int, direction: str, layout: int, outputs: int,
    step: Callable[[int], Cell],
) -> Any:  # fmt: skip
    """Run every direction over time. Beyond a sequence's end its states stay, and its outputs are 0.

    states   the initial states, (directions, batch, hidden) each or None
    step     direction -> its cell
    """
    x = x.movedim(0, 1) if layout else x
    time, batch = x.shape[:2]
    ends = torch.full((batch,), time, device=x.device) if lengths is None else lengths.to(x.device)
    all_outputs, finals = [], []
    for d in range(2 if direction == "bidirectional" else 1):
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


_recurrent("RNN", _rnn, ["Tanh"])
_recurrent("GRU", _gru, ["Sigmoid", "Tanh"])
_recurrent("LSTM", _lstm, ["Sigmoid", "Tanh", "Tanh"])


# --- sequences and optional values ----------------------------------------------------------------


@operator("SequenceInsert")
def sequence_insert(xs: Any, x: Any, position: Any = None) -> Any:
    """With one more, at the end or before a place."""
    place = len(xs) if position is None else int(single(position))
    place = place + len(xs) if place < 0 else place
    return [*xs[:place], x, *xs[place:]]


@operator("SequenceErase")
def sequence_erase(xs: Any, position: Any = None) -> Any:
    """Without one: the last or the one at a place."""
    place = (-1 if position is None else int(single(position))) % len(xs)
    return [*xs[:place], *xs[place + 1 :]]


@operator("SplitToSequence")
def split_to_sequence(x: Any, split: Any = None, *, axis: int = 0, keepdims: int = 1) -> Any:
    """Parts along an axis; single entries where no lengths are given."""
    if split is None:
        parts = list(x.split(1, axis))
        return parts if keepdims else [p.squeeze(axis) for p in parts]
    return list(x.split(numbers(split) if split.ndim else int(single(split)), axis))


@operator("SequenceMap")
def sequence_map(xs: Any, *others: Any, body: Any, run: Run) -> Any:
    """A graph over the entries of sequences; tensors beside them are given to each."""
    rows = [run(body, [x, *(o[i] if isinstance(o, list) else o for o in others)]) for i, x in enumerate(xs)]
    return _results([list(column) for column in zip(*rows, strict=True)] or [[] for _ in body.outputs])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "SequenceEmpty": lambda *, dtype=1: [],
    "SequenceConstruct": lambda *xs: list(xs),
    "SequenceAt": lambda xs, position: xs[int(single(position))],
    "SequenceLength": lambda xs: torch.tensor(len(xs)),
    "ConcatFromSequence": lambda xs, *, axis, new_axis=0: (torch.stack if new_axis else torch.cat)(xs, axis),
    "Optional": lambda x=None, *, type=None: x,
    "OptionalHasElement": lambda x=None: torch.tensor(x is not None),
    "OptionalGetElement": lambda x: x,
}
enter(_FUNCTIONS)
