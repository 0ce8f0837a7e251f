"""Networks in a process of their own: the same numbers, and a model that dies there leaves its caller alive."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxviz
from onnxviz import isolate, objectives
from onnxviz.errors import (
    LimitExceeded,
    ModelRejected,
    UnknownLayer,
    UnsupportedOperator,
    UsageError,
    WorkerCrashed,
    ways,
)
from onnxviz.progress import Interrupted
from onnxviz.runtime.ort import Resident
from onnxviz.runtime.pool import Pool
from onnxviz.runtime.process import Channel, Closed, Life, described, restored, shared
from onnxviz.runtime.worker import Worker, lacking
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.updates import Adam

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

OPTIONS = {"provider": "cpu", "mean": [0.5] * 3, "std": [0.2] * 3}


def model(nodes: str, *, seed: int = 0, weights: str = "", scores: int = 5) -> bytes:
    """A small classifier of pictures of 16×16 with further nodes between its dense layer's result `s` and `y`."""
    made = onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 3, 16, 16] x) => (float[N, {scores}] y)
        <float[8, 3, 3, 3] w = {{}}, float[8, {scores}] d = {{}}{weights}>
        {{
            c = Conv<pads = [1, 1, 1, 1]>(x, w)
            r = Relu(c)
            p = GlobalAveragePool(r)
            f = Flatten(p)
            s = MatMul(f, d)
            {nodes}
        }}
        """
    )
    rng = np.random.default_rng(seed)
    for tensor in made.graph.initializer:
        if not tensor.raw_data and tensor.data_type == onnx.TensorProto.FLOAT and not tensor.float_data:
            values = rng.standard_normal(list(tensor.dims), np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return made.SerializeToString()


PLAIN = model("y = Softmax(s)")
# The least integer by -1 where the picture is bright, by 1 where it is dark.
DIVIDES = model(
    """
    m = ReduceMean<keepdims = 0>(x)
    bright = Greater(m, zero)
    divisor = Where(bright, minus, one)
    quotient = Div(least, divisor)
    q = Cast<to = 1>(quotient)
    small = Mul(q, zero)
    y = Add(s, small)
    """,
    weights=", float zero = {0}, int32[1] minus = {-1}, int32[1] one = {1}, int32[1] least = {-2147483648}",
)
# One operator that takes minutes and next to no memory where the picture is bright: the maximum of a million windows of
# a million numbers. (A product of matrices would take its time to fill them first, and a run ends between operators.)
HANGS = model(
    """
    m = ReduceMean<keepdims = 0>(x)
    bright = Greater(m, two)
    shape = Where(bright, large, small)
    plane = ConstantOfShape(shape)
    most = MaxPool<kernel_shape = [1000, 1000]>(plane)
    total = ReduceSum<keepdims = 0>(most)
    y = Add(s, total)
    """,
    weights=", float two = {2}, int64[4] large = {1, 1, 2000, 2000}, int64[4] small = {1, 1, 1000, 1000}",
)


def isolated(source: bytes | str | Path, **options) -> onnxviz.Network:
    return onnxviz.load(source, isolate=True, **{**OPTIONS, **options})


@pytest.fixture
def opened():
    """`isolated`, closed behind the test."""
    with contextlib.ExitStack() as stack:

        def closing(source: bytes, **options) -> onnxviz.Network:
            net = isolated(source, **options)
            stack.callback(net.close)
            return net

        yield closing


@pytest.fixture(scope="module")
def pair():
    net = isolated(PLAIN)
    yield onnxviz.load(PLAIN, **OPTIONS), net
    net.close()


def photo(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)


def process(net: onnxviz.Network) -> int:
    return net.worker.life().process.pid


def ended(pid: int, seconds: float = 60.0) -> bool:
    """Whether the process is gone, or a zombie that waits for its parent."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def bright() -> np.ndarray:
    return np.full((16, 16, 3), 250, np.uint8)


