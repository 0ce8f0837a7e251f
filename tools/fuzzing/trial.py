"""One mutant, tried in a child process: what each stage came to, and how the child ended.

A forked child of a process that has everything imported costs some milliseconds. It writes a line when a stage begins
and when it ends, so that what a crash or a hang happened in is known; memory and processor time are limited.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzzing import mutations
from fuzzing.networks import ROOT

PACKAGE = str(ROOT / "onnxviz") + os.sep
MEMORY = 4 << 30  # bytes more than the parent has mapped
SECONDS = 20  # of the processor
PATIENCE = 90  # of the clock: the machine may be busy
RUN_SECONDS = 5.0
# Refusals that ONNX Runtime 1.32's running proves nothing against: it reads and writes beside a matrix that is not
# square, so that it comes back is chance; and it puts a function's body where it is called, so that the body sees
# names of the caller, which ONNX's own checker refuses.
STANDING = ("at the 'Inverse' node", "a function sees its inputs only")

WORKED, REFUSED, RAW, CRASHED, HUNG = "worked", "refused", "raw", "crashed", "hung"
BAD = (RAW, CRASHED, HUNG)


@dataclass
class Outcome:
    """What became of a mutant.

    verdict   worked (some stages may have refused it, typed), refused (at `load`), raw, crashed or hung
    stages    what each stage came to: 'ok', 'ModelRejected/3', or the bucket of a raw exception
    bucket    where it went wrong, for those that did: (stage, exception type or signal, innermost frame of onnxviz)
    text      the message, or the end of the traceback
    false     ONNX Runtime alone runs the file that `load` refuses: the frame that refuses, and its message
    """

    seed: int
    verdict: str
    stages: dict[str, str] = field(default_factory=dict)
    bucket: tuple[str, str, str] | None = None
    text: str = ""
    false: tuple[str, str] | None = None

    @property
    def bad(self) -> bool:
        return self.verdict in BAD


#: What ONNX Runtime may run and is refused on purpose: text that is no UTF-8, two versions of one operator set,
# attributes given twice or by a reference to none, axes that become ones by losing all but 32 bits, zero
# points of a node that it leaves out, weights of more axes than NumPy has, a crop to a length below 0.
ON_PURPOSE = (
    "graph/open/protobuf_scan.py",
    "graph/open/structure.py:_opsets",
    "graph/open/structure.py:_attributes",
    "graph/open/operands.py:_axis",
    "graph/open/operands.py:_zero_point",
    "graph/open/sizes.py:_negative",
    "graph/open/tensors.py:check_dims",
)


def frame(error: BaseException) -> str:
    """The innermost line of onnxviz that an exception came through."""
    inner = "outside"
    for one in traceback.extract_tb(error.__traceback__):
        if one.filename.startswith(PACKAGE):
            inner = f"{one.filename.removeprefix(PACKAGE)}:{one.name}"
    return inner


# --- the stages -----------------------------------------------------------------------------------


def stages(content: bytes, seed: int, isolate: bool = False) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done to a network, one after the other: a name and a call each.

    seed   two of the techniques are tried, which ones it says; below 0: all of them
    """
    import onnxviz
    from onnxviz import files
    from onnxviz.limits import Limits

    chance = random.Random(f"{seed}/stages")
    photo = _photo()
    held: list[Any] = []
    options: dict[str, Any] = {"isolate": True} if isolate else {}

    def load() -> None:
        limits = Limits(run_seconds=RUN_SECONDS)
        held.append(onnxviz.load(content, provider="cpu", threads=1, limits=limits, **options))

    def gradient() -> None:
        net = held[0]
        net.value_and_gradient(_objective(net), rules=chance.choice(("plain", "plain", "guided")))(
            net.prepare(photo)
        )

    def torch() -> None:
        other = onnxviz.load(content, provider="cpu", backend="torch")
        other.value_and_gradient(_objective(other))(other.prepare(photo))

    yield "load", load
    if not held:
        return
    net = held[0]
    yield "layers", lambda: len(net.layers)
    yield "inspect", lambda: (files.json_bytes(onnxviz.inspect(net).to_dict()), onnxviz.inspect(net).lines())
    yield "predict", lambda: net.predict(photo)
    yield "gradient", gradient
    layers = {
        "gradient_model": lambda: onnxviz.gradient_model(content),
        "expose": lambda: onnxviz.expose(net),
        "activations": lambda: net.activations([photo, photo], [layer.name for layer in net.layers[-1:]]),
        "saliency": lambda: onnxviz.saliency(net, photo, target=0),
        "cam": lambda: onnxviz.cam(net, photo, target=0),
        "occlusion": lambda: onnxviz.occlusion(net, photo, target=0, window=16, stride=16),
        "filters": lambda: onnxviz.filters(net),
        "embed": lambda: onnxviz.embed(net, [photo, photo]),
        "explainer_model": lambda: onnxviz.explainer_model(net),
        "batch": lambda: net.run(net.prepare([photo] * 3), [layer.name for layer in net.layers[:1]]),
    }
    if seed < 0:
        layers |= {
            "torch": torch,
            "compare": lambda: onnxviz.compare(net, net, [photo, photo], probes=2, restore=2),
            "audit": lambda: onnxviz.audit(net, [photo, photo]),
        }
    for name in chance.sample(sorted(layers), 2) if seed >= 0 else layers:
        yield name, layers[name]


