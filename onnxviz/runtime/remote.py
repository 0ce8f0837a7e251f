"""Programs of isolated networks: as those of runtime/ort.py, in the network's own process."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

import numpy as np

from onnxviz.errors import LimitExceeded, WorkerCrashed
from onnxviz.runtime.ort import Graph, Program
from onnxviz.runtime.process import Life, Message
from onnxviz.runtime.worker import NotBegun, Worker, again
from onnxviz.text import quoted

_MOST_NAMES: Final = 3


class Held:
    """An array that lies in the worker, from `Program.put` or `Program.hold`."""

    def __init__(self, program: RemoteProgram, life: Life, number: int) -> None:
        self.life = life
        self.number = number
        self._program = program
        weakref.finalize(self, life.dropped.append, number).atexit = False

    @property
    def lost(self) -> bool:
        """Whether it went with its process."""
        return not self.life.alive

    def numpy(self) -> np.ndarray:
        """A copy of it.

        raises   WorkerCrashed where it went with its process; KeyboardInterrupt where Ctrl-C ended that
        """
        return self._program.fetch(self)


class RemoteProgram(Program):
    """A graph that is compiled in a worker, and once more in the next one where that died."""

    def __init__(self, worker: Worker, graph: Graph, settings: Mapping[str, Any]) -> None:
        self._worker = worker
        self._graph = graph
        self._settings = dict(settings)
        self._name = hashlib.sha256(graph.message).hexdigest()
        self._lock = threading.Lock()
        self._place: tuple[Life, int] | None = None
        again(self._compiled)

    def __deepcopy__(self, memo: object) -> RemoteProgram:
        return self

    def __reduce__(self) -> NoReturn:
        self._worker.__reduce__()

    def put(self, name: str, array: np.ndarray) -> Any:
        """The array for input `name`, to be fed to many runs; it is sent once to each process that needs it."""
        return Placed(self, name, np.array(array))

    def __call__(
        self, feeds: Mapping[str, Any], outputs: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """As `Program`'s; raises WorkerCrashed besides."""
        names = list(outputs) if outputs is not None else self.outputs
        return again(lambda: self._run_once(feeds, names))

    def _run_once(self, feeds: Mapping[str, Any], names: list[str]) -> dict[str, np.ndarray]:
        life, number = self._compiled()
        arrays = {name: value for name, value in feeds.items() if not isinstance(value, Placed)}
        placed = {name: value.there(life) for name, value in feeds.items() if isinstance(value, Placed)}
        message = {"do": "run", "program": number, "outputs": names, "placed": placed}
        return self._asked(message, arrays, life, of=names)[1]

    def hold(self, array: np.ndarray) -> Any:
        """As `Program`'s: the value goes with its process."""
        value = {"value": np.asarray(array, np.float32)}

        def hold() -> Held:
            life, number = self._compiled()
            held = self._kept("hold", number, value, life)
            life.states.add(held)
            return held

        return again(hold)

    def keep(self, name: str, array: np.ndarray, life: Life) -> Held:
        """An input in this process."""
        life_now, number = self._compiled()
        if life_now is not life:
            raise NotBegun("the process of this network died while its inputs were sent")
        return self._kept("put", number, {name: array}, life)

    def _kept(self, what: str, number: int, arrays: Mapping[str, np.ndarray], life: Life) -> Held:
        answer, _ = self._asked({"do": what, "program": number}, arrays, life, keep=what == "put")
        return Held(self, life, answer["held"])

    def fetch(self, held: Held) -> np.ndarray:
        """What is held."""
        if not held.life.alive:
            raise self._lost(held.life)
        try:
            return self._asked({"do": "fetch", "held": held.number}, {}, held.life)[1]["value"]
        except NotBegun:
            raise self._lost(held.life) from None

    def run_bound(
        self,
        feeds: Mapping[str, np.ndarray],
        held: Mapping[str, Any],
        into: Mapping[str, Any],
        results: list[str],
    ) -> dict[str, np.ndarray]:
        """As `Program`'s; raises WorkerCrashed besides, also where the state went with its process."""
        life, number = self._compiled()
        for value in (*held.values(), *into.values()):
            if value.life is not life:
                raise self._lost(value.life)
        message: dict[str, Any] = {"do": "run_bound", "program": number, "results": results}
        for key, values in (("held", held), ("into", into)):
            message[key] = {name: value.number for name, value in values.items()}
        try:
            return self._asked(message, feeds, life, of=results)[1]
        except NotBegun:
            raise self._lost(life) from None

    # --- inside ---------------------------------------------------------------------------------

    def _lost(self, life: Life) -> BaseException:
        if life.interrupted:
            return KeyboardInterrupt()
        return WorkerCrashed(
            f"what was held in the process of this network went with it ({life.ended or 'it crashed'}): begin again"
        )

    def _asked(
        self,
        message: Any,
        arrays: Mapping[str, np.ndarray],
        life: Life,
        *,
        of: Sequence[str] = (),
        keep: bool = False,
    ) -> Message:
        what = "running the model" + (" for " if of else "") + ", ".join(map(quoted, of[:_MOST_NAMES]))
        seconds = self._settings["seconds"]
        return self._worker.ask(
            message, arrays, what=what, digest=self._name, seconds=seconds, life=life, keep=keep
        )

    def _compiled(self) -> tuple[Life, int]:
        life = self._worker.life()
        with self._lock:
            if self._place is None or self._place[0] is not life:
                self._place = life, self._compile(life)
            return self._place

    def _compile(self, life: Life) -> int:
        weights = {name: self._worker.number(array) for name, array in self._graph.weights.items()}
        message = {"do": "compile", "weights": weights, "open": self._graph.open, "settings": self._settings}
        wanted = {number for number in weights.values() if number not in life.sent}
        while True:
            arrays = {str(n): self._graph.weights[name] for name, n in weights.items() if n in wanted}
            arrays["graph"] = np.frombuffer(self._graph.message, np.uint8)
            what = "making a session of the model"
            answer, _ = self._worker.ask(
                message, arrays, what=what, digest=self._name, opening=True, life=life, keep=True
            )
            if "lacking" not in answer:
                break
            if wanted.issuperset(answer["lacking"]):  # it was given all of them
                raise LimitExceeded("the process of this network did not keep the model's weights")
            wanted |= set(answer["lacking"])  # what it was given at this asking is not kept either
        life.sent.update(weights.values())
        self.inputs, self.outputs = list(answer["inputs"]), list(answer["outputs"])
        self.provider, self.placed = str(answer["provider"]), answer["placed"]
        number: int = answer["program"]
        weakref.finalize(self, life.dropped.append, number).atexit = False
        return number


class Placed:
    """An input that is fed to many runs: the array, and where it lies in the worker."""

    def __init__(self, program: RemoteProgram, name: str, array: np.ndarray) -> None:
        self._program = program
        self._name = name
        self._array = array
        self._lock = threading.Lock()
        self._held: Held | None = None

    def there(self, life: Life) -> int:
        """Its number in this process."""
        with self._lock:
            if self._held is None or self._held.life is not life:
                self._held = self._program.keep(self._name, self._array, life)
            return self._held.number