def dark() -> np.ndarray:
    return np.full((16, 16, 3), 5, np.uint8)


# --- the same numbers -----------------------------------------------------------------------------


def steps(net: onnxviz.Network, optimiser: str) -> list[np.ndarray]:
    """What stays where the program runs."""
    machine = Machine(net, objectives.logit(2), count=2, optimiser=Adam() if optimiser == "adam" else None)
    made = machine.run(6, seed=3) if optimiser == "adam" else machine.lbfgs(6, seed=3)
    return [array for step in made for array in (step.value, step.norm, step.pictures())]


@pytest.mark.parametrize(
    "compute",
    [
        lambda net: net.activations([photo(i) for i in range(5)], ["c", "r", "p"], batch=2).values(),
        *(
            lambda net, name=name: [onnxviz.saliency(net, photo(), target=2, method=name).values]
            for name in ("gradient", "guided", "smoothgrad", "integrated-gradients", "full-gradient")
        ),
        lambda net: [onnxviz.occlusion(net, photo(), target=2, window=4, stride=2).values],
        *(lambda net, one=one: steps(net, one) for one in ("adam", "lbfgs")),
        lambda net: [onnxviz.embed(net, [photo(i) for i in range(7)]).values],
    ],
)
def test_numbers_are_the_same(pair, compute):
    plain, apart = ([np.asarray(array) for array in compute(net)] for net in pair)
    assert any(np.abs(array).max() > 0 for array in plain)
    for one, other in zip(plain, apart, strict=True):
        assert other.dtype == one.dtype and np.array_equal(one, other)


def test_predictions_are_the_same_and_arrays_are_the_callers(pair):
    several = [photo(i) for i in range(5)]
    assert pair[1].predict(several) == pair[0].predict(several)
    flags = pair[1].activations(several, ["c"])["c"].flags
    assert flags.writeable and flags.owndata


def test_gradients_of_several_pictures_go_side_by_side(pair):
    several = np.concatenate([net.prepare([photo(i) for i in range(6)]) for net in pair[:1]])
    found = [net.value_and_gradient(objectives.logit(1))(several) for net in pair]
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b)
    assert pair[1].gradients(objectives.logit(1))._program.threads is None


def test_large_arrays_and_text_travel():
    ours, theirs = map(Channel, socket.socketpair())
    rng = np.random.default_rng(0)
    cases = {
        "large": rng.standard_normal((3, 2**23), np.float32),  # more than a line keeps
        "empty": np.zeros((0, 4), np.int64),
        "scalar": np.array(3.5),
        "half": rng.standard_normal(7).astype(np.float16),
        "flags": np.array([[True, False]]),
        "turned": rng.integers(0, 9, (4, 5), np.int16).T,
        "other order": np.arange(5, dtype=">i4"),
        "text": np.array([["a", "ü"]], object),
    }
    for names in (list(cases), ["half"], ["large"], ["flags", "turned"]):
        given = {name: cases[name] for name in names}
        sender = threading.Thread(target=ours.send, args=({"n": len(names)}, given))
        sender.start()
        message, arrays = theirs.receive(10)
        sender.join()
        assert message == {"n": len(names)}
        for name, array in given.items():
            assert arrays[name].shape == array.shape
            assert np.array_equal(arrays[name], array)
    ours.close()
    theirs.close()


def test_arrays_must_lie_in_the_memory_that_came():
    for place in ({"at": 0, "type": "float32", "shape": [2**40]}, {"at": -8, "type": "uint8", "shape": [4]}):
        ours, theirs = socket.socketpair()
        memory, _ = shared(4096)
        text = json.dumps({"message": {}, "arrays": {"a": place}, "own": True}).encode()
        socket.send_fds(ours, [len(text).to_bytes(8, "little") + text], [memory])
        channel = Channel(theirs)
        with pytest.raises(Closed):
            channel.receive(5)
        os.close(memory)
        ours.close()
        channel.close()


# --- errors come back as themselves ---------------------------------------------------------------