def _photo() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)


def _objective(net: Any) -> Any:
    """The first class; where there are none, the first channel of the last layer."""
    from onnxviz import objectives
    from onnxviz.errors import OnnxVizError

    try:
        _ = net.logits
        return objectives.logit(0)
    except OnnxVizError:
        return objectives.channel(net.layers[-1].name, 0) if net.layers else objectives.logit(0)


def oracle(content: bytes, refusal: str) -> bool:
    """Whether plain ONNX Runtime opens the file, runs it on random numbers, and proves with that the refusal wrong.

    It has to with and without its optimiser: it takes a Clip's bounds of the shape 1×1 where it has fused the Clip into
    a convolution, and nowhere else; and a network is cut, exposed and differentiated in other pieces than that.
    """
    if any(part in refusal for part in STANDING):
        return False
    import numpy as np
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    for options.graph_optimization_level in (levels.ORT_ENABLE_ALL, levels.ORT_DISABLE_ALL):
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            rng, feeds = np.random.default_rng(0), {}
            for value in session.get_inputs():
                shape = [
                    d if isinstance(d, int) else (1 if axis == 0 else 32)
                    for axis, d in enumerate(value.shape)
                ]
                kind = {"float": "f4", "float16": "f2", "double": "f8", "bool": "?"}.get(
                    value.type[7:-1], value.type[7:-1]
                )
                feeds[value.name] = rng.random(shape).astype(kind)
            session.run(None, feeds)
        except Exception:
            return False
    return True


# --- in the child ---------------------------------------------------------------------------------


def _child(content: bytes, seed: int, pipe: int, ask: bool, isolate: bool) -> None:
    from onnxviz.errors import ModelRejected, ModelUnsuitable, OnnxVizError, UnsupportedOperator

    def tell(*what: Any) -> None:
        os.write(pipe, json.dumps(what).encode() + b"\n")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        waiting = stages(content, seed, isolate)
        while True:
            name = "load"
            try:
                name, call = next(waiting)
            except StopIteration:
                return
            tell("begin", name)
            try:
                call()
                tell("end", name, "ok")
            except OnnxVizError as error:
                if error.exit_code == 5:
                    tell("raw", name, type(error).__name__, frame(error), str(error)[:600])
                    continue
                text = str(error)
                tell("end", name, f"{type(error).__name__}/{error.exit_code}", frame(error), text[:300])
                refused = isinstance(error, ModelRejected) and not isinstance(
                    error, (ModelUnsuitable, UnsupportedOperator)
                )
                if ask and refused and name == "load":
                    tell("begin", "oracle")
                    tell("false", oracle(content, text), frame(error), text[:300])
            except Exception as error:
                tell("raw", name, type(error).__name__, frame(error), traceback.format_exc()[-1500:])


def _limit() -> None:
    with Path("/proc/self/statm").open() as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@dataclass
class _Running:
    seed: int
    pid: int
    pipe: int
    until: float
    said: bytes = b""
    late: bool = False


