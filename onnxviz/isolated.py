"""Isolated networks: opened by a process of their own first (`opened`), and what that process does (`serve`).

    parent thread ── channel ──▶ thread there: opening, inference, sessions, runs

`runtime.worker.Worker` starts it; it does all that a stranger's model could break. Each channel has a thread of its
own, so that runs go side by side as the threads of the parent do. The process ends when the parent does, whatever
native code is doing then.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import isolate
from onnxviz.errors import ModelRejected, UsageError
from onnxviz.runtime.endings import WATCHDOG
from onnxviz.runtime.process import CONTROL, Channel, Closed, Message, described, mapped
from onnxviz.text import quoted

if TYPE_CHECKING:
    from onnxviz.graph.open.load import Loaded
    from onnxviz.limits import Limits
    from onnxviz.runtime.worker import Worker


def opened(source: Any, limits: Limits) -> tuple[Loaded, Worker]:
    """The model as `graph.open.load.load` gives it, and a worker that has opened it.

    It is opened there first, so what is parsed here is known to pass: it was the same bytes. A model that was parsed
    by the caller (an ir.Model) is only checked, here.

    raises   what `graph.open.load.load` raises, WorkerCrashed, UsageError where there can be no workers
    """
    from onnxviz.graph.open.load import load, serialised
    from onnxviz.runtime.worker import Worker, lacking

    reason = lacking()
    if reason is not None:
        raise UsageError(f"isolate=True does not work here: {reason}; leave it out")
    worker = Worker(__name__, limits)
    try:
        if isinstance(source, (str, os.PathLike)):
            before = _identity(source)
            worker.open(source, quoted(os.fspath(source)))
            with isolate.on(worker):
                loaded = load(source, limits=limits)
            if _identity(source) != before:
                raise ModelRejected(f"{quoted(os.fspath(source))} was changed while it was opened")
            return loaded, worker
        if isinstance(source, (bytes, bytearray, memoryview)):
            limits.check("file_bytes", len(source), f"the model has {len(source)} bytes")
            source = bytes(source)
            worker.open(source, "the given bytes")
        elif type(source).__name__ == "ModelProto":
            worker.open(serialised(source, limits), "the given ModelProto")
        with isolate.on(worker):
            return load(source, limits=limits), worker
    except BaseException:
        worker.close()
        raise


def _identity(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Changes when the file is replaced or written to."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):  # opening it says so
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# --- in the process -------------------------------------------------------------------------------

# macOS gives threads half a megabyte, which ONNX's inference of nested graphs overflows.
_STACK: Final = 2**24
# So many requests that Ctrl-C ended are remembered, since the way there of what they ask for may be the longer one.
_REMEMBERED: Final = 1024


def serve(control: int, lifeline: int, board: int, memory: int | None) -> None:
    """Serve the channels that come over `control`, a socket, until it or `lifeline`, a pipe, is closed.

    board    memory where it says what native code it is in
    memory   the bytes that it may take; None: what the machine has
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    isolate.end_with(lifeline)
    isolate.serve(isolate.Board(mapped(board)))
    if isolate.memory_is_guarded():
        isolate.limit_memory(memory)
    line = socket.socket(fileno=control)
    served = Served()
    threading.stack_size(_STACK)
    line.sendall(b"+")
    while True:
        told, descriptors, _, _ = socket.recv_fds(line, CONTROL.size, 1)
        if not told:
            os._exit(0)
        if not descriptors:
            served.stop(*CONTROL.unpack(told))
            continue
        channel = Channel(socket.socket(fileno=descriptors[0]))
        threading.Thread(target=_answer, args=(channel, served), daemon=True).start()


def _answer(channel: Channel, served: Served) -> None:
    while True:
        try:
            message, arrays = channel.receive()
            try:
                request = message["request"]
                with isolate.region(f"{isolate.REQUEST}{request}", None), served.stoppable(request):
                    answer = served.answer(message, arrays)
                channel.send(*answer)
                del answer
            except Closed:
                raise
            except BaseException as error:
                channel.send({"error": described(error)})
        except Closed:
            channel.close()
            return
        except BaseException:  # a thread that ended in silence would let its caller wait
            os._exit(1)
        del message, arrays


