"""Peers that take turns, each in a process of its own: threads of one that still spin would take cores from another.

A process makes its peer ready, then sleeps until it is asked for a turn. Standard library and NumPy only, so that it
serves in the environment of every peer.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TOOLS = Path(__file__).resolve().parents[1]
SECONDS = 12.0  # of turns
LEAST, MOST = 5, 40  # rounds
REST = 0.05  # seconds before a turn, until the threads of the one before sleep
TURN = 0.2  # seconds that a turn fills: what is shorter is repeated, and its first time, with cold caches, left out

Step = Callable[[], Any]


class Unmeasured(Exception):
    """A peer cannot do this, and why."""


class Turn(NamedTuple):
    """What one run took."""

    seconds: float
    work: float  # seconds of processor time, of all threads


class Peer:
    """A process that makes a step ready and runs it when it is asked to.

    maker      "module:function" in tools/, called with the arguments (plain values) in the process; gives the step
    python     the interpreter, where it is not this one
    """

    def __init__(self, maker: str, *arguments: Any, python: Path | str = sys.executable) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._saved = Path(self._folder.name) / "answer.npy"
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__)), maker, json.dumps(arguments), str(self._saved)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ready = False

    def ready(self) -> None:
        """Wait until it has run once; raises Unmeasured where it cannot."""
        if not self._ready:
            self._read()
            self._ready = True

    def answer(self) -> np.ndarray:
        """What the step gave when it was first run."""
        self.ready()
        return np.load(self._saved)

    def turn(self) -> Turn:
        """One run, timed in the process itself."""
        self.ready()
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Turn(*self._read())

    def _read(self) -> list[float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        told = json.loads(line) if line else "its process died"
        if isinstance(told, str):
            raise Unmeasured(told)
        return told

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()


@contextmanager
def ending(started: dict[str, Peer]) -> Iterator[dict[str, Peer]]:
    """The peers, whose processes end with the block."""
    try:
        yield started
    finally:
        for peer in started.values():
            peer.close()


def take_turns(
    asked: Mapping[str, Peer], seconds: float = SECONDS, least: int = LEAST, most: int = MOST
) -> dict[str, list[Turn]]:
    """The turns of each by round, in alternating order, the first round thrown away: rounds for so many seconds."""
    for peer in asked.values():
        peer.ready()
    turns: dict[str, list[Turn]] = {name: [] for name in asked}
    begun = time.perf_counter()
    for number in range(most + 1):
        if number > least and time.perf_counter() - begun > seconds:
            break
        for name in asked if number % 2 else reversed(asked):
            time.sleep(REST)
            turns[name].append(asked[name].turn())
    return {name: taken[1:] for name, taken in turns.items()}


class Spread(NamedTuple):
    """The median over the rounds, and what the middle half of them lies between."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)

    def between(self, form: str = ".2f") -> str:
        """The middle half as text."""
        return f"{self.low:{form}} to {self.high:{form}}"

    def row(self, form: str = ".2f", unit: str = "") -> dict[str, Any]:
        """What a row of the table holds of it."""
        ratio = f"{self.middle:{form}}{unit}"
        return {"ratio": ratio, "spread": self.between(form), "values": [self.middle]}


def ratio(above: Sequence[Turn], below: Sequence[Turn], by: float = 1.0) -> Spread:
    """How many times as long one takes as the other, round by round: neighbours in time share the machine's state."""
    return Spread.of([a.seconds / b.seconds / by for a, b in zip(above, below, strict=True)])


def seconds(turns: Sequence[Turn]) -> float:
    """The median time of a run."""
    return statistics.median(turn.seconds for turn in turns)


def peak(code: str, *arguments: str) -> int:
    """The most memory, in bytes, that a Python process with this code took."""
    # Linux hands ru_maxrss down from the process that forked; VmHWM is this program's own.
    ending = (
        "\nimport os, re, resource"
        "\nown = '/proc/self/status'"
        "\nif os.path.exists(own): print(re.search(r'VmHWM:\\s+(\\d+)', open(own).read()).group(1))"
        "\nelse: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + ending, *arguments], check=True, capture_output=True, text=True
    )
    return int(done.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)


def _serve(maker: str, arguments: str, saved: str) -> None:
    """Answer every line on standard input with the seconds of a run; a failure is one line of text."""
    # What libraries print must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(what: object) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    sys.path[:1] = [str(TOOLS), str(TOOLS.parent)]
    module, name = maker.split(":")
    try:
        step = getattr(importlib.import_module(module), name)(*json.loads(arguments))
        answer = step()
        if isinstance(answer, np.ndarray):
            np.save(saved, answer)
        tell([0.0, 0.0])
        for _ in sys.stdin:
            tell(_turn(step))
    except Exception as error:
        tell(_short(error))


def _turn(step: Step) -> Turn:
    """One run of a long step; the median run of a short one."""
    found: list[Turn] = []
    begun = time.perf_counter()
    while not found or time.perf_counter() - begun < TURN:
        start, work = time.perf_counter(), time.process_time()
        step()
        found.append(Turn(time.perf_counter() - start, time.process_time() - work))
    kept = found[1:] or found
    return Turn(*(statistics.median(column) for column in zip(*kept, strict=True)))


def _short(error: BaseException) -> str:
    """The error's first line; of a failed check of ONNX Runtime what it says, without where it stands there."""
    text = " ".join(str(error).split())
    text = text[text.rfind(" was false. ") + 12 :] if " was false. " in text else text
    return f"{type(error).__name__}: {text[:90]}" if text else type(error).__name__


if __name__ == "__main__":
    _serve(*sys.argv[1:])
