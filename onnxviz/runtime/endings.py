"""How runs end: because they take longer than they may, by Ctrl-C, or by failing; and whose fault that is then."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from onnxviz import isolate
from onnxviz.errors import (
    SMALLER,
    ImageRejected,
    LimitExceeded,
    ModelFailed,
    ModelUnsuitable,
    OnnxVizError,
    RuntimeFailed,
    UsageError,
    ways,
)
from onnxviz.isolate import GRACE, GRACE_PART
from onnxviz.text import printable

if TYPE_CHECKING:
    import onnx_ir as ir

# Waiting takes a second at the most: after so many the program stood still (Ctrl-Z), and so did its runs.
_STOOD_STILL = 5.0
# The watchdog looks so often, and for so long after the last run: to wake it for each costs more than the look.
_TICK, _LINGERS = 1.0, 5.0
# A thread that waits looks up so often; a run that was told to stop is given so long to do so.
_LOOK, _STOPS = 0.5, 0.3
# At the program's end those that were left behind are waited for, so long together.
_SEES_OFF = 5.0

T = TypeVar("T")


@dataclass
class _Watched:
    options: Any
    began: float
    end: float
    thread: int
    interrupted: bool = False


class Watchdog:
    """One thread for all runs: a timer a run would cost more than a small network's forward pass."""

    def __init__(self) -> None:
        self._runs: dict[int, _Watched] = {}
        self._keys = itertools.count()
        # Taken by itself, not through the condition: Ctrl-C right behind `Condition.__enter__` leaves it taken.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._looks = math.inf  # when it looks next; infinity: when it is woken
        self._last = -math.inf  # when the last run began
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, options: Any, seconds: float | None) -> Iterator[None]:
        """Set `options.terminate` if the block is still running after `seconds`, or at Ctrl-C where that is heard.

        seconds  None: any time
        raises   KeyboardInterrupt in the place of what the run raises, where Ctrl-C ended it
        """
        if seconds is None and not isolate.watched():
            yield
            return
        key, now = next(self._keys), time.monotonic()
        end = math.inf if seconds is None else now + seconds
        watched = _Watched(options, now, end, threading.get_ident())
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="onnxviz-watchdog", daemon=True)
                self._thread.start()
                if isolate.watched():
                    threading.Thread(target=self._listen, name="onnxviz-interrupt", daemon=True).start()
            self._runs[key] = watched
            self._last = now
            if end < self._looks:
                self._wake.notify()
        try:
            yield
        except Exception:
            if watched.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            with self._lock:
                self._runs.pop(key, None)

    def _serve(self) -> None:
        before = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                if now - before > _STOOD_STILL:
                    for run in self._runs.values():
                        run.end += now - max(before, run.began)
                for key in [key for key, run in self._runs.items() if run.end <= now]:
                    self._runs.pop(key).options.terminate = True
                next_end = min((run.end for run in self._runs.values()), default=math.inf)
                before = now
                rests = next_end == math.inf and now - self._last > _LINGERS
                self._looks = math.inf if rests else min(now + _TICK, next_end)
                self._wake.wait(None if rests else self._looks - now)
                if rests:
                    before = time.monotonic()

    def _listen(self) -> None:
        for meant in isolate.interrupts():
            self._stop(lambda run, meant=meant: run.began <= meant)  # type: ignore[misc]

    def stop(self, thread: int) -> None:
        """Ctrl-C for what this thread runs: it ends between two operators."""
        self._stop(lambda run: run.thread == thread)

    def _stop(self, meant: Callable[[_Watched], bool]) -> None:
        with self._lock:
            for run in self._runs.values():
                if meant(run):
                    run.interrupted = run.options.terminate = True


WATCHDOG = Watchdog()
_left: list[threading.Event] = []