def warm() -> None:
    """Import everything and run each stage once, so that children find it done."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import importlib
    import pkgutil

    import onnxscript.optimizer
    import onnxscript.version_converter  # noqa: F401

    import onnxviz
    from fuzzing import networks

    for found in pkgutil.walk_packages(onnxviz.__path__, "onnxviz."):
        if not any(
            part in found.name for part in ("__main__", "style_network", "ort_training", "exporting", "map")
        ):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(found.name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("tiny", "qdq"):
            content = networks.content(name)
            for seed in range(12):
                for _, call in stages(content, seed):
                    try:
                        call()
                    except Exception as error:
                        from onnxviz.errors import OnnxVizError

                        if not isinstance(error, OnnxVizError):
                            raise
            oracle(content, "")
    gc.collect()
    gc.freeze()


def start(seed: int, content: bytes, ask: bool, isolate: bool = False) -> _Running:
    """Begin a trial in a child."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.set_blocking(reading, False)
        return _Running(seed, pid, reading, time.monotonic() + PATIENCE)
    code = 70
    try:
        os.close(reading)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(null, stream)
        _limit()
        _child(content, seed, writing, ask, isolate)
        code = 0
    except BaseException as error:  # the harness itself: told as what it is
        os.write(
            writing,
            json.dumps(["raw", "harness", type(error).__name__, frame(error), repr(error)]).encode() + b"\n",
        )
    finally:
        os._exit(code)


def finish(running: _Running, status: int) -> Outcome:
    """What a child that has ended came to."""
    os.close(running.pipe)
    outcome = Outcome(running.seed, WORKED)
    last = "start"
    for line in running.said.decode().splitlines():
        kind, *rest = json.loads(line)
        if kind == "begin":
            last = rest[0]
        elif kind == "end":
            outcome.stages[rest[0]] = rest[1]
            if rest[0] == "load" and rest[1] != "ok":
                outcome.verdict, outcome.text = REFUSED, f"{rest[2]}: {rest[3]}"
        elif kind == "false":
            outcome.false = (rest[1], rest[2]) if rest[0] and not rest[1].startswith(ON_PURPOSE) else None
            last = "done"
        elif kind == "raw":
            name, error, where, text = rest
            outcome.stages[name] = f"{error} at {where}"
            if outcome.bucket is None:
                outcome.verdict, outcome.bucket, outcome.text = RAW, (name, error, where), text
    if last == "oracle":  # that ONNX Runtime alone crashes is no matter here
        return outcome
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        slow = running.late or number in (signal.SIGXCPU, signal.SIGKILL)
        outcome.verdict = HUNG if slow else CRASHED
        outcome.bucket = (last, "hung" if slow else signal.Signals(number).name, "native")
        outcome.stages[last] = outcome.bucket[1]
    elif os.WEXITSTATUS(status) and outcome.bucket is None:
        outcome.verdict, outcome.bucket = CRASHED, (last, f"exit {os.WEXITSTATUS(status)}", "native")
    return outcome


def trials(
    cases: Iterable[tuple[int, bytes]],
    jobs: int = 1,
    ask: Callable[[int], bool] = lambda seed: False,
    isolate: bool = False,
) -> Iterator[Outcome]:
    """Try each (seed, content), `jobs` at a time; outcomes come as they are done."""
    waiting = iter(cases)
    live: dict[int, _Running] = {}
    more = True
    try:
        while more or live:
            while more and len(live) < jobs:
                case = next(waiting, None)
                if case is None:
                    more = False
                    break
                running = start(case[0], case[1], ask(case[0]), isolate)
                live[running.pipe] = running
            if not live:
                break
            ready, _, _ = select.select(list(live), [], [], 0.5)
            for pipe in ready:
                running = live[pipe]
                said = os.read(pipe, 1 << 16)
                running.said += said
                if not said:
                    del live[pipe]
                    yield finish(running, os.waitpid(running.pid, 0)[1])
            for running in live.values():
                if time.monotonic() > running.until and not running.late:
                    running.late = True
                    os.kill(running.pid, signal.SIGKILL)
    finally:
        for running in live.values():
            os.kill(running.pid, signal.SIGKILL)
            os.waitpid(running.pid, 0)
            os.close(running.pipe)


def mutants(seeds: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """(seed, content) of each seed."""
    for seed in seeds:
        yield seed, mutations.mutant(seed)[0]


def one(content: bytes, seed: int, isolate: bool = False) -> Outcome:
    """One trial of any content, its stages those of `seed`."""
    return next(trials([(seed, content)], isolate=isolate))
