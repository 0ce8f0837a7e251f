"""Sections of a measurement in a process of their own, each under its own time limit.

A process of an extension that hangs or dies takes nothing with it but its section: the next process goes on with those
that are left. What a section tells is merged into the figures at once.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MARK = "@figures "
_END = object()
# Less is not begun: what a process needs to import torch and to start the card.
_LEAST = 10.0


def tell(**message: Any) -> None:
    """From within a section, to `measure`."""
    print(MARK + json.dumps(message, default=str), flush=True)


def run(sections: Mapping[str, Callable[[Callable[[Any], None]], Any]], names: Sequence[str]) -> None:
    """Run these sections one after the other, in the process that `measure` started.

    A section is given a function that tells a part of all figures; what it returns is told, too.
    """
    for name in names:
        tell(begin=name)
        try:
            tell(part=sections[name](lambda part: tell(part=part)))
        except Exception as error:  # one peer's failure must not cost the other figures
            first = (str(error).splitlines() or [""])[0]
            tell(failed=f"{type(error).__name__}: {first[:300]}")
        tell(end=name)


def measure(
    command: Sequence[str],
    limits: Mapping[str, float],
    seconds: float,
    report: Callable[[dict[str, Any]], None],
    figures: dict[str, Any],
) -> dict[str, Any]:
    """Run all sections within `seconds`; the figures, and under 'skipped' why something is missing.

    command   starts a process that calls `run`; the names of the sections that are left are appended
    limits    the seconds of each section, in the order in which they run
    report    is given the figures whenever a section has ended
    figures   what is known already, to be added to
    """
    end = time.monotonic() + seconds
    skipped: list[str] = figures.setdefault("skipped", [])
    left = list(limits)
    while left:
        if end - time.monotonic() < _LEAST:
            skipped += [f"{name}: no time left" for name in left]
            break
        left = _one_process([*command, *left], left, limits, end, figures, report)
    report(figures)
    return figures


def _one_process(
    command: Sequence[str],
    left: list[str],
    limits: Mapping[str, float],
    end: float,
    figures: dict[str, Any],
    report: Callable[[dict[str, Any]], None],
) -> list[str]:
    """Follow one process to its end, or to that of a section's time; what is left then."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    lines: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    left, now = list(left), left[0]
    begun = time.monotonic()
    until = min(end, begun + limits[now] + _LEAST)
    try:
        while left:
            try:
                line = lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                figures["skipped"].append(f"{now}: ended after {time.monotonic() - begun:.0f} s, its limit")
                return [name for name in left if name != now]
            if line is _END:
                figures["skipped"].append(f"{now}: its process ended by itself ({process.wait()})")
                return [name for name in left if name != now]
            if not line.startswith(MARK):
                print(line, end="", flush=True)
                continue
            message = json.loads(line[len(MARK) :])
            if "begin" in message:
                now, begun = message["begin"], time.monotonic()
                until = min(end, begun + limits[now])
            elif "end" in message:
                left.remove(now)
                print(f"{now}: {time.monotonic() - begun:.1f} s", flush=True)
                report(figures)
            elif "failed" in message:
                figures["skipped"].append(f"{now}: {message['failed']}")
            else:
                merge(figures, message["part"] or {})
        return left
    finally:
        _stop(process)
        report(figures)


def _read(process: subprocess.Popen[str], lines: queue.SimpleQueue[Any]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(_END)


def _stop(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    try:
        process.wait(timeout=0.5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def merge(into: dict[str, Any], part: Mapping[str, Any]) -> None:
    """Add what is told, entry by entry, to what was told before."""
    for key, value in part.items():
        if isinstance(value, Mapping):
            merge(into.setdefault(key, {}), value)
        elif value is not None:
            into[key] = value
