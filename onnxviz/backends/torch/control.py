"""Operators that hold graphs, sequences and optional values. A sequence is a Python list of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from onnxviz.backends.torch.table import operator
from onnxviz.backends.torch.tensors import numbers, single, torch_type

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
    return _results(
        [*values, *(_stacked(rows, value) for rows, value in zip(scanned, _last(body, scanned), strict=True))]
    )


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
    *inputs: Any,
    body: Any,
    num_scan_inputs: int,
    run: Run,
    opset: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
    directions: Sequence[int] | None = None,
) -> Any:
    """A graph over the entries of its last inputs, the first ones being carried."""
    if opset < 9:
        return _scan_8(inputs, body, num_scan_inputs, run, directions)
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


def _scan_8(inputs: Sequence[Any], body: Any, count: int, run: Run, directions: Sequence[int] | None) -> Any:
    """The form of opset 8: lengths first, and a batch axis that is looped over."""
    lengths, rest = inputs[0], inputs[1:]
    images = []
    for b in range(rest[0].shape[0]):
        one = [x[b] for x in rest]
        if lengths is not None:
            end = numbers(lengths)[b]
            one = one[: len(one) - count] + [x[:end] for x in one[len(one) - count :]]
        found = scan(
            *one, body=body, num_scan_inputs=count, run=run, opset=9, scan_input_directions=directions
        )
        images.append(found if isinstance(found, tuple) else (found,))
    return _results([torch.stack(parts) for parts in zip(*images, strict=True)])


# --- sequences and optional values ----------------------------------------------------------------


@operator("SequenceEmpty")
def sequence_empty(*, dtype: int = 1) -> Any:
    """No tensors."""
    return []


@operator("SequenceConstruct")
def sequence_construct(*xs: Any) -> Any:
    """The inputs."""
    return list(xs)


@operator("SequenceAt")
def sequence_at(xs: Any, position: Any) -> Any:
    """One of them."""
    return xs[int(single(position))]


@operator("SequenceLength")
def sequence_length(xs: Any) -> Any:
    """How many."""
    return torch.tensor(len(xs))


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


@operator("ConcatFromSequence")
def concat_from_sequence(xs: Any, *, axis: int, new_axis: int = 0) -> Any:
    """One after the other, or along a new axis."""
    return torch.stack(xs, axis) if new_axis else torch.cat(xs, axis)


@operator("Optional")
def optional(x: Any = None, *, type: Any = None) -> Any:
    """The value, or nothing."""
    return x


@operator("OptionalHasElement")
def optional_has_element(x: Any = None) -> Any:
    """Whether there is a value."""
    return torch.tensor(x is not None)


@operator("OptionalGetElement")
def optional_get_element(x: Any) -> Any:
    """The value."""
    return x
