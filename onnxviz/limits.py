"""The limits that a model must keep, with the reasons for their defaults; each can be raised by name.

`graph.open.load` checks them before anything is allocated, `runtime` those about running. They stand in every manifest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from onnxviz.errors import LimitExceeded, UsageError, near

_UNLIMITED: Final = 2**63 - 1
_SECONDS: Final = ("run_seconds", "load_seconds")
_UNITS: Final = {"": 1} | {
    unit: step**power
    for step, end in ((1000, ""), (1024, "I"))
    for power, unit in enumerate([f"K{end}", f"M{end}", f"G{end}", f"T{end}"], 1)
}
_NUMBER: Final = re.compile(
    r"(?P<number>[0-9][0-9_]{0,30}(?:\.[0-9]{1,30})?(?:e\+?[0-9]{1,3})?)\s*(?P<unit>[a-z]*)", re.IGNORECASE
)


@dataclass(frozen=True)
class Limits:
    """What is too large, too deep or too slow. All are inclusive: a model may be exactly this large.

    file_bytes        bytes of the model file itself; 2 GiB is what one protobuf message can hold
    weight_bytes      bytes of all weights together, external data included
    structure_bytes   bytes of the model file that are not weights; 100 KB for ResNet-50. Parsing takes up to
                      a hundred times as much memory
    messages          protobuf fields in a file with a large structure; bounds that memory by number
    nodes             nodes in all graphs and subgraphs, with every call of a model-local function expanded
    tensors           weight tensors, constants included
    subgraph_depth    If, Loop and Scan bodies within each other
    function_depth    calls of model-local functions within each other
    tensor_elements   elements of one tensor: weights, declared inputs, and whatever static shapes make certain;
                      2^30 are 4 GiB of float32
    total_elements    elements of all weights and of all tensors that the graph makes out of constants
    loop_trips        certain trips of a Loop or Scan, multiplied where they are nested
    run_seconds       seconds that one run of the model may take
    load_seconds      seconds that opening it may take, and each inference of its shapes later on
    memory            bytes that the process may take which runs the model: the command line's, or an isolated network's
                      own; and of tensors that are certain to be in memory together. None: what this machine has, or
                      the container
    text_bytes        bytes of a text that is parsed: a file of labels, an entry of the model's metadata
    labels            classes' names in it
    max_pixels        height × width of a picture: room for the 108-megapixel photos of telephones
    max_bytes         bytes of a picture's file, or of an array's
    max_frames        frames of an animation whose first is taken; more is a film, not a picture
    """

    file_bytes: int = 2**31
    weight_bytes: int = 2**35
    structure_bytes: int = 2**25
    messages: int = 2_000_000
    nodes: int = 100_000
    tensors: int = 100_000
    subgraph_depth: int = 8
    function_depth: int = 32
    tensor_elements: int = 2**30
    total_elements: int = 2**33
    loop_trips: int = 1_000_000
    run_seconds: float | None = 600.0
    load_seconds: float | None = 300.0
    memory: int | None = None
    text_bytes: int = 2**24
    labels: int = 1_000_000
    max_pixels: int = 128_000_000
    max_bytes: int = 2**29
    max_frames: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and (field.name in _SECONDS or field.name == "memory"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise UsageError(f"the limit {field.name} takes a number over 0, got {value!r}")
            if field.name not in _SECONDS and not isinstance(value, int):
                raise UsageError(f"the limit {field.name} takes a whole number, got {value!r}")

    def __repr__(self) -> str:
        """What differs from the defaults; `to_dict` has all."""
        if self == Limits.unlimited():
            return "Limits.unlimited()"
        changed = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        return f"Limits({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    @classmethod
    def unlimited(cls) -> Limits:
        """No limit at all, for models that you made yourself."""
        values: dict[str, Any] = {field.name: _UNLIMITED for field in fields(cls)}
        return cls(**values | dict.fromkeys(_SECONDS))

    @classmethod
    def parse(cls, settings: Iterable[str], base: Limits | None = None) -> Limits:
        """Limits from `NAME=VALUE` texts, as `--limit` takes them; the last one of a name counts.

        settings  values are numbers such as 2000000, 2_000_000, 2e6, 4GiB or 20M, or 'none' for no limit
        base      what holds for names not given; None: the defaults
        raises    UsageError
        """
        known = [field.name for field in fields(cls)]
        changes: dict[str, Any] = {}
        for setting in settings:
            name, separator, text = setting.partition("=")
            name = name.strip().lower().replace("-", "_")
            if not separator:
                raise UsageError(f"--limit takes NAME=VALUE, such as nodes=2000000; got {setting[:200]!r}")
            if name not in known:
                raise UsageError(
                    f"there is no limit {name[:200]!r}{near(name[:200], known)}; the limits are {', '.join(known)}"
                )
            changes[name] = _value(name, text.strip())
        return replace(base or cls(), **changes)

    def to_dict(self) -> dict[str, int | float | None]:
        """Every limit by name for the manifest; None for what is unlimited."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: None if value == _UNLIMITED else value for name, value in values.items()}

    def check(self, name: str, value: int, what: str, *, counting: bool = False) -> None:
        """Raise LimitExceeded if `value` is over the limit `name`.

        counting   whether `value` would have grown further: the flag then names twice the limit
        what       what has this value, as the start of a sentence: "node 'Expand_3' makes 8589934592 elements"
        """
        allowed = getattr(self, name)
        if value > allowed:
            raise exceeded(name, what, allowed, max(value, 2 * allowed) if counting else value)


def exceeded(name: str, what: str, allowed: int, needed: int | None = None) -> LimitExceeded:
    """The error for the limit `name`; its message ends in the flag that would let the model pass."""
    flag = needed if needed is not None and needed < _UNLIMITED else "none"
    return LimitExceeded(
        f"{what}, over the limit of {allowed}; if you trust the model, raise it: --limit {name}={flag}"
    )


def _value(name: str, text: str) -> int | float | None:
    if text.lower() in ("none", "unlimited"):
        return None if name in _SECONDS else _UNLIMITED
    match = _NUMBER.fullmatch(text)
    unit = _UNITS.get(match["unit"].upper().removesuffix("B")) if match else None
    if match is None or unit is None:
        raise UsageError(
            f"--limit {name} takes a number such as 2000000, 2e6 or 4GiB, or 'none'; got {text[:200]!r}"
        )
    whole = match["number"].replace("_", "")
    number = int(whole) * unit if whole.isdigit() else float(whole) * unit
    if name in _SECONDS:
        return float(min(number, _UNLIMITED))
    if not math.isfinite(number) or number != int(number):
        raise UsageError(f"--limit {name} takes a whole number, got {text[:200]!r}")
    return min(int(number), _UNLIMITED)