class Served:
    """What one network has here: programs, values that stay between runs, and weights, each by its number."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._programs: dict[int, Any] = {}
        self._held: dict[int, Any] = {}
        self._weights: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self._threads: dict[int, int] = {}  # by request
        self._stopped: deque[int] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stoppable(self, request: int) -> Iterator[None]:
        """Around what this thread does for a request; raises KeyboardInterrupt where it was told to stop before."""
        with self._lock:
            if request in self._stopped:
                raise KeyboardInterrupt
            self._threads[request] = threading.get_ident()
        try:
            yield
        finally:
            with self._lock:
                del self._threads[request]

    def stop(self, request: int) -> None:
        """Ctrl-C for what is run for this request: it ends between two operators, and does not begin any more."""
        with self._lock:  # its thread does not go on to another meanwhile
            if (thread := self._threads.get(request)) is not None:
                WATCHDOG.stop(thread)
            elif request not in self._stopped:
                self._stopped.append(request)

    def answer(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Do what the message asks for; raises what doing it raises."""
        for number in message.get("drop", ()):
            self._programs.pop(number, None)
            self._held.pop(number, None)
        answered: Message = getattr(self, f"do_{message['do']}")(message, arrays)
        return answered

    def do_load(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Open the model as `graph.open.load` does, to see whether that goes well."""
        from onnxviz.graph.open.load import load
        from onnxviz.limits import Limits

        source = message["path"] if message["path"] is not None else arrays["bytes"].tobytes()
        load(source, limits=Limits(**message["limits"]))
        return {}, {}

    def do_infer(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """`graph.shapes.infer_shapes`."""
        import onnx

        from onnxviz.graph.shapes import infer_shapes

        proto = onnx.ModelProto.FromString(arrays["model"].tobytes())
        inferred = infer_shapes(proto, strict=message["strict"], propagate=message["propagate"])
        return {}, {"model": np.frombuffer(inferred.SerializeToString(), np.uint8)}

    def do_compile(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """A program of a graph and its weights, which come along or were here before."""
        from onnxviz.programs import here
        from onnxviz.runtime.ort import Graph

        self._weights.update({int(key): array for key, array in arrays.items() if key.isdigit()})
        weights = {name: self._weights.get(number) for name, number in message["weights"].items()}
        lacking = [message["weights"][name] for name, array in weights.items() if array is None]
        if lacking:
            return {"lacking": lacking}, {}
        found = {name: array for name, array in weights.items() if array is not None}
        program = here(Graph(arrays["graph"].tobytes(), found, message["open"]), **message["settings"])
        number = next(self._numbers)
        self._programs[number] = program
        told = {"program": number, "inputs": program.inputs, "outputs": program.outputs}
        return {**told, "provider": program.provider, "placed": program.placed}, {}

    def do_run(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Run a program on arrays and on values that were put here."""
        program = self._programs[message["program"]]
        placed = {name: self._held[number] for name, number in message["placed"].items()}
        return {}, program({**arrays, **placed}, message["outputs"])

    def do_put(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Keep an array as a program's input."""
        (name,) = arrays
        return self._keep(self._programs[message["program"]].put(name, arrays[name]))

    def do_hold(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Keep a copy of an array as a state that runs read and write."""
        return self._keep(self._programs[message["program"]].hold(arrays["value"]))

    def do_fetch(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """What is held."""
        return {}, {"value": self._held[message["held"]].numpy()}

    def do_run_bound(self, message: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Message:
        """Run a program on what is held."""
        held, into = ({name: self._held[i] for name, i in message[key].items()} for key in ("held", "into"))
        return {}, self._programs[message["program"]].run_bound(arrays, held, into, message["results"])

    def _keep(self, value: Any) -> Message:
        number = next(self._numbers)
        self._held[number] = value
        return {"held": number}, {}
