import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz.errors import LimitExceeded, ModelRejected, ProviderUnavailable, RuntimeFailed
from onnxviz.programs import _parted, compile
from onnxviz.runtime import providers
from tests.runtime.stateful import endless, on_host, parsed


def linear(dtype=np.float32):
    weight = np.arange(64 * 64, dtype=dtype).reshape(64, 64) / 4096
    kind = "float16" if dtype == np.float16 else "float"
    graph = parsed(f"g ({kind}[N, 64] x) => ({kind}[N, 64] y) {{ y = MatMul(x, w) }}")
    return weight, holding(graph, weight)


def holding(graph: ir.Model, weight: np.ndarray) -> ir.Model:
    """The graph, whose `w` is this weight, an array as opened files have it."""
    stored = next(value for node in graph.graph for value in node.inputs if value.name == "w")
    stored.const_value = ir.tensor(weight, name="w")
    graph.graph.register_initializer(stored)
    return graph


def dense(shared: bool) -> ir.Model:
    """There and back through one matrix; `shared`: read by a product as well, which ONNX Runtime may turn."""
    weight = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    product, output = ("z = MatMul(h, w)", ", float[N, 4096] z") if shared else ("", "")
    nodes = f"h = Gemm<transB = 1>(x, w) y = Gemm(h, w) {product}"
    return holding(parsed(f"g (float[N, 4096] x) => (float[N, 4096] y{output}) {{ {nodes} }}"), weight)


def added() -> int:
    """What a session of 64 MB of dense weights adds to the process, in bytes."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    compile(linear()[1], provider="cpu")  # ONNX Runtime itself
    graph = dense(shared=False)
    weight = graph.graph.initializers["w"].const_value.numpy()
    before = resident()
    program = compile(graph, provider="cpu", prepack=False)
    grown = resident() - before
    x = np.ones((1, 4096), np.float32)
    np.testing.assert_allclose(program({"x": x})["y"], x @ weight.T @ weight, atol=0.1)
    return grown


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells how much memory a process has")
def test_weights_of_dense_layers_are_read_where_they_lie():
    """Not copied: what their session adds is less than they are. In a process of its own: to a long one pages come back
    meanwhile that the system had taken from it."""
    code = "from tests.runtime import test_ort; print(test_ort.added())"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 32e6
    assert not _parted(dense(shared=True)).dense


def test_large_weights_travel_beside_the_graph_and_count():
    weight, graph = linear()
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    result = compile(graph, provider="cpu")({"x": x})["y"]
    np.testing.assert_allclose(result, x @ weight, rtol=1e-5, atol=1e-5)
    assert graph.graph.initializers["w"].const_value.numpy().shape == (64, 64)  # the caller's is untouched


def test_half_precision_goes_in_and_comes_out_as_float32():
    weight, graph = linear(np.float16)
    x = np.ones((2, 64), np.float32)
    result = compile(graph, provider="cpu")({"x": x})["y"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, x @ weight.astype(np.float32), rtol=1e-2)


def test_only_the_outputs_asked_for_come_back():
    graph = parsed("g (float[2] x) => (float[2] a, float[2] b) { a = Relu(x) b = Neg(x) }")
    program = compile(graph, provider="cpu")
    assert program.outputs == ["a", "b"]
    assert list(program({"x": np.ones(2, np.float32)}, ["b"])) == ["b"]


def test_put_gives_what_a_run_takes():
    _, graph = linear()
    program = compile(graph, provider="cpu")
    x = np.ones((1, 64))
    np.testing.assert_array_equal(program({"x": program.put("x", x)})["y"], program({"x": x})["y"])


def test_an_endless_loop_is_ended():
    program = compile(endless(), provider="cpu", seconds=0.5)
    start = time.monotonic()
    with pytest.raises(LimitExceeded, match=r"0.5 s.*run_seconds"):
        program({"x": np.zeros(1000, np.float32)})
    assert time.monotonic() - start < 20


def test_one_watchdog_serves_all_threads():
    _, graph = linear()
    program = compile(graph, provider="cpu", seconds=60)
    x = np.ones((1, 64), np.float32)
    workers = [threading.Thread(target=lambda: [program({"x": x}) for _ in range(50)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sum(thread.name == "onnxviz-watchdog" for thread in threading.enumerate()) == 1


def test_a_wrong_shape_is_a_typed_error():
    _, graph = linear()
    with pytest.raises(RuntimeFailed, match="ONNX Runtime could not run"):
        compile(graph, provider="cpu")({"x": np.ones((1, 5), np.float32)})


def test_a_graph_that_onnxruntime_refuses_is_a_typed_error():
    with pytest.raises(ModelRejected, match=r"refuses the model.*Frobnicate"):
        compile(parsed("g (float[1] x) => (float[1] y) { y = Frobnicate(x) }"), provider="cpu")


def test_a_model_cannot_configure_its_own_session(monkeypatch):
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    _, graph = linear()
    graph.metadata_props["ort_config"] = '{"session_options": {"intra_op_num_threads": 99}}'
    compile(graph, provider="cpu")
    assert "ORT_LOAD_CONFIG_FROM_MODEL" not in os.environ


def test_an_unknown_provider_names_those_there_are():
    _, graph = linear()
    with pytest.raises(ProviderUnavailable, match="CPUExecutionProvider"):
        compile(graph, provider="abacus")


def test_cuda_that_cannot_start_is_an_error_unless_auto(monkeypatch):
    """The GPU build lists CUDA and falls back to the CPU without an error where its libraries are missing."""
    _, graph = linear()
    ort = providers.onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [providers.CUDA, providers.CPU])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda g, o, **_: real(g, o, providers=[providers.CPU]))
    with pytest.raises(ProviderUnavailable, match="could not be started.*provider='auto'"):
        compile(graph, provider="cuda")
    assert compile(graph, provider="auto").provider == providers.CPU


def test_cuda_in_a_cpu_build_says_what_to_install():
    with pytest.raises(ProviderUnavailable, match=r"onnxviz\[gpu\]"):
        providers.choose("cuda")


def test_on_a_device_arrays_are_bound_and_a_put_one_travels_once(monkeypatch):
    """The path of CUDA, with the host's memory standing in for the card's."""
    weight, graph = linear()
    program = compile(graph, provider="cpu")
    moved, real = on_host(monkeypatch, program)
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    kept = program.put("x", x)
    monkeypatch.setattr(program._ort, "OrtValue", real)
    for feed in (kept, kept, x.astype(np.float64)):
        np.testing.assert_allclose(program({"x": feed})["y"], x @ weight, rtol=1e-5, atol=1e-5)
    assert moved == [((2, 64), "cuda")]
