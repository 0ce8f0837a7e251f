"""Which provider is meant by a name; plugins, as their packages announce them; options."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from onnxviz import health
from onnxviz.errors import ProviderUnavailable, UsageError
from onnxviz.runtime import providers
from tests.elsewhere import package

# The three ways of the packages that there are: openvino, webgpu, nv-tensorrt-rtx and qnn; mlx; ggml.
GUIDED = "def get_ep_names(): return ['{0}']\ndef get_library_path(): return '/none/lib.so'\n"
MLX = "EP_NAME = '{0}'\ndef ep_name(): return EP_NAME\ndef library_path(): return '/none/lib.so'\n"
GGML = "EP_NAME = '{0}'\ndef library_path(): return '/none/lib.so'\n"


@pytest.fixture(autouse=True)
def _anew():
    providers.plugins.cache_clear()
    yield
    providers.plugins.cache_clear()


@pytest.mark.parametrize("text", [GUIDED, MLX, GGML])
def test_a_plugin_is_found_by_its_module_and_chosen_by_name(text, tmp_path, monkeypatch):
    module = package(tmp_path, monkeypatch, text.format("ToyRTXExecutionProvider"))
    (plugin,) = [one for one in providers.plugins() if one.module == module]
    assert (plugin.name, plugin.library, plugin.broken) == ("ToyRTXExecutionProvider", "/none/lib.so", "")
    assert "toyrtx" in providers.available()
    package_name = module.removeprefix("onnxruntime_ep_")
    for name in ("toyrtx", "ToyRTX", "ToyRTXExecutionProvider", package_name, "toyrtx:npu"):
        assert providers.choose(name).plugin == plugin, name
    assert providers.choose("toyrtx:NPU").kind == "npu"


def test_a_package_of_two_words_is_found_by_the_name_it_is_installed_by(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, GUIDED.format("NvToyExecutionProvider"), "onnxruntime_ep_nv_toy_rtx{}_")
    plugin = next(one for one in providers.plugins() if one.name == "NvToyExecutionProvider")
    name = plugin.module.removeprefix("onnxruntime_ep_").replace("_", "-")
    assert providers.choose(name).name == "NvToyExecutionProvider"


def test_modules_that_announce_nothing_are_not_imported(tmp_path, monkeypatch):
    module = package(tmp_path, monkeypatch, "raise SystemExit(3)\n", "onnxruntime_other{}")
    assert module not in {one.module for one in providers.plugins()}
    assert module not in sys.modules


def test_a_broken_package_is_told_by_the_doctor_and_hides_no_other(tmp_path, monkeypatch):
    broken = package(tmp_path, monkeypatch, "raise RuntimeError('no dylib for library_path')\n")
    package(tmp_path, monkeypatch, GUIDED.format("SoundExecutionProvider"))
    states = {one.name: one for one in health.doctor()}
    assert states[broken].state == "problem"
    assert "no dylib" in states[broken].detail
    assert states["SoundExecutionProvider"].state == "missing"  # there is no such library
    assert "cannot be loaded" in states["SoundExecutionProvider"].detail
    assert broken not in providers.available()
    with pytest.raises(ProviderUnavailable, match="beside it .*sound.*did you mean 'sound'"):
        providers.choose("soundd")


def test_no_device_and_the_wrong_device_are_told(monkeypatch):
    ort = providers.onnxruntime()
    plugin = providers.Plugin("ToyExecutionProvider", "onnxruntime_ep_toy", "lib")
    loaded, devices = [], []
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *given: loaded.append(given))
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    with pytest.raises(ProviderUnavailable, match="finds no device here"):
        plugin.device()
    assert loaded == [("ToyExecutionProvider", "lib")]
    kinds = ort.OrtHardwareDeviceType
    devices += [
        SimpleNamespace(ep_name=name, device=SimpleNamespace(type=kind))
        for name, kind in (("Other", kinds.CPU), (plugin.name, kinds.GPU), (plugin.name, kinds.NPU))
    ]
    assert plugin.device() is devices[1]
    assert plugin.device("npu") is devices[2]
    assert len(loaded) == 1  # once
    with pytest.raises(ProviderUnavailable, match="finds no cpu here that it runs on; it has gpu, npu"):
        plugin.device("cpu")


def test_a_session_is_made_on_the_device(monkeypatch):
    """ONNX Runtime lists the CPU itself as such a device: a real session, the way that plugins get theirs."""
    ort = providers.onnxruntime()
    monkeypatch.setattr(ort, "register_execution_provider_library", None)  # it is there: nothing is loaded
    plugin = providers.Plugin(providers.CPU, "toy", "lib")
    import onnx_ir as ir

    model = ir.serde.serialize_model(health._probe()).SerializeToString()
    session = providers.Choice("toy", providers.CPU, {}, plugin).session(model, ort.SessionOptions())
    assert session.get_providers() == [providers.CPU]
    assert session.run(None, {"x": [-1.0]})[0].tolist() == [0.0]


def test_options_go_with_the_name():
    text = providers.asked("openvino", {"device_type": "GPU", "threads": 4})
    assert providers.parted(text) == ("openvino", {"device_type": "GPU", "threads": "4"})
    assert providers.asked(text) == text
    assert providers.asked("openvino") == providers.asked("openvino", {}) == "openvino"
    for one in ("auto", "cpu", "CPUExecutionProvider"):
        with pytest.raises(UsageError, match="takes no options, got a"):
            providers.asked(one, {"a": "b"})
    with pytest.raises(UsageError, match="provider_options is a dict"):
        providers.asked("openvino", ["a=b"])  # type: ignore[arg-type]
    with pytest.raises(ProviderUnavailable):
        providers.choose("openvino {nonsense")
    with pytest.raises(UsageError, match="ONNXVIZ_CUDA_GRAPHS=1"):
        providers.asked("cuda", {"enable_cuda_graph": 1})


def test_every_call_that_names_a_network_s_provider_takes_its_options(monkeypatch):
    """Sessions get them: what ONNX Runtime is asked for."""
    ort = providers.onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["ToyExecutionProvider", providers.CPU])
    given = []
    monkeypatch.setattr(ort, "InferenceSession", lambda model, options, **more: given.append(more))
    providers.choose(providers.asked("toy", {"a": "b"})).session(b"", ort.SessionOptions())
    assert given[0]["providers"] == [("ToyExecutionProvider", {"a": "b"}), providers.CPU]
    assert given[0]["enable_fallback"] == 0  # it would print on stdout
