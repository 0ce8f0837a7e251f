"""A model that is opened to be run: in batches that keep their pictures apart, compiled once for each set of values."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz import isolate, programs
from onnxviz.errors import (
    ModelRejected,
    ModelUnsuitable,
    NotFinite,
    OnnxVizError,
    at_least,
    judged,
    judging,
    ways,
)
from onnxviz.graph.analysis.dataflow import flat
from onnxviz.graph.open.load import Loaded
from onnxviz.graph.open.weights import told
from onnxviz.graph.shapes import skeleton
from onnxviz.inputs import DEFAULT_SIZE, InputSpec
from onnxviz.limits import Limits
from onnxviz.programs import compile
from onnxviz.progress import Progress, silent
from onnxviz.runtime import providers
from onnxviz.runtime.ort import Program

if TYPE_CHECKING:
    from onnxviz.graph.head import Head
    from onnxviz.graph.layers import Activations, Layer
    from onnxviz.graph.open.admission import Admission
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.provenance import Likeness
    from onnxviz.runtime.worker import Worker


class Running:
    """A network as a function of tensors: what it is made of, and its values. `Network` adds pictures and classes."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        model: ir.Model,
        spec: InputSpec,
        preprocessing: Preprocessing,
        provider: str,
        threads: int | None,
        warnings: list[str],
        backend: str,
        optimise: bool,
        worker: Worker | None,
    ) -> None:
        self._loaded = loaded
        self.model = model
        self.input = spec
        self.preprocessing = preprocessing
        self.provider = provider
        self.threads = threads
        self.warnings = warnings
        self.backend = backend
        self.worker = worker
        self.optimise = optimise  # whether ONNX Runtime may rewrite what is compiled
        self._programs: dict[Hashable, Program] = {}
        self._gradients: dict[Hashable, Any] = {}
        self._ran: list[str] = []  # the provider that ran first
        self._admissions: dict[str, Admission] = {}
        self._backends: dict[str, str | None] = {}
        self.likeness: Likeness | None = None  # where the layers have the names of another file
        self._mixed: str | None = None  # what mixes the images of a batch, as far as the graph tells

    # --- what it is made of ---------------------------------------------------------------------

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels of what the network sees, unless images keep their own size.

        An open side that follows each picture's aspect has a stand-in here.
        """
        given = self.preprocessing.size or (self.input.height, self.input.width)
        return given[0] or DEFAULT_SIZE, given[1] or DEFAULT_SIZE

    @cached_property
    @judging
    def layers(self) -> tuple[Layer, ...]:
        """Every named value that depends on the image, in the order of computation."""
        from onnxviz.graph import layers

        return layers.of(self._activations)

    @cached_property
    @judging
    def _activations(self) -> Activations:
        from onnxviz.graph.layers import Activations

        return Activations(self.model, self.input.name, self.size)

    @cached_property
    def sizes(self) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
        """The name and shape of every layer: `layers` without what takes longer to tell."""
        return self._activations.sizes()

    @property
    def elements(self) -> int:
        """How many numbers all layers hold for one image; what is dynamic counts once."""
        return programs.elements(shape[1:] for _, shape in self.sizes)

    def layer(self, name: str) -> Layer:
        """The layer called `name`: a value's, a node's or a module's name.

        raises   UnknownLayer, suggesting near names
        """
        from onnxviz.graph.layers import resolve

        found = resolve(self.layers, name)
        if self.likeness is not None and name in self.likeness.nearly:
            self.warn(self.likeness.nearly[name])
        elif (
            found.quantised is not None
            and name.startswith(found.name)
            and name not in (found.name, *found.also)
        ):
            self.warn(
                f"{name!r} is taken for {found.name!r}, which this quantised file gives behind its rectifier"
            )
        return found

    @property
    def limits(self) -> Limits:
        """The limits that the model was loaded under."""
        return self._loaded.limits

    @cached_property
    def findings(self) -> list[str]:
        """What is odd about the weights (NaN, infinities)."""
        return self._loaded.findings()

    def warn(self, text: str) -> None:
        """Note what was assumed or looks odd, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def heed_weights(self) -> None:
        """Warn of weights that hold NaN or infinities: what is computed from them may show it, or hide it.

        It takes 2 ms for 18 MB, in the time of memory; what the techniques do next reads all weights too.
        """
        for text in told(self.findings):
            self.warn(text)

    # --- batches --------------------------------------------------------------------------------

    @cached_property
    @judging
    def batched(self) -> tuple[ir.Model, int | None]:
        """The model with a dynamic batch, and None; or as it is, and the batch that it takes: no other number."""
        from onnxviz.graph.surgery import keep_batch, mixing, single

        self.heed_weights()
        batch, mixed = self.input.batch, mixing(self.model, self.input.name)
        if mixed is None and batch is None:
            return keep_batch(self.model, self.input.name), None
        if mixed is None:
            from onnxviz.graph.dynamic_batch import Mixes, free_batch

            try:
                return free_batch(self.model), None
            except ModelUnsuitable as reason:
                if not isinstance(reason.__cause__, Mixes):
                    self.warn(f"the batch stays fixed to {batch}: {reason}")
                    return self.model, batch
                mixed = str(reason.__cause__)
        self._mixed = self._one_at_a_time(mixed)
        return (single(self.model, self.input.name), 1) if batch is None else (self.model, batch)

    @cached_property
    @judging
    def alone(self) -> str | None:
        """Why images go through one at a time, whatever batch is asked for; None where a batch keeps them apart.

        Proven from the graph where the batch can be followed through it, else tried once on two images.
        """
        from onnxviz.graph.surgery import plain

        fixed = self.batched[1]
        if fixed is not None:
            return self._mixed or (self._tried(fixed) if fixed > 1 else None)
        if self.input.batch is not None or plain(self.model, self.sizes):  # one that could be freed is proven
            return None
        from onnxviz.graph import dynamic_batch
        from onnxviz.graph.dynamic_batch import Mixes, Refused

        try:
            dynamic_batch.independent(self.model, self.input.name)
        except Mixes as reason:
            return self._one_at_a_time(str(reason))
        except (Refused, ModelRejected):
            return self._tried(2)
        return None

    def _tried(self, count: int) -> str | None:
        """Whether two images that differ give beside each other, `count` in a run, what they give alone."""
        halves = ir.DataType.FLOAT16, ir.DataType.BFLOAT16
        half = any(value.dtype in halves for value in self.model.graph.initializers.values())
        found = programs.difference(
            self.program(), self.samples(), count, alone=self.batched[1] or 1, half=half
        )
        return None if found is None else self._one_at_a_time(found)

    def _one_at_a_time(self, reason: str) -> str:
        self.warn(f"images go through this network one at a time: {reason}")
        return reason

    def samples(self) -> np.ndarray:
        """Two pictures that no network takes for each other, as its input: noise, and half dark and half light."""
        height, width = self.size
        rng = np.random.default_rng(0)
        if self.input.channels not in (None, 1, 3, 4):  # no pictures: numbers of two deviations
            sizes = {"N": 2, "C": self.input.channels, "H": height, "W": width}
            drawn = rng.random([sizes[letter] for letter in self.input.layout], np.float32)
            return drawn * np.array([1, 0.1], np.float32).reshape(2, 1, 1, 1)
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        halves = np.full((height, width, 3), 230, np.uint8)
        halves[: height // 2] = 20
        return self.preprocessing.normalise(np.stack([noise, halves])).astype(np.float32, copy=False)

    def batch_size(self, batch: int | None = None) -> int:
        """The number of images a run: `batch`, what the file fixes, or what the memory allows.

        1 where a batch does not keep its images apart (`alone`). A file of fixed batch gets its own number even then:
        each run is filled up to it (`programs.filled`).
        """
        if batch is not None:
            at_least("batch", batch)
        fixed = self.batched[1]
        if batch == 1 and fixed is None:
            return 1
        if self.alone is not None:
            return 1
        if fixed is not None or batch is not None:
            return fixed or batch or 1
        on_cpu = providers.name(self.provider) == providers.CPU
        most = programs.LARGEST_ON_CPU if on_cpu else programs.LARGEST_ON_DEVICE
        return programs.batch_size(self.elements, most)

    @cached_property
    @judging
    def _axes(self) -> dict[str, int]:
        from onnxviz.graph.surgery import moved_axes

        return moved_axes(self.batched[0], self.input.name)

    def pictures_axis(self, name: str) -> int:
        """Which axis of the value called `name` has an entry for each picture."""
        return self._axes.get(name, 0)

    @property
    def _concluded(self) -> Head | None:
        """What the output is, where that was concluded already (`Network.end`)."""
        found: Head | None = self.__dict__.get("end")
        return found

    def pictures_first(self, name: str, array: np.ndarray) -> np.ndarray:
        """What a run gave for the value called `name`, with the pictures on axis 0."""
        end = self._concluded
        whole = len(end.shape) + (end.batch is None) if end is not None and end.scores == name else 0
        if array.ndim in (0, whole - 1):
            return array[None]  # a file that squeezes its only picture away
        axis = self.pictures_axis(name)
        return np.moveaxis(array, axis, 0) if axis else array

    # --- running --------------------------------------------------------------------------------

    def program(self, names: Sequence[str] = (), **options: Any) -> Program:
        """The network compiled with the values `names` as outputs (its own outputs where none are named)."""
        from onnxviz.graph.surgery import cut

        return self.compile(
            lambda: cut(self.batched[0], list(names)) if names else self.batched[0],
            key=("values", *names),
            **options,
        )

    @cached_property
    def own(self) -> frozenset[str]:
        """The names of all nodes and values of the file, its functions inlined: what else fails is our mistake."""
        from onnxviz.graph.naming import names

        return frozenset(names(flat(self.model).graph))

    def compile(self, build: Callable[[], ir.Model], *, key: Hashable, **options: Any) -> Program:
        """The graph that `build` gives, compiled for this network's provider.

        key   what it is kept under; None: it is not kept
        """
        options = {"optimise": self.optimise, **options}
        full = (key, tuple(sorted(options.items())))
        program = None if key is None else self._programs.get(full)
        if program is None:
            settings = {
                "provider": self.provider,
                "threads": self.threads,
                "seconds": self.limits.run_seconds,
                "worker": self.worker,
                "small": None in (self.input.height, self.input.width),
                "own": self.own,
                **options,
            }
            with isolate.on(self.worker):
                with judged(self.judge):
                    graph = build()
                program = compile(graph, **settings)
            if key is not None:
                self._programs[full] = program
                if not self._ran:
                    self._ran.append(program.provider)
        return program

    @contextmanager
    def passing(self) -> Iterator[None]:
        """What is compiled within is freed at the end: each session holds the weights once more, or twice."""
        stores: tuple[dict[Hashable, Any], ...] = (self._programs, self._gradients)
        before = [dict(store) for store in stores]
        try:
            yield
        finally:
            for store, kept in zip(stores, before, strict=True):
                store.clear()
                store.update(kept)
            isolate.give_back()

    def admit(self, name: str, sides: Mapping[str, int]) -> None:
        """Refuse an input of these sides ('N', 'C', 'H', 'W') that does not reach the value: nothing is run for it.

        raises   ImageRejected
        """
        if name not in self._admissions:
            from onnxviz.graph.open.admission import Admission
            from onnxviz.graph.surgery import cut

            self._admissions[name] = Admission(skeleton(cut(self.batched[0], [name])))
        self._admissions[name].check({self.input.name: [sides[letter] for letter in self.input.layout]})

    def judge(self) -> None:
        """Run the network as the file has it, once: what ONNX Runtime says of it, see `errors.judged`.

        raises   ModelRejected, ModelFailed, LimitExceeded, WorkerCrashed; ModelUnsuitable where its scores are not
                 those of the pictures
        """
        program = self.compile(lambda: self.model, key="as it is")
        fed = programs.filled(self.samples()[:1], self.input.batch or 1)
        self.require_rows(program({self.input.name: fed}), len(fed))

    def require_rows(self, arrays: Mapping[str, np.ndarray], pictures: int) -> None:
        """Refuse scores, where they are among what a run gave, that have no row for each of its pictures.

        raises   ModelUnsuitable
        """
        scores = self._concluded.scores if self._concluded is not None and self._concluded.scored else None
        if scores is None or scores not in arrays:
            return
        rows = len(self.pictures_first(scores, arrays[scores]))
        if rows != pictures:
            raise ModelUnsuitable(
                f"output {scores!r} has {rows} rows for {pictures} pictures: whose they are cannot be told"
                + ways("take one with --layer")
            )

    def run(
        self,
        x: np.ndarray,
        names: Sequence[str],
        *,
        batch: int | None = None,
        progress: Progress = silent,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """The values called `names` for the input tensor `x`, in batches: {name: (N, ...) array}.

        options   those of `programs.compile`
        """
        program = self.program(names, **options)
        size = self.batch_size(batch) if len(x) > 1 or batch is not None else 1
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(x), size):
            count = len(x[start : start + size])
            fed = programs.filled(x[start : start + size], self.batched[1] or 1)
            arrays = program({self.input.name: fed}, names)
            self.require_rows(arrays, len(fed))
            for name in names:
                parts[name].append(self.pictures_first(name, arrays[name])[:count])
            progress(start + count, len(x), "images")
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    # --- numbers that are NaN or infinite -------------------------------------------------------

    def require_finite(self, values: np.ndarray, what: str, x: np.ndarray | None = None) -> None:
        """Refuse values of which some are NaN or infinite.

        values   (N, ...), one entry a picture
        what     what they are, in the plural
        x        the network's input tensor that they were computed for, where it is at hand
        raises   NotFinite, naming a weight, or the layer where the numbers overflow
        """
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not bad.any():
            return
        place = int(np.argmax(bad))
        which = f" for picture {place} (from 0) of {len(bad)}" if len(bad) > 1 else ""
        example = x[place : place + 1] if x is not None and len(x) == len(bad) else None
        raise NotFinite(f"{what} are NaN or infinite{which}: {self.why_not_finite(example)}")

    def why_not_finite(self, x: np.ndarray | None = None) -> str:
        """Why what the network gives is not finite, for the end of a sentence.

        x   the network's input tensor for one picture; None: none is at hand
        """
        if self.findings:
            more = f", and {len(self.findings) - 1} weights more" if len(self.findings) > 1 else ""
            return f"{self.findings[0]}{more}" + ways("export the model again from sound weights")
        if x is not None and not np.isfinite(x).all():
            return "the given tensor holds NaN or infinities itself"
        where, names = "on the way", [name for name, _ in self.sizes]
        if x is not None:
            with suppress(OnnxVizError):
                found = self.run(x, names)
                odd = (f"at layer {name!r}" for name in names if not np.isfinite(found[name]).all())
                where = next(odd, where)
        return f"all weights are finite, and the numbers overflow {where}" + ways(
            "check how pictures become the input (--preprocess NAME|FILE)", "export the model in a wider type"
        )

    def ran_on(self, backend: str, note: str | None = None) -> None:
        """Put on record which backend gradients come from, with a warning where it is not the usual one."""
        from onnxviz.backends.choose import version

        self._backends[backend] = version(backend)
        if note is not None:
            self.warn(note)
