"""How a long computation tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, total, what); `total` is None where it is not known. The computation never draws anything.
Progress = Callable[[int, int | None, str], None]


def silent(done: int, total: int | None, what: str) -> None:
    """The progress that nobody watches."""
