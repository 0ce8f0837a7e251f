"""Checking the fields of a recipe that a stranger's file or a command line gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from onnxviz.errors import PreprocessingRejected, UsageError, near, ways
from onnxviz.text import printable

#: Largest input, in pixels.
MOST_PIXELS: Final = 128_000_000
#: Largest picture that is made, in pixels.
MOST_MADE: Final = 1 << 26
#: The size that stands for each picture's own.
OWN_SIZE: Final = "own"


def check_made(height: int, width: int) -> None:
    """raises   UsageError for a picture of more pixels than anything can be made of"""
    if height * width > MOST_MADE:
        raise UsageError(
            f"a picture of {width}×{height} pixels is over {MOST_MADE} pixels" + ways("give a smaller --size")
        )


def choice(field: str, value: object, choices: Iterable[str]) -> None:
    """raises   PreprocessingRejected where `value` is none of `choices`"""
    if not isinstance(value, str) or value not in choices:
        hint = near(value, choices) if isinstance(value, str) else ""
        raise PreprocessingRejected(
            f"{field} {printable(repr(value), 60)}: expected {', '.join(choices)}{hint}"
        )


def number(field: str, value: object) -> float:
    """`value` as a float; raises PreprocessingRejected where it is no finite number."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise PreprocessingRejected(f"{field} {printable(repr(value), 60)}: expected a finite number")


def numbers(field: str, values: object, count: int) -> tuple[float, ...]:
    """One number a channel; one alone, or equal ones, stand for any count of channels.

    raises   PreprocessingRejected
    """
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
        values = [values]
    if len(values) > max(16, count):
        raise PreprocessingRejected(f"{field} has {len(values)} numbers: expected {count}, one a channel")
    numbers = tuple(number(field, value) for value in values)
    if len(set(numbers)) == 1:
        return numbers[:1] * count
    if len(numbers) != count:
        raise PreprocessingRejected(
            f"{field} {numbers}: expected {count} numbers, one a channel, or one for all"
        )
    return numbers


def size(value: object) -> tuple[int | None, int | None] | None:
    """(height, width) from a pair or one side, of which one may be None, open; raises PreprocessingRejected."""
    if value is None:
        return None
    sides = [value, value] if isinstance(value, (int, np.integer)) else value
    if isinstance(sides, (list, tuple)) and len(sides) == 2:
        height, width = sides
        if (height is None) != (width is None) and _side(height if width is None else width):
            return (int(height), None) if width is None else (None, int(width))
        whole = [s for s in sides if isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s > 0]
        if len(whole) == 2 and int(whole[0]) * int(whole[1]) <= MOST_PIXELS:
            return int(whole[0]), int(whole[1])
    raise PreprocessingRejected(
        f"size {printable(repr(value), 60)}: expected (height, width) in pixels, together at most {MOST_PIXELS}"
    )


def _side(value: object) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and 0 < int(value) <= MOST_PIXELS  # type: ignore[call-overload]


def parsed_numbers(field: str, value: Any) -> Any:
    """The numbers of a text such as '0.485,0.456,0.406'; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    try:
        return [float(part) for part in value.replace(",", " ").split()]
    except ValueError as error:
        raise PreprocessingRejected(
            f"{field} {printable(repr(value), 60)}: expected numbers with commas between, such as 0.485,0.456,0.406"
        ) from error


def parsed_size(value: Any) -> Any:
    """The size of a text such as '224' or '224x320'; what is no text comes back as it is."""
    if not isinstance(value, str):
        return value
    parts = value.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise PreprocessingRejected(
            f"size {printable(repr(value), 60)}: expected 224, 224x320 (height first), or {OWN_SIZE}"
        )
    sides = [int(part) for part in parts]
    return sides if len(sides) == 2 else sides[0]


def to_unit(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> dict[str, Any]:
    """The mean and std that are given, for pixels of 0...1: numbers over 1 are for 0...255, and then both are."""
    given = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    if any(abs(number) > 1 for values in given.values() for number in values):
        return {key: tuple(number / 255 for number in values) for key, values in given.items()}
    return given