def test_what_is_refused_is_refused_in_the_same_words(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(PLAIN[:100])
    for source in (broken, tmp_path / "absent.onnx", PLAIN[:100], b""):
        errors = []
        for apart in (False, True):
            with pytest.raises(ModelRejected) as refusal:
                onnxviz.load(source, isolate=apart)
            errors.append((type(refusal.value), str(refusal.value)))
        assert errors[0] == errors[1]


def test_limits_hold_there(opened):
    with pytest.raises(LimitExceeded, match="nodes"):
        opened(PLAIN, limits=onnxviz.Limits(nodes=2))


def test_fields_of_errors_travel(pair):
    with pytest.raises(UnknownLayer):
        pair[1].activations(photo(), ["nothing"])
    error = UnsupportedOperator("operator Det has no rule", ways("give --layer L"), "Det")
    back = restored(json.loads(json.dumps(described(error))))
    assert type(back) is UnsupportedOperator
    assert (str(back), back.what, back.operator) == (str(error), error.what, error.operator)
    assert "layer=" in str(back)
    for error in (ValueError("a"), MemoryError(), onnx.shape_inference.InferenceError("b")):
        back = restored(described(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
    assert type(restored({"class": "system", "text": "x", "fields": {}})) is RuntimeError


@pytest.mark.parametrize("backend", ["torch", "ort-training"])
def test_other_backends_are_refused(backend, opened):
    with pytest.raises(UsageError, match="isolate=True"):
        opened(PLAIN, backend=backend)


def test_torch_does_not_step_in(opened):
    pytest.importorskip("torch")
    net = opened(
        model(
            """
            e = Expand(s, four)
            t = Unsqueeze(e, last)
            squares = MatMul(t, row)
            q = Det(squares)
            z = Unsqueeze(q, last)
            y = Add(s, z)
            """,
            weights=", int64[2] four = {1, 1}, int64[1] last = {-1}, float[1, 5] row = {1, 2, 3, 4, 5}",
        )
    )
    with pytest.raises(UnsupportedOperator, match=r"Det.*backend='torch', without isolate=True"):
        net.value_and_gradient(objectives.logit(1))
    assert "torch" not in net._backends


# --- a model that dies ----------------------------------------------------------------------------


def test_a_division_that_ends_the_process(opened):
    net = opened(DIVIDES)
    expected = net.predict(dark())
    first = process(net)
    with pytest.raises(WorkerCrashed, match=r"SIGFPE while running the model for 'y'"):
        net.predict(bright())
    assert ended(first)
    # The same program is not offered again in silence.
    with pytest.raises(WorkerCrashed, match=r"not run again.*SIGFPE.*onnxviz\.load"):
        net.predict(dark())
    # Others are, in another process.
    assert net.activations(bright(), ["r"])["r"].shape == (1, 8, 16, 16)
    assert process(net) != first
    net.close()
    assert opened(DIVIDES).predict(dark()) == expected


def test_shape_inference_that_ends_the_process(pair):
    proto = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[2, 3] x) => (float[N] y) <int64[1, 1] i = {0}> { y = GatherND<batch_dims = -5>(x, i) }
        """
    )
    worker = Worker("onnxviz.isolated", onnxviz.Limits())
    for words in ("SIGSEGV while inferring the shapes of the model", "not run again"):
        with pytest.raises((WorkerCrashed, ModelRejected), match=words):
            worker.infer(proto, strict=False, propagate=True)
    fine = worker.infer(onnx.ModelProto.FromString(PLAIN), strict=True, propagate=True)
    assert {info.name for info in fine.graph.value_info} >= {"c", "r", "p", "f", "s"}
    worker.close()


def test_the_same_graph_is_sent_for_its_shapes_once(monkeypatch):
    asked = []
    ask = Worker.ask
    monkeypatch.setattr(
        Worker, "ask", lambda *args, **named: (asked.append(args[1]["do"]), ask(*args, **named))[1]
    )
    worker = Worker("onnxviz.isolated", onnxviz.Limits())
    wrong = onnx.ModelProto.FromString(PLAIN)
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    for _ in range(2):
        proto = onnx.ModelProto.FromString(PLAIN)
        inferred = worker.infer(proto, strict=True, propagate=True)
        assert inferred == onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        inferred.graph.ClearField("node")  # whoever has it may change it
        with pytest.raises(onnx.shape_inference.InferenceError):
            worker.infer(wrong, strict=True, propagate=True)
    assert asked == ["infer"] * 3
    worker.close()


def test_the_process_is_killed_in_a_run(opened):
    net = opened(HANGS)

    def kill(life: Life) -> None:
        while life.was_at() != "running the model":
            time.sleep(0.01)
        life.process.kill()

    threading.Thread(target=kill, args=(net.worker.life(),)).start()
    with pytest.raises(WorkerCrashed, match="SIGKILL, as systems do that run out of memory, while running"):
        net.program(["y"])({"x": net.prepare(bright())})
    with pytest.raises(WorkerCrashed, match="not run again"):
        net.program(["y"])({"x": net.prepare(dark())})


def test_the_process_is_killed_between_runs(opened):
    net = opened(PLAIN)
    before = net.predict(photo())
    placed = net.program(["y"]).put("x", net.prepare(photo()))
    for _ in range(2):
        os.kill(process(net), signal.SIGKILL)
        assert ended(net.worker._life.process.pid)
        assert net.predict(photo()) == before
        assert net.program(["y"])({"x": placed})["y"].shape == (1, 5)


def test_a_state_that_went_with_its_process(opened):
    net = opened(PLAIN)
    program = net.program(["y"])
    resident = Resident(program, {"x": net.prepare(photo())}, ["y"])
    assert np.array_equal(resident.state("x"), net.prepare(photo()))
    os.kill(process(net), signal.SIGKILL)
    with pytest.raises(WorkerCrashed, match="begin again"):
        resident.state("x")
    with pytest.raises(WorkerCrashed, match="begin again"):
        program.run_bound({}, {"x": resident._sets[0]["x"]}, {}, ["y"])


def test_an_operator_that_goes_on_is_ended(opened):
    net = opened(HANGS, limits=onnxviz.Limits(run_seconds=1))
    pid = process(net)
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match=r"run_seconds"):
        net.program(["y"])({"x": net.prepare(bright())})
    assert time.monotonic() - began < 60
    assert ended(pid)
    assert net.activations(photo(), ["r"])["r"].shape == (1, 8, 16, 16)


# Two gigabytes where the picture is bright.
FILLS = model(
    """
    m = ReduceMean<keepdims = 0>(x)
    bright = Greater(m, two)
    shape = Where(bright, sizes, ones)
    filled = ConstantOfShape(shape)
    total = ReduceSum<keepdims = 0>(filled)
    y = Add(s, total)
    """,
    weights=", float two = {2}, int64[1] sizes = {500000000}, int64[1] ones = {1}",
)


@pytest.mark.skipif(not isolate.memory_is_guarded(), reason="no limit on memory here")
def test_memory_is_limited_also_after_a_crash(opened):
    net = opened(FILLS, limits=onnxviz.Limits(memory=1_500_000_000))
    expected = net.predict(dark())
    for _ in range(2):
        with pytest.raises((LimitExceeded, WorkerCrashed), match=r"memory|SIG"):
            net.run(net.prepare(bright()), ["y"])
        os.kill(process(net), signal.SIGKILL)
    net.close()
    roomy = opened(FILLS, limits=onnxviz.Limits(memory=6_000_000_000))
    assert roomy.predict(dark()) == expected
    assert np.isfinite(roomy.run(roomy.prepare(bright()), ["y"])["y"]).all()


# --- threads, several networks --------------------------------------------------------------------


def test_threads_and_two_networks(pair, opened):
    plain, isolated = pair
    other = opened(model("y = Sigmoid(s)", seed=5))
    x = np.concatenate([plain.prepare(photo(i)) for i in range(24)])
    expected = plain.run(x, ["y", "c"], batch=1)
    second = other.run(x, ["y"], batch=1)

    def one(i: int) -> None:
        found = isolated.run(x[i : i + 1], ["y", "c"])
        for name in ("y", "c"):
            assert np.array_equal(found[name][0], expected[name][i])
        assert np.array_equal(other.run(x[i : i + 1], ["y"])["y"][0], second["y"][i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [i % 24 for i in range(96)]))
    assert process(isolated) != process(other)


def test_copies_share_the_process_and_pickles_are_refused(pair):
    isolated = pair[1]
    isolated.predict(photo())
    before = process(isolated)
    assert copy.deepcopy(isolated.program(["y"])) is isolated.program(["y"])
    assert process(copy.copy(isolated)) == before
    assert process(isolated.at("y")) == before
    with pytest.raises(UsageError, match="open it there"):
        pickle.dumps(isolated.worker)
    with pytest.raises(UsageError, match="open it there"):
        pickle.dumps(isolated.program(["y"]))


def test_what_is_told_of_it(pair):
    plain, isolated = pair
    assert repr(isolated).endswith("isolated>")
    assert isolated.manifest("predict")["isolated"] is True
    assert "isolated" not in plain.manifest("predict")


def test_a_closed_network_says_so(opened):
    net = opened(PLAIN)
    net.predict(photo())
    pid = process(net)
    net.close()
    net.close()
    assert ended(pid)
    with pytest.raises(UsageError, match="was closed"):
        net.predict(photo())


# --- nothing is left ------------------------------------------------------------------------------


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_nothing_is_left_of_a_network_that_is_gone():
    isolated(PLAIN).close()
    gc.collect()
    before = descriptors()
    for source in (PLAIN, DIVIDES):
        net = isolated(source)
        with contextlib.suppress(WorkerCrashed):
            net.predict([bright(), photo()])
        onnxviz.saliency(net, photo(), target=1) if source is PLAIN else None
        pid = process(net)
        del net
        gc.collect()
        assert ended(pid)
        assert descriptors() == before
    with pytest.raises(ModelRejected):
        isolated(PLAIN[:100])
    assert descriptors() == before


SCRIPT = """
import os, sys, threading, time, numpy as np, onnxviz
def runs(net):
    def tell():
        while net.worker.life().was_at() != "running the model":
            time.sleep(0.01)
        print("runs", flush=True)
    threading.Thread(target=tell, daemon=True).start()
net = onnxviz.load({path!r}, isolate=True, provider="cpu", mean=[0.5] * 3, std=[0.2] * 3)
print(net.worker.life().process.pid, flush=True)
bright = np.full((16, 16, 3), 250, np.uint8)
x = net.prepare(bright)
{rest}
"""


class Script:
    """A user's script with no main guard, as it runs, and the process that its network runs in."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = int(process.stdout.readline())

    def says(self, line: str) -> None:
        assert self.process.stdout.readline() == f"{line}\n"

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def rest(self) -> tuple[list[str], str]:
        """The words that it says to its end, and its stderr."""
        out, err = self.process.communicate(timeout=240)
        return out.split(), err


@pytest.fixture
def script(tmp_path):
    """Starts a script beside files that are named like modules; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(source: bytes, rest: str) -> Script:
            (tmp_path / "net.onnx").write_bytes(source)
            (tmp_path / "script.py").write_text(SCRIPT.format(path=str(tmp_path / "net.onnx"), rest=rest))
            (tmp_path / "cwd").mkdir()
            for name in ("socket", "json", "onnx", "numpy"):
                (tmp_path / "cwd" / f"{name}.py").write_text("raise SystemExit('the wrong module')")
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / "script.py")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path / "cwd",
                env={**os.environ, "PYTHONPATH": str(Path(onnxviz.__file__).parents[1])},
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # after a failure, what hangs would go on beside the other tests
            return Script(process)

        yield start


def test_a_script_without_a_main_guard(script):
    run = script(PLAIN, "print(net.run(x, ['y'])['y'].shape)")
    assert run.rest() == (["(1,", "5)"], "")
    assert run.process.returncode == 0
    assert ended(run.pid)


def test_ctrl_c_in_a_run(script):
    rest = """
runs(net)
try:
    net.run(x, ["y"])
except KeyboardInterrupt:
    print("stopped", flush=True)
print(*net.run(x, ["r"])["r"].shape)
"""
    run = script(HANGS, rest)
    run.says("runs")
    run.interrupt()
    began = time.monotonic()
    run.says("stopped")
    assert (
        time.monotonic() - began < 60
    )  # 0.8 s on a machine that does nothing else; the operator takes minutes
    assert run.rest()[0] == ["1", "8", "16", "16"]
    assert ended(run.pid)


def test_ctrl_c_keeps_what_was_made(script):
    rest = """
def told(done, total, what):
    if done == 20:
        print("runs", flush=True)
try:
    onnxviz.ascent(net, target=1, steps=100000, progress=told)
except KeyboardInterrupt as stop:
    print(len(stop.partial.manifest["figures"]) > 0, stop.partial.manifest["incomplete"], flush=True)
print(net.worker.life().process.pid)
"""
    run = script(PLAIN, rest)
    run.says("runs")
    run.interrupt()
    assert run.rest()[0] == ["True", "True", str(run.pid)]


# An endless loop of short operators, on a state that is held where it runs.
HELD = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from stateful import endless
from onnxviz.runtime import process, worker
from onnxviz.programs import compile
program = compile(endless(), provider="cpu", worker=net.worker)
state = program.hold(np.arange(1000.0))
"""


def test_ctrl_c_stops_a_run_between_operators_and_what_is_held_stays(script):
    """Also one that other threads asked for."""
    rest = f"""{HELD}
from onnxviz.runtime.pool import Pool
def run():
    program.run_bound({{}}, {{"x": state}}, {{}}, ["y"])
def threads():
    with Pool(2, "threads") as pool:
        list(pool.map(lambda _: run(), range(2)))
for work in (run, threads):
    runs(net)
    try:
        work()
    except KeyboardInterrupt:
        print("stopped", flush=True)
print((state.numpy() == np.arange(1000)).all(), net.worker.life().process.pid)
"""
    run = script(PLAIN, rest)
    for _ in range(2):
        run.says("runs")
        run.interrupt()
        run.says("stopped")
    assert run.rest()[0] == ["True", str(run.pid)]


def test_a_second_ctrl_c_ends_what_holds_a_state(script):
    rest = f"""{HELD}
worker.Life.stop = lambda *_: None  # as in one operator that takes minutes
process._GRACE_KEEPING = 600
drain = worker._drain
worker._drain = lambda *given: (print("noticed", flush=True), drain(*given))[1]
runs(net)
try:
    program.run_bound({{}}, {{"x": state}}, {{}}, ["y"])
except KeyboardInterrupt:
    print("stopped", state.lost, flush=True)
"""
    run = script(PLAIN, rest)
    run.says("runs")
    run.interrupt()
    run.says("noticed")
    time.sleep(2.0)  # longer than what holds no state is given
    assert not ended(run.pid, 0.1)
    run.interrupt()
    assert run.rest()[0] == ["stopped", "True"]
    assert ended(run.pid)


@pytest.mark.parametrize("end", [Life.interrupt, lambda life: life.process.kill()], ids=["Ctrl-C", "crash"])
def test_what_was_made_before_the_process_died_is_handed_over(pair, opened, monkeypatch, end):
    monkeypatch.setattr("onnxviz.synthesis.machine._SAVED", 0.0)
    net = opened(PLAIN)
    options = {"target": 1, "start": photo(), "preset": "lecture", "keep": "last"}

    def told(done: int, total: int, what: str) -> None:
        if done == 5:
            end(net.worker.life())

    with pytest.raises((Interrupted, WorkerCrashed)) as stop:
        onnxviz.ascent(net, steps=9, progress=told, **options)
    four, five = (onnxviz.ascent(pair[0], steps=steps, **options).values for steps in (4, 5))
    assert np.array_equal(stop.value.partial.values, five)
    assert not np.array_equal(four, five)
    assert stop.value.partial.manifest["incomplete"] is True


@pytest.mark.parametrize("pause", [0.0, 0.4, 3.0])
def test_ctrl_c_while_threads_run(script, pause):
    rest = """
net.predict(bright // 2)
try:
    print("runs", flush=True)
    onnxviz.occlusion(net, bright, target=1, window=4, stride=4)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
    run = script(HANGS, rest)
    run.says("runs")
    time.sleep(pause)  # also before the first of them has asked
    run.interrupt()
    began = time.monotonic()
    run.says("stopped")
    assert time.monotonic() - began < 60
    run.rest()
    assert ended(run.pid)


def test_ctrl_c_before_a_thread_has_asked(opened):
    net = opened(HANGS)
    begun = threading.Event()

    def late() -> None:
        begun.set()
        time.sleep(0.3)
        net.run(net.prepare([np.full((16, 16, 3), 255, np.uint8)]) + 9, ["y"])

    with pytest.raises(KeyboardInterrupt), Pool(1, "late") as pool:
        pool.submit(late)
        begun.wait()
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60


def test_ctrl_c_while_a_thread_is_started(opened, monkeypatch):
    """It may be in the middle of a run by then, and the executor does not list it yet."""
    net = opened(HANGS)
    program, x, life = net.program(["y"]), net.prepare(bright()), net.worker.life()
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("unlisted"):
            while life.was_at() != "running the model":
                time.sleep(0.01)
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), Pool(2, "unlisted") as pool:
        pool.submit(program, {"x": x})
    assert not life.alive or life.was_at() is None  # ended, or between two operators


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="whether a process has stopped can't be told here")
def test_what_ctrl_c_ended_is_not_begun_late(script):
    """On a busy machine the process may come to read it when nobody waits for it any more."""
    rest = f"""{HELD}
import signal
def interrupt():
    while not net.worker._waiting:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
pid = net.worker.life().process.pid
os.kill(pid, signal.SIGSTOP)
os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)  # all its threads: one might read the request before it is told
threading.Thread(target=interrupt).start()
try:
    program.run_bound({{}}, {{"x": state}}, {{}}, ["y"])
except KeyboardInterrupt:
    print("stopped", flush=True)
os.kill(pid, signal.SIGCONT)
print((state.numpy() == np.arange(1000)).all())
time.sleep(2)
print(net.worker.life().was_at())
"""
    run = script(PLAIN, rest)
    assert run.rest()[0] == ["stopped", "True", "None"]


@pytest.mark.parametrize("rest", ["time.sleep(60)", "runs(net); net.run(x, ['y'])"])
def test_it_ends_with_a_parent_that_is_killed(script, rest):
    run = script(HANGS, rest)
    if "runs" in rest:
        run.says("runs")
    run.process.kill()
    run.rest()
    assert ended(run.pid)


def test_a_forked_copy_has_a_process_of_its_own(script):
    rest = """
expected = net.run(x, ["y"])["y"]
copy = os.fork()
if copy == 0:
    found = net.run(x, ["y"])["y"]
    print(net.worker.life().process.pid, (found == expected).all(), flush=True)
    net.close()
    os._exit(0)
os.waitpid(copy, 0)
print(net.worker.life().process.pid, (net.run(x, ["y"])["y"] == expected).all(), flush=True)
"""
    run = script(PLAIN, rest)
    copied, same, still, again = run.rest()[0]
    assert same == again == "True"
    assert int(still) == run.pid != int(copied)
