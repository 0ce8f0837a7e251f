"""Running graphs on ONNX Runtime: `compile(model)` gives a callable on arrays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir

from onnxviz.errors import LimitExceeded, ModelRejected
from onnxviz.graph.analysis.dataflow import follows_values
from onnxviz.graph.naming import name_nodes
from onnxviz.runtime import failures, isolate
from onnxviz.runtime import providers as _providers
from onnxviz.runtime.failures import Places
from onnxviz.runtime.isolate import region
from onnxviz.runtime.watchdog import WATCHDOG, waited

if TYPE_CHECKING:
    from onnxviz.graph.open.admission import Admission
    from onnxviz.runtime.worker import Worker

# Weights from this size on are handed to ONNX Runtime beside the graph: no second copy is serialised, files over
# 2 GB work, and ONNX Runtime never opens a file that a model names.
_INLINE_BYTES = 1024
_NUMPY_TYPES = {
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
    ir.DataType.INT16,
    ir.DataType.UINT16,
    ir.DataType.INT32,
    ir.DataType.UINT32,
    ir.DataType.INT64,
    ir.DataType.UINT64,
    ir.DataType.BOOL,
}
# Folding a constant into something larger than this is the model's attack or mistake, not an optimisation.
_FOLDING_BYTES = 1 << 30
_RUNNING: Final = "running the model"
# Ctrl-C may wait for so many seconds: that is how long a run may take that is not given a thread of its own.
_QUICK: Final = 0.3
_MOST_SIZES: Final = 1000
T = TypeVar("T")


class Program:
    """A compiled graph: a callable from named arrays to named arrays.

    inputs, outputs   the names, in order; of the outputs those that are tensors
    provider          the execution provider that really runs it
    """

    def __init__(
        self,
        session: Any,
        provider: str,
        seconds: float | None,
        keep: list[Any],
        places: Places,
        admission: Admission | None = None,
        follows_values: bool = False,
    ) -> None:
        self._session = session
        self._admission = admission  # None where no size is left to the run
        self._follows_values = follows_values
        self._quick: set[tuple[tuple[int, ...], ...]] = set()  # the inputs' sizes with which it was
        self._ort = _providers.onnxruntime()
        self._seconds = seconds
        self._keep = keep  # the memory behind the weights
        self._places = places
        self.provider = provider
        self.inputs = [value.name for value in session.get_inputs()]
        # A sequence or a map is no array: it is computed by nobody who does not ask for it.
        self.outputs = [value.name for value in session.get_outputs() if value.type.startswith("tensor(")]
        self._types: dict[str, Any] = {value.name: _TYPES.get(value.type) for value in session.get_inputs()}

    @property
    def on_device(self) -> bool:
        """Whether arrays live in another memory than NumPy's."""
        return self.provider == _providers.CUDA

    def put(self, name: str, array: np.ndarray) -> Any:
        """The array for input `name`, moved to the device once, to be fed to many runs."""
        value = np.ascontiguousarray(array, dtype=self._types[name])
        if self.on_device:
            return self._ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0)
        return value

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
        if self._admission is not None:
            self._admission.check(
                {
                    name: value.shape() if callable(value.shape) else value.shape
                    for name, value in feeds.items()
                }
            )

    def _answering(
        self, run: Callable[[], T], options: Any, feeds: Mapping[str, Any], held: Iterable[Any] = ()
    ) -> T:
        """Run; where it may take long, in a thread of its own (`watchdog.waited`), which costs a quick run too much.

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
        binding = self._session.io_binding()
        for name, value in feeds.items():
            if isinstance(value, self._ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value, dtype=self._types[name]))
        for name in names:
            binding.bind_output(name, "cpu")
        with region(_RUNNING, self._seconds):
            self._session.run_with_iobinding(binding, options)
        copied: list[np.ndarray] = binding.copy_outputs_to_cpu()
        return copied

    def hold(self, array: np.ndarray) -> Any:
        """A float32 array as an OrtValue in the memory that the program runs in, to be read and written by runs."""
        value = np.array(array, dtype=np.float32, order="C")
        if self.on_device:
            return self._ort.OrtValue.ortvalue_from_numpy(value, "cuda", 0)
        return self._ort.OrtValue.ortvalue_from_numpy(value)

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
        binding = self._session.io_binding()
        try:
            for name, value in held.items():
                binding.bind_ortvalue_input(name, value)
            for name, array in feeds.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(array, dtype=self._types[name]))
            for name, value in into.items():
                binding.bind_ortvalue_output(name, value)
            for name in results:
                binding.bind_output(name, "cpu")
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
        return failures.typed(error, self._places, ended, any_size=self._admission is not None)


_TYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}


class Graph(NamedTuple):
    """A model as sessions take it.

    message          the serialised graph without its large weights
    weights          these, by name
    open             whether the run decides sizes, besides the batch
    follows_values   whether its work follows the inputs' values (`dataflow.follows_values`)
    """

    message: bytes
    weights: dict[str, np.ndarray]
    open: bool
    follows_values: bool = False


def compile(
    model: ir.Model,
    *,
    provider: str = "auto",
    threads: int | None = None,
    spin: bool = True,
    seconds: float | None = None,
    prepack: bool = True,
    optimise: bool = True,
    worker: Worker | None = None,
    small: bool = False,
    own: Collection[str] | None = None,
) -> Program:
    """Make `model` runnable.

    provider   'auto', 'cpu', 'cuda' or any name that ONNX Runtime knows
    threads    threads within an operator; None leaves it to ONNX Runtime
    spin       whether idle threads wait busily (fastest alone) or sleep (kinder beside decoding threads)
    seconds    the longest that one run may take; None: any time
    prepack    whether ONNX Runtime may keep copies of matrices in the order that large products read them in
    optimise   whether ONNX Runtime may rewrite the graph; it changes the numbers of quantised files
    worker     the child process to run in; None: this process
    small      whether the sizes that the graph fixes may be too small for it: they are not those of the file
    own        the names of the nodes and values that are the network's own, whose failures are not ours; None: all
    raises     ProviderUnavailable, ModelRejected, LimitExceeded, WorkerCrashed; ImageRejected for such sizes
    """
    settings: dict[str, Any] = {
        "provider": provider,
        "threads": threads,
        "spin": spin,
        "seconds": seconds,
        "prepack": prepack,
        "optimise": optimise,
        "places": failures.places(model.graph, own),
    }
    graph = _split(model)
    if small and not graph.open:  # no run will have another size
        from onnxviz.graph.open.admission import Admission

        Admission(graph.message).check({})
    try:
        if worker is not None:
            from onnxviz.runtime.remote import RemoteProgram

            return RemoteProgram(worker, graph, settings)
        return session(graph, **settings)
    except ModelRejected as error:
        if small and not graph.open and failures.of_lengths(str(error)):
            raise failures.other_size(str(error)) from error
        raise


def session(
    graph: Graph,
    *,
    provider: str,
    threads: int | None,
    spin: bool,
    seconds: float | None,
    prepack: bool,
    optimise: bool,
    places: Places,
) -> Program:
    """The graph on ONNX Runtime in this process, see `compile`."""
    ort = _providers.onnxruntime()
    # Both let a model change how its own session is set up (promise P1).
    os.environ.pop("ORT_LOAD_CONFIG_FROM_MODEL", None)
    wanted = _providers.choose(provider)
    if wanted != [_providers.CPU]:
        isolate.free_memory()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_FOLDING_BYTES)
    )
    weights = list(graph.weights.values())
    values = [ort.OrtValue.ortvalue_from_numpy(weight) for weight in weights]
    options.add_external_initializers(list(graph.weights), values)
    try:
        with region("making a session of the model"):
            made = ort.InferenceSession(graph.message, options, providers=wanted)
    except MemoryError as error:
        raise LimitExceeded("the model ran out of memory while it was loaded") from error
    except Exception as error:
        raise ModelRejected(f"ONNX Runtime refuses the model: {failures.reason(str(error))}") from error
    admission = None
    if graph.open:
        from onnxviz.graph.open.admission import Admission

        admission = Admission(graph.message)
    return Program(
        made,
        _providers.check(provider, wanted, made),
        seconds,
        [weights, values],
        places,
        admission,
        graph.follows_values,
    )


def _split(model: ir.Model) -> Graph:
    """The graph's bytes without its large weights, and those weights by name."""
    weights: dict[str, np.ndarray] = {}
    thin = model.clone()
    thin.metadata_props.clear()
    name_nodes(thin.graph)  # so that each error names one
    for name, value in list(thin.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            # ONNX Runtime drops it before it looks for the weights that it is handed.
            del thin.graph.initializers[name]
            continue
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _INLINE_BYTES or tensor.dtype not in _NUMPY_TYPES:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            "beside", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(weights[name].shape), name=name
        )
    message = ir.serde.serialize_model(thin).SerializeToString()
    return Graph(message, weights, any(map(_open, model.graph.inputs)), follows_values(thin))


def _open(value: ir.Value) -> bool:
    return value.shape is None or any(not isinstance(size, int) for size in value.shape[1:])