def waited(run: Callable[[], T], options: Any, seconds: float | None) -> T:
    """What `run` gives, run by another thread: this one answers Ctrl-C, and the time being up, whatever that one is in.

    ONNX Runtime stops a run between two operators only. A run that is left behind ends there, too, and nobody reads
    what it gives.

    options  of the run; `terminate` is set where it is left behind
    seconds  the longest that it may take; None: any time
    raises   TimeoutError, what `run` raises
    """
    outcome: list[tuple[T | None, BaseException | None]] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append((run(), None))
        except BaseException as error:
            outcome.append((None, error))
        done.set()

    left = math.inf if seconds is None else seconds * (1 + GRACE_PART) + GRACE
    try:
        # Ctrl-C as it starts: it may have begun.
        threading.Thread(target=work, name="onnxviz-run", daemon=True).start()
        while not done.wait(min(_LOOK, left)):  # Windows answers Ctrl-C between two looks
            left -= _LOOK
            if left <= 0:
                raise TimeoutError
    except BaseException:
        options.terminate = True
        if not done.wait(_STOPS):
            _leave(done)
        raise
    ((result, error),) = outcome
    if error is not None:
        raise error
    return cast(T, result)


def _leave(done: threading.Event) -> None:
    """A run is left behind. The program's end waits a while for it.

    A thread that comes out of native code while the interpreter is taken down is ended by it (before Python 3.14), in
    the middle of C++ that aborts the process then.
    """
    if not _left:
        atexit.register(_see_off)
    _left[:] = [one for one in _left if not one.is_set()] + [done]


def _see_off() -> None:
    end = time.monotonic() + _SEES_OFF
    for done in _left:
        done.wait(max(0.0, end - time.monotonic()))


# --- whose fault a failed run is ------------------------------------------------------------------

#: By the name of a node or of one of its outputs: node and layer where it is the network's own, None where it is ours.
Places: TypeAlias = Mapping[str, "tuple[str, str] | None"]

_LONGEST_REASON, _LONGEST_NAME = 300, 80
# ONNX Runtime's words. Of a node in the body of another the inner one comes last.
_NODE: Final = re.compile(
    r"while running (\S+) node\. Name:'((?:(?! Status Message: ).)*)' Status Message: ", re.S
)
_LAID_OUT: Final = "_nchwc"  # behind the name of a value whose node was brought to the blocked layout
_SOURCE: Final = re.compile(r"^/\S+:\d+ (?:.*? was false\. |.*?\) (?:const )?)", re.S)
_CODE: Final = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (?:Exception during initialization: )?")
_LENGTHS: Final = re.compile(
    r"mismatch|must match|broadcast|cannot be reshaped|incompatible|they differ", re.I
)
_MEMORY: Final = ("bad_alloc", "failed to allocate memory", "out of memory", "bad allocation")
# An objective picks an entry that an axis of open length lacks for the picture at hand; a Gather of the network's own
# has a name of its own.
_BEYOND: Final = re.compile(
    r"Name:'objective/[^']*' .*out of data bounds, idx=(-?\d+) must be within .*\[-?\d+,(-?\d+)\]"
)
_NO_ENTRY: Final = re.compile(
    r"Name:'objective/[^']*' .*GatherElements op: (?:Out of range|'indices' shape should)", re.S
)
# A Squeeze of all axes of length 1 takes that of the pictures, too, where there is one.
_NO_ROW: Final = re.compile(r"Name:'objective/[^']*' .*rank of input tensor must be >= axis", re.S)
# A convolution over a map of no places, which the network's own operator takes as it is.
_NO_PLACES: Final = re.compile(r"Invalid input shape: \{(?:\d+,)*0[,}]")
# What Python raises where we feed a program wrongly; ONNX Runtime's own errors are none of these.
_OURS: Final = (ValueError, TypeError, LookupError, AttributeError, AssertionError)
_NAMED: Final = attrgetter("name")


