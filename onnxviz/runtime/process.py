"""A process that works for this one, from its start to its end, and the line between the two.

A line carries one message at a time, JSON with arrays beside it in shared memory. JSON, because the other end may be a
process that a stranger's model has corrupted: nothing that it sends is run here, and an array whose place is not inside
the memory that came with it is an error. The memory of a line is used again and again; what is too large for that, or
is to be kept by the receiver, travels in memory of its own.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from onnxviz import errors, isolate
from onnxviz.text import printable

#: What a message is, and the arrays that came with it.
Message = tuple[dict[str, Any], dict[str, np.ndarray]]

#: What a control socket carries: the number of a request that is to stop, or 0 where a new channel comes along.
CONTROL: Final = struct.Struct("<Q")

_HEAD: Final = struct.Struct("<Q")
_ALIGN: Final = 64
# Memory that a line keeps for its next message; a batch of four pictures of 224×224 takes 2.4 MB.
_KEPT: Final = 2**26
_SMALLEST: Final = 2**16
_READ: Final = 2**16
_LARGEST_MESSAGE: Final = 2**28


class Closed(Exception):
    """The other end is gone."""


class Channel:
    """One end of the line. Arrays that are received lie in shared memory: good until the next message is sent or read.

    The receiver of a message that was sent with `keep` may hold on to its arrays.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._out: tuple[int, mmap.mmap] | None = None
        self._in: mmap.mmap | None = None
        # Of a message that is still coming: Ctrl-C may end the wait for it, and another wait goes on.
        self._data = bytearray()
        self._descriptors: list[int] = []

    def send(
        self,
        message: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        """Send a message with arrays of numbers or text.

        raises   Closed
        """
        places, size = _places(arrays or {})
        own = keep or size > _KEPT
        descriptor, memory = (None, None) if not size else shared(size) if own else self._arena(size)
        head = {"message": message, "arrays": places, "own": own}
        if memory is not None:
            for name, array in (arrays or {}).items():
                if "at" in places[name]:
                    np.copyto(_view(memory, places[name]), array, casting="equiv")
        text = json.dumps(head).encode()
        data = memoryview(_HEAD.pack(len(text)) + text)
        try:
            # A descriptor goes along where the other end does not have this memory yet.
            sent = socket.send_fds(self._end, [data], [] if descriptor is None else [descriptor])
            if sent < len(data):
                self._end.sendall(data[sent:])
        except OSError as error:
            raise Closed(str(error)) from error
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def receive(self, timeout: float | None = None) -> Message:
        """Wait for the next message.

        raises   Closed, TimeoutError
        """
        self._end.settimeout(timeout)
        try:
            while len(self._data) < _HEAD.size or len(self._data) < _HEAD.size + self._length():
                part, descriptors, _, _ = socket.recv_fds(self._end, _READ, 1)
                self._descriptors += descriptors
                self._data += part
                if not part:
                    raise Closed("the other end was closed")
            head = json.loads(self._data[_HEAD.size :])
            memory = mapped(self._descriptors[0]) if self._descriptors else self._in
            if self._descriptors and not head["own"]:
                self._in = memory
            arrays = {name: _view(memory, place) for name, place in head["arrays"].items()}
            self._forget()
            return head["message"], arrays
        except TimeoutError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Closed(str(error)) from error

    def _length(self) -> int:
        size: int = _HEAD.unpack_from(self._data)[0]
        if size > _LARGEST_MESSAGE:
            raise Closed("what came is no message")
        return size

    def _forget(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._data.clear()

    def close(self) -> None:
        """Close this end."""
        self._forget()
        self._end.close()

    def _arena(self, size: int) -> tuple[int | None, mmap.mmap]:
        """Memory for a message, and its descriptor where it is new."""
        if self._out is not None and self._out[0] >= size:
            return None, self._out[1]
        room = max(_SMALLEST, 1 << (size - 1).bit_length())
        descriptor, memory = shared(room)
        self._out = room, memory
        return descriptor, memory


# --- memory ---------------------------------------------------------------------------------------


def shared(size: int) -> tuple[int, mmap.mmap]:
    """Memory with no name that another process can map, too: its descriptor, and the memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("onnxviz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        descriptor, path = tempfile.mkstemp(prefix="onnxviz-")
        os.unlink(path)
    try:
        os.ftruncate(descriptor, size)
        _seal(descriptor)
        return descriptor, mmap.mmap(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


def _seal(descriptor: int) -> None:
    """Nobody makes the memory shorter while the other end reads it, which would end that process."""
    import fcntl

    if hasattr(fcntl, "F_ADD_SEALS"):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)


def mapped(descriptor: int) -> mmap.mmap:
    """The memory that another process shares; raises ValueError where it could be cut short."""
    import fcntl

    if hasattr(fcntl, "F_GET_SEALS") and not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise ValueError("the memory that came could be cut short")
    return mmap.mmap(descriptor, 0)


def _places(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, dict[str, Any]], int]:
    """Where each array lies in the memory that goes with a message, and the memory's size in bytes."""
    places: dict[str, dict[str, Any]] = {}
    size = 0
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            places[name] = {"text": [str(entry) for entry in array.ravel()], "shape": array.shape}
            continue
        places[name] = {"at": size, "type": array.dtype.name, "shape": array.shape}
        size += -(-array.nbytes // _ALIGN) * _ALIGN
    return places, size


def _view(memory: mmap.mmap | None, place: Mapping[str, Any]) -> np.ndarray:
    shape = tuple(map(int, place["shape"]))
    if "text" in place:
        text = np.empty(len(place["text"]), object)
        text[:] = place["text"]
        return text.reshape(shape)
    dtype = np.dtype(place["type"])
    if dtype.kind not in "biufc":
        raise ValueError(f"no numbers: {dtype}")
    at = int(place["at"])
    if min((at, *shape)) < 0:  # NumPy looks at the end alone
        raise ValueError(f"no place in memory: {at}, {shape}")
    if 0 in shape:
        return np.empty(shape, dtype)
    if memory is None:
        raise ValueError("no memory came with an array")
    return np.ndarray(shape, dtype, memory, at)


# --- errors ---------------------------------------------------------------------------------------


def described(error: BaseException) -> dict[str, Any]:
    """An error as a message: its class, its text as it was raised, and its fields."""
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    fields = {}
    for name, value in vars(error).items():
        with contextlib.suppress(TypeError, ValueError):
            json.dumps(value)
            fields[name] = value
    return {"class": type(error).__name__, "text": text, "fields": fields}


def restored(message: Mapping[str, Any]) -> BaseException:
    """The error that `described` wrote down: one of ours, of ONNX's inference, or of Python."""
    name, text = str(message["class"]), str(message["text"])
    if name == "KeyboardInterrupt":  # it was told to stop
        return KeyboardInterrupt()
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    if name == "InferenceError":
        import onnx

        kind = onnx.shape_inference.InferenceError
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError(f"{name}: {text}")
    error: Exception = kind.__new__(kind)
    error.args = (text,)
    for key, value in dict(message["fields"]).items():
        setattr(error, key, value)
    return error


# --- the process ----------------------------------------------------------------------------------

# What ends so soon after Ctrl-C, between two operators, leaves its process alive; it has longer where a state is held
# there, which is the result so far.
GRACE: Final = 0.8
_GRACE_KEEPING: Final = 10.0
_SECONDS_TO_START: Final = 120.0
_START: Final = """
import sys
sys.path[:] = {path!r}
from {program} import serve
serve({control}, {lifeline}, {board}, {memory})
"""
_LAST_WORDS: Final = 4096


class Life:
    """One process from its start to its end.

    program  the module whose `serve` it runs
    memory   the bytes that it may take; None: what the machine has
    pid      the process that started it: a forked copy of that one must leave it alone
    ended    why it was ended on purpose, None where it was not; `interrupted`, whether that was Ctrl-C
    sent     the weights that it was given, by number
    dropped  what is no longer needed there, by number
    states   what is held there and nowhere else
    """

    def __init__(self, program: str, memory: int | None) -> None:
        self.pid = os.getpid()
        self.ended: str | None = None
        self.interrupted = False
        self.sent: set[int] = set()
        self.dropped: deque[int] = deque()
        self.states: weakref.WeakSet[Any] = weakref.WeakSet()
        self._idle: list[Channel] = []
        self._control, theirs = socket.socketpair()
        reading, self._lifeline = os.pipe()
        self._words = os.memfd_create("onnxviz") if hasattr(os, "memfd_create") else None
        descriptors = [self._lifeline, *([] if self._words is None else [self._words])]
        board, pages = shared(isolate.SIZE)
        self._board = isolate.Board(pages)
        try:
            with theirs:
                self.process = _started(program, theirs.fileno(), reading, board, self._words, memory)
        except BaseException:
            self._control.close()
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        finally:
            os.close(reading)
            os.close(board)
        self._end = weakref.finalize(
            self, _end, self.process, self._control, self._idle, descriptors, self.pid
        )
        self._lock = threading.Lock()
        try:
            self._control.settimeout(_SECONDS_TO_START)
            ready = self._control.recv(1)
            self._control.settimeout(None)
        except OSError:
            ready = b""
        except BaseException:
            self.end("it was not needed")
            raise
        if not ready:
            words = self.last_words()
            self.end("it did not start")
            raise errors.WorkerCrashed(
                f"the process of an isolated network could not be started{words}; leave out isolate=True to run in "
                "this process"
            )

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._end.alive and self.process.poll() is None

    def channel(self) -> Channel:
        """A channel that nobody else uses; give it back with `release`.

        raises   Closed
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    socket.send_fds(self._control, [CONTROL.pack(0)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Closed(str(error)) from error
            return Channel(ours)

    def release(self, channel: Channel) -> None:
        """The channel's last message was answered."""
        if self._end.alive:
            self._idle.append(channel)
        else:
            channel.close()

    def end(self, why: str) -> None:
        """End it, whatever it is doing."""
        if self.ended is None and self.process.poll() is None:
            self.ended = why
        self._end()

    def was_at(self) -> str | None:
        """What native code it was in last, as it stands after 'while'."""
        regions = [one.what for one in self._board.under_way() if not one.what.startswith(isolate.REQUEST)]
        return regions[0] if regions else None

    def began(self, request: int) -> bool:
        """Whether it died in the middle of this, rather than before."""
        return any(one.what == f"{isolate.REQUEST}{request}" for one in self._board.under_way())

    @property
    def grace(self) -> float:
        """How many seconds what it does may go on after Ctrl-C."""
        return _GRACE_KEEPING if self.states else GRACE

    def stop(self, request: int) -> None:
        """Tell it to stop this between two operators, or not to begin it; harmless where it ended long ago."""
        with contextlib.suppress(OSError):  # gone, or deaf
            self._control.send(CONTROL.pack(request), socket.MSG_DONTWAIT)

    def interrupt(self) -> None:
        """End it because of Ctrl-C."""
        self.interrupted = True
        self.end("it was ended by Ctrl-C")

    def last_words(self) -> str:
        """The last line that it wrote to stderr, in brackets behind a blank; empty where there is none."""
        if self._words is None or not self._end.alive:
            return ""
        size = os.fstat(self._words).st_size
        text = os.pread(self._words, _LAST_WORDS, max(0, size - _LAST_WORDS)).decode("utf-8", "replace")
        lines = text.strip().splitlines()
        return f" ({printable(lines[-1], 200)})" if lines else ""


def _started(
    program: str, control: int, lifeline: int, board: int, words: int | None, memory: int | None
) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    path = [os.fspath(one) for one in sys.path]
    path += [] if root in path else [root]
    code = _START.format(
        path=path, program=program, control=control, lifeline=lifeline, board=board, memory=memory
    )
    try:
        # -P: no file beside a script, or in the folder where a stranger's models lie, is taken for a module before
        # `path` is set. A session of its own: Ctrl-C on the terminal is for this process, which decides.
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if words is None else words,
            pass_fds=[control, lifeline, board],
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise errors.WorkerCrashed(
            f"the process of an isolated network could not be started: {error}"
        ) from error


def _end(
    process: subprocess.Popen[bytes],
    control: socket.socket,
    idle: list[Channel],
    descriptors: list[int],
    pid: int,
) -> None:
    if os.getpid() == pid:
        process.kill()
        process.wait()
    control.close()
    while idle:
        idle.pop().close()
    for descriptor in descriptors:
        os.close(descriptor)
