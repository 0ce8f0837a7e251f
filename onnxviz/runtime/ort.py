"""Running graphs on ONNX Runtime: `session(graph)` gives a callable on arrays.

What a graph means is none of its business: `programs.compile` says what there is to know of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np

from onnxviz import isolate
from onnxviz.errors import LimitExceeded, ModelRejected, ProviderUnavailable
from onnxviz.isolate import region
from onnxviz.runtime import endings
from onnxviz.runtime import providers as _providers
from onnxviz.runtime.endings import WATCHDOG, Places, waited

if TYPE_CHECKING:
    from onnxviz.runtime.capture import Captured

# Folding a constant into something larger than this is the model's attack or mistake, not an optimisation.
_FOLDING_BYTES = str(1 << 30)
_RUNNING: Final = "running the model"
# Ctrl-C may wait for so many seconds: that is how long a run may take that is not given a thread of its own.
_QUICK: Final = 0.3
_MOST_SIZES: Final = 1000
T = TypeVar("T")
#: Refuses inputs of sizes, by name, at which something in the graph is empty: raises ImageRejected.
Admit: TypeAlias = Callable[[Mapping[str, Sequence[int]]], None]


class Program:
    """A compiled graph: a callable from named arrays to named arrays.

    inputs, outputs   the names, in order; of the outputs those that are tensors
    provider          the execution provider that really runs it
    placed            where it is not the CPU: how many nodes of which operator each provider took; a provider may have
                      made one of many
    """

    def __init__(
        self,
        session: Any,
        provider: str,
        seconds: float | None,
        keep: list[Any],
        places: Places,
        admit: Admit | None = None,
        follows_values: bool = False,
        captures: bool = False,
    ) -> None:
        self._session = session
        self._admits = admit  # None where no size is left to the run
        self._follows_values = follows_values
        self._quick: set[tuple[tuple[int, ...], ...]] = set()  # the inputs' sizes with which it was
        self._ort = _providers.onnxruntime()
        self._seconds = seconds
        self._keep = keep  # the memory behind the weights
        self._places = places
        self.provider = provider
        self.placed = {} if provider == _providers.CPU else _placed(session)
        self.inputs = [value.name for value in session.get_inputs()]
        # A sequence or a map is no array: it is computed by nobody who does not ask for it.
        self.outputs = [value.name for value in session.get_outputs() if value.type.startswith("tensor(")]
        self._types: dict[str, Any] = {value.name: _TYPES.get(value.type) for value in session.get_inputs()}
        self._captured: Captured | None = None
        if captures:
            from onnxviz.runtime.capture import Captured

            self._captured = Captured(session, self._types, _bound)

    @property
    def on_device(self) -> bool:
        """Whether arrays live in another memory than NumPy's."""
        return self.provider == _providers.CUDA

    def put(self, name: str, array: np.ndarray) -> Any:
        """The array for input `name`, moved to the device once, to be fed to many runs."""
        value = np.ascontiguousarray(array, dtype=self._types[name])
        return self._ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0) if self.on_device else value

    def __call__(
        self, feeds: Mapping[str, Any], outputs: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Run once. Half precision comes back as float32.

        raises   ImageRejected for a picture that is too small, LimitExceeded when it takes longer than allowed or
                 memory ends, ModelFailed where the network fails on these arrays, RuntimeFailed where what we added
                 to it does
        """
        self._admit(feeds)
        names = list(outputs) if outputs is not None else self.outputs
        if not names:  # for ONNX Runtime no name means all of them
            return {}
        options = self._ort.RunOptions()
        if self._captured is not None:
            self._captured.skip(options)
        try:
            with WATCHDOG.watch(options, self._seconds):
                arrays = self._answering(lambda: self._run(names, feeds, options), options, feeds)
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise self._typed(error, options) from error
        return {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in zip(names, arrays, strict=True)
        }

    def _admit(self, feeds: Mapping[str, Any]) -> None:
        """Refuse sizes at which something in the graph is empty, some of which end the process."""
        if self._admits is not None:
            shapes = {name: value.shape for name, value in feeds.items()}
            self._admits({name: shape() if callable(shape) else shape for name, shape in shapes.items()})

    def _answering(
        self, run: Callable[[], T], options: Any, feeds: Mapping[str, Any], held: Iterable[Any] = ()
    ) -> T:
        """Run; where it may take long, in a thread of its own (`endings.waited`), which costs a quick run too much.

        A run takes as long as the last on inputs of the same sizes, unless the graph's work follows their values.
        """
        if self.on_device or isolate.watched():  # the parent ends what does not answer
            return run()
        sizes = (*(np.shape(value) for value in feeds.values()), *(tuple(value.shape()) for value in held))
        if sizes in self._quick:
            return run()
        began = time.monotonic()
        result = waited(run, options, self._seconds)
        if not self._follows_values and time.monotonic() - began < _QUICK and len(self._quick) < _MOST_SIZES:
            self._quick.add(sizes)
        return result

    def _run(self, names: list[str], feeds: Mapping[str, Any], options: Any) -> list[np.ndarray]:
        if not self.on_device:
            ready = {
                name: value if value.dtype == self._types[name] else value.astype(self._types[name])
                for name, value in feeds.items()
            }
            with region(_RUNNING, self._seconds):
                result: list[np.ndarray] = self._session.run(names, ready, options)
            return result
        # Values that `put` moved to the device stay there; only the others travel, and results come back once.
        there = {name: value for name, value in feeds.items() if isinstance(value, self._ort.OrtValue)}
        here = {name: value for name, value in feeds.items() if name not in there}
        binding = _bound(self._session, self._types, here, there, {}, names)
        with region(_RUNNING, self._seconds):
            self._session.run_with_iobinding(binding, options)
        copied: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return copied

    def hold(self, array: np.ndarray) -> Any:
        """A float32 array as an OrtValue in the memory that the program runs in, to be read and written by runs."""
        value = np.array(array, dtype=np.float32, order="C")
        return self._ort.OrtValue.ortvalue_from_numpy(value, *(("cuda", 0) if self.on_device else ()))

    def run_bound(
        self,
        feeds: Mapping[str, np.ndarray],
        held: Mapping[str, Any],
        into: Mapping[str, Any],
        results: list[str],
    ) -> dict[str, np.ndarray]:
        """Run once on values that `hold` gave: `held` by input name is read, `into` by output name is written.

        feeds     the inputs that come from the host
        results   the outputs that go to the host
        raises    ImageRejected, LimitExceeded, ModelFailed, RuntimeFailed
        """
        self._admit({**held, **feeds})
        options = self._ort.RunOptions()
        try:
            captured = self._captured and self._captured.binding(feeds, held, into, results, options)
            binding = captured or _bound(self._session, self._types, feeds, held, into, results)
            with WATCHDOG.watch(options, self._seconds), region(_RUNNING, self._seconds):
                self._answering(
                    lambda: self._session.run_with_iobinding(binding, options), options, feeds, held.values()
                )
            values = dict(zip([*into, *results], binding.get_outputs(), strict=True))
            return {name: np.array(values[name].numpy()) for name in results}
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise self._typed(error, options) from error

    def _typed(self, error: Exception, options: Any) -> Exception:
        ended = self._seconds if options.terminate else None
        return endings.typed(error, self._places, ended, any_size=self._admits is not None)


def _bound(
    session: Any,
    types: Mapping[str, Any],
    feeds: Mapping[str, Any],
    held: Mapping[str, Any],
    into: Mapping[str, Any],
    results: Iterable[str] = (),
) -> Any:
    """Inputs from the host and from where the session runs; outputs that are written there, and results to the host."""
    binding = session.io_binding()
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array, dtype=types[name]))
    for name, value in into.items():
        binding.bind_ortvalue_output(name, value)
    for name in results:
        binding.bind_output(name, "cpu")
    return binding


def _placed(session: Any) -> dict[str, dict[str, int]]:
    """By provider and operator, how many nodes it takes; nothing from ONNX Runtime before 1.24, which does not tell."""
    told = getattr(session, "get_provider_graph_assignment_info", None)
    found: dict[str, dict[str, int]] = {}
    for part in [] if told is None else told():
        counts = found.setdefault(part.ep_name, {})
        for node in part.get_nodes():
            operator = f"{node.domain}.{node.op_type}".lstrip(".")
            counts[operator] = counts.get(operator, 0) + 1
    return found


_NUMBERS = ("float16", "double", "uint8", "int8", "int32", "int64", "bool")
_TYPES = {f"tensor({name})": np.dtype(name) for name in _NUMBERS} | {"tensor(float)": np.dtype(np.float32)}


class Graph(NamedTuple):
    """A model as sessions take it.

    message          the serialised graph without its large weights
    weights          these, by name
    open             whether the run decides sizes, besides the batch
    follows_values   whether its work follows the inputs' values, so that no run tells how long another takes
    dense            the weights that dense layers alone read
    """

    message: bytes
    weights: dict[str, np.ndarray]
    open: bool
    follows_values: bool = False
    dense: frozenset[str] = frozenset()


def session(
    graph: Graph,
    admit: Admit | None,
    *,
    provider: str,
    threads: int | None,
    spin: bool,
    seconds: float | None,
    prepack: bool,
    optimise: bool,
    places: Places,
    whole_sums: bool = False,
    steps: bool = False,
) -> Program:
    """The graph on ONNX Runtime in this process; the settings are those of `programs.compile`.

    admit    is asked about the inputs' sizes before each run; None: it takes one size alone
    places   whose each node is, see `endings.places`
    raises   ProviderUnavailable, also where the provider refuses what the CPU takes; ModelRejected, LimitExceeded
    """
    ort = _providers.onnxruntime()
    # Both let a model change how its own session is set up (promise P1).
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    wanted = _providers.choose(provider)
    if wanted.name != _providers.CPU:
        isolate.free_memory()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Such programs serve a few runs, and stand beside others: a block that is planned after the first would lie
        # beside what that one took, and an arena grows by doubling and keeps what it has.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
    if whole_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", _FOLDING_BYTES)
    weights = list(graph.weights.values())
    values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in weights]
    options.add_external_initializers(list(graph.weights), values)
    if wanted.name == _providers.CPU:
        # Read where they lie, not copied: VGG-16's gradient takes 0.3 GB less. Those of other operators ONNX Runtime
        # may lay out anew under the same name as it rewrites the graph, and would then read here as they were.
        for name, value in zip(graph.weights, values, strict=True):
            if (name in graph.dense and not whole_sums) or not optimise:
                options.add_initializer(name, value)
    rest = seconds, [weights, values], places, admit, graph.follows_values
    if steps:
        from onnxviz.runtime import capture

        captured = capture.session(provider, graph.message, options)
        if captured is not None:
            return Program(captured, _providers.CUDA, *rest, captures=True)
    try:
        with region("making a session of the model"):
            made = wanted.session(graph.message, options)
        runs_on = _providers.check(wanted, made)
    except MemoryError as error:
        raise LimitExceeded("the model ran out of memory while it was loaded") from error
    except ProviderUnavailable:
        raise
    except Exception as error:
        reason = endings.reason(str(error))
        if wanted.name == _providers.CPU:
            raise ModelRejected(f"ONNX Runtime refuses the model: {reason}") from error
        settings: dict[str, Any] = {"threads": threads, "spin": spin, "seconds": seconds, "prepack": prepack}
        settings |= {"optimise": optimise, "whole_sums": whole_sums}
        on_cpu = session(graph, admit, provider="cpu", places=places, **settings)
        if wanted.asked == "auto":
            return on_cpu
        given = f" with {', '.join(f'{k}={v}' for k, v in wanted.options.items())}" if wanted.options else ""
        raise ProviderUnavailable(
            f"provider {wanted.asked!r}{given} refuses the model, which the CPU runs: {reason}"
        ) from error
    return Program(made, runs_on, *rest)


_SETS = 3


class Resident:
    """One program run many times on state that stays where the program runs.

    What a run gives out as the new state the next run takes as its state, without a copy to the host: three sets of
    buffers take turns, so that the state before the last run can still be read when that run went wrong.

    program   its outputs include `<name>.next` for each name of the state
    state     {input name: array}, the state to begin with
    results   the other outputs, which come to the host at each run
    """

    def __init__(self, program: Program, state: Mapping[str, np.ndarray], results: list[str]) -> None:
        self._program = program
        self._names = list(state)
        self._results = results
        self._sets = [{name: program.hold(array) for name, array in state.items()} for _ in range(_SETS)]
        self._at = 0

    def run(self, feeds: Mapping[str, np.ndarray], program: Program | None = None) -> dict[str, np.ndarray]:
        """One run: the results, on the host. The new state is `state()` from now on.

        program   another one with the same state and results (other gradient rules), instead of the usual
        """
        now, after = self._sets[self._at], self._sets[(self._at + 1) % _SETS]
        arrays = (program or self._program).run_bound(
            feeds, now, {f"{name}.next": after[name] for name in self._names}, self._results
        )
        self._at = (self._at + 1) % _SETS
        return arrays

    def state(self, name: str, back: int = 0) -> np.ndarray:
        """A copy of one part of the state, as it was `back` runs ago (at most two)."""
        if not 0 <= back < _SETS:
            raise ValueError(f"only {_SETS - 1} runs are remembered, {back} were asked for")
        return np.array(self._sets[(self._at - back) % _SETS][name].numpy())

    @property
    def lost(self) -> bool:
        """Whether the state went with an isolated network's process."""
        return any(getattr(value, "lost", False) for value in self._sets[self._at].values())

    def replace(self, name: str, array: np.ndarray) -> None:
        """Give one part of the state another value."""
        self._sets[self._at][name] = self._program.hold(array)