def places(graph: ir.Graph, own: Collection[str] | None) -> dict[str, tuple[str, str] | None]:
    """Where a failure may lie, by every name that ONNX Runtime may tell it by.

    own   the names of the network's nodes and values; None: all of them are its own
    """
    found: dict[str, tuple[str, str] | None] = {}
    for node in graph.all_nodes():
        outputs: list[str] = list(filter(None, map(_NAMED, node.outputs)))
        name = node.name or (outputs[0] if outputs else "")
        ours = own is not None and name not in own and not any(output in own for output in outputs)
        place = None if ours else (name, outputs[0] if outputs else name)
        for key in (name, *outputs):
            found.setdefault(key, place)
    return found


def typed(error: Exception, where: Places, seconds: float | None, any_size: bool = False) -> OnnxVizError:
    """ONNX Runtime's error at a run as one of ours.

    ModelFailed where the network fails, LimitExceeded where memory ends, UsageError where the objective asks for what
    the picture lacks, RuntimeFailed where a node of ours fails or we fed the wrong thing, ImageRejected where sizes
    that follow the picture's do not go together, ModelUnsuitable where a map that we go on from has no places.

    seconds   the limit, where the run was ended for taking longer; None: it was not
    any_size  whether the graph takes pictures of any size: one of another size may go through
    """
    if seconds is not None:
        return LimitExceeded(
            f"the model was still running after {seconds:g} s; raise it with --limit run_seconds=…"
        )
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _MEMORY):
        return LimitExceeded("the model ran out of memory" + _within(reason(text)) + SMALLER)
    beyond = _BEYOND.search(text)
    if beyond is not None:
        index, last = map(int, beyond.groups())
        return UsageError(
            f"the objective asks for index {index} of an axis that has length {last + 1} for this picture"
        )
    if _NO_ENTRY.search(text):
        return UsageError("the objective asks for an entry that the output does not have for this picture")
    if _NO_ROW.search(text):
        return UsageError(
            "what the objective is of loses its axis of pictures when there is one picture alone"
            + ways("give two")
        )
    if isinstance(error, _OURS):
        return RuntimeFailed(f"ONNX Runtime was not given what it takes: {reason(text)}")
    nodes = _NODE.findall(text)
    if not nodes:
        return ModelFailed(f"ONNX Runtime could not run the model: {reason(text)}")
    operator, name = nodes[-1]
    place = next((where[key] for key in _keys(name) if key in where), (name, ""))
    if place is None and all(where.get(key) is None for _, outer in nodes for key in _keys(outer)):
        if _NO_PLACES.search(text):
            return ModelUnsuitable("nothing can be computed behind a map of the network that has no places")
        return RuntimeFailed(
            f"ONNX Runtime could not run a graph that onnxviz wrote: operator {operator} "
            f"(node {printable(name, _LONGEST_NAME)!r}): {reason(text)}"
        )
    node, layer = place or (name, "")
    named = {"node": node, "layer": layer}
    told = [f"{what} {printable(one, _LONGEST_NAME)!r}" for what, one in named.items() if one]
    what = f"operator {operator}{_within(', '.join(told))}: {reason(text)}"
    if any_size and of_lengths(text):
        return other_size(what)
    return ModelFailed(f"ONNX Runtime could not run the model: {what}")


def _keys(name: str) -> tuple[str, str]:
    return name, name.removesuffix(_LAID_OUT)


def of_lengths(text: str) -> bool:
    """Whether ONNX Runtime says of a node that sizes do not go together."""
    return _LENGTHS.search(text) is not None


def other_size(what: str) -> ImageRejected:
    """The refusal of a picture whose size is to blame.

    what   what ONNX Runtime says
    """
    more = ways("take another --size, such as a multiple of 32")
    return ImageRejected(f"a picture of this size does not go through the network: {what}{more}")


def reason(text: str) -> str:
    """The cause in one line, without the place in ONNX Runtime's sources."""
    nodes = list(_NODE.finditer(text))
    cause = _SOURCE.sub("", text[nodes[-1].end() :] if nodes else _CODE.sub("", text), count=1)
    return printable(" ".join(cause.split()), _LONGEST_REASON)


def _within(text: str) -> str:
    return f" ({text})" if text else ""
