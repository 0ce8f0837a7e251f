"""ONNX Runtime itself, for the whole package, and the choice of its execution provider.

A provider is named by one text, which goes wherever a network goes: `openvino`, or with options `openvino {"precision":
"FP32"}` (`asked`). It is built into ONNX Runtime, or a plugin: a package of its own beside it, found by its module.

No other module imports onnxruntime (a test holds it): from 1.29 on its builds report to its maker. On import they write
an identifier of the device and a queue of events (names of graphs, texts of errors) under the user's cache, and send
it where they reach the host. Here that is off before the import, unless the user set the variable himself.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

from onnxviz.errors import MissingDependency, ProviderUnavailable, UsageError, near

_SHORT = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
CPU = _SHORT["cpu"]
CUDA = _SHORT["cuda"]


# Read once, when ONNX Runtime is imported: nothing is written, looked up or sent. Child processes inherit it.
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def onnxruntime() -> Any:
    """The onnxruntime module, with its telemetry off.

    raises   MissingDependency when none is installed, or a broken mixture of two
    """
    try:
        ort = _imported()
    except ImportError as error:
        raise MissingDependency(
            "ONNX Runtime is not installed; onnxviz leaves the choice to you: "
            'pip install "onnxviz[cpu]" or pip install "onnxviz[gpu]"'
        ) from error
    if not hasattr(ort, "InferenceSession"):
        raise MissingDependency(
            "the installed onnxruntime is broken (two builds overwrote each other?); run `onnxviz doctor`"
        )
    return ort


def quantiser() -> Any:
    """ONNX Runtime's own quantiser, the module onnxruntime.quantization.

    raises   MissingDependency
    """
    onnxruntime()
    import onnxruntime.quantization as module

    return module


@cache
def _imported() -> Any:
    off = os.environ.setdefault(_TELEMETRY, "1") == "1"
    import onnxruntime as ort

    # For builds that do not know the variable (Windows, before 1.29), and where somebody imported it before us.
    if off and hasattr(ort, "disable_telemetry_events"):
        ort.disable_telemetry_events()
    return ort


def version() -> str | None:
    """The version of the ONNX Runtime that is installed, whichever package it came from; None where none is."""
    try:
        return str(getattr(_imported(), "__version__", "")) or None
    except ImportError:
        return None


def asked(provider: str, options: Mapping[str, Any] | None = None) -> str:
    """The provider and its options as one text.

    options   of the provider's own, by name: {'device_type': 'GPU'}; what `provider` says already stays
    raises    UsageError
    """
    name, own = parted(provider)
    if options is not None and not isinstance(options, Mapping):
        raise UsageError(f"provider_options is a dict, such as {{'device_type': 'GPU'}}, got {options!r}")
    every = {**own, **{str(key): str(value) for key, value in (options or {}).items()}}
    if every and _SHORT.get(name.lower(), name) in ("auto", CPU):
        raise UsageError(
            f"provider {name!r} takes no options, got {', '.join(every)}; name the provider that they are of"
        )
    if "enable_cuda_graph" in every:
        raise UsageError(
            "enable_cuda_graph makes every session give its first run's results again unless its arrays stay in place; "
            "onnxviz keeps them there only for the steps of ascent and its like: set ONNXVIZ_CUDA_GRAPHS=1 instead"
        )
    return f"{name} {json.dumps(every)}" if every else name


def parted(provider: str) -> tuple[str, dict[str, str]]:
    """The name, and the options that were asked for."""
    name, _, text = provider.partition(" {")
    if not text:
        return provider, {}
    try:
        return name, dict(json.loads("{" + text))
    except ValueError:
        raise ProviderUnavailable(f"{provider!r} names no provider") from None


# --- plugins ----------------------------------------------------------------------------------------

# Its module says where the library is, and what the providers in it are called, by one of these (onnxruntime.ai's
# guidance for packages has the first; mlx and ggml have others). Only a module whose text has such a word is imported.
_LIBRARY: Final = ("get_library_path", "library_path")
_NAMES: Final = ("get_ep_names", "get_ep_name", "ep_name", "EP_NAME")
_MODULE: Final = re.compile(r"onnxruntime_(?:ep_)?(\w+)")


class Plugin(NamedTuple):
    """A provider in a package beside ONNX Runtime.

    name      the provider's; of a module that cannot be imported, the module's
    module    what tells of it: onnxruntime_ep_openvino
    library   the path of its library
    broken    why it cannot be used; '' where nothing is known against it
    """

    name: str
    module: str
    library: str
    broken: str = ""

    def device(self, kind: str = "") -> Any:
        """What it runs on here, of several the first; its library is loaded once in a process.

        kind     'cpu', 'gpu' or 'npu'; '': whichever
        raises   ProviderUnavailable
        """
        ort = onnxruntime()
        try:
            if not (found := self._devices()):
                ort.register_execution_provider_library(self.name, self.library)
                found = self._devices()
        except Exception as error:  # onnxruntime's errors have no common base of their own
            raise ProviderUnavailable(
                f"the library of provider {self.name!r} ({self.module}) cannot be loaded: {error}"
            ) from error
        kinds = [one.device.type.name.lower() for one in found]
        if not found or kind not in ("", *kinds):
            have = f"; it has {', '.join(dict.fromkeys(kinds))}" if found else ""
            raise ProviderUnavailable(
                f"provider {self.name!r} ({self.module}) finds no {kind or 'device'} here that it runs on{have}"
            )
        return found[kinds.index(kind) if kind else 0]

    def _devices(self) -> list[Any]:
        return [one for one in onnxruntime().get_ep_devices() if one.ep_name == self.name]


@cache
def plugins() -> tuple[Plugin, ...]:
    """The plugins that are installed, whether they work or not; their modules are imported, no library is loaded."""
    if not hasattr(onnxruntime(), "register_execution_provider_library"):
        return ()
    names = sorted({one.name for one in pkgutil.iter_modules() if _MODULE.fullmatch(one.name)})
    return tuple(plugin for name in names if _announces(name) for plugin in _of_module(name))


def _announces(module: str) -> bool:
    try:
        spec = find_spec(module)
        text = Path(spec.origin).read_bytes() if spec is not None and spec.origin else b""
    except (OSError, ImportError, ValueError):
        return False
    return b"library_path" in text


def _of_module(module: str) -> list[Plugin]:
    try:
        entry = import_module(module)
        library = next(value for name in _LIBRARY if (value := getattr(entry, name, None)) is not None)
        found = next(value for name in _NAMES if (value := getattr(entry, name, None)) is not None)
        told = found() if callable(found) else found
        return [Plugin(name, module, str(library())) for name in ([told] if isinstance(told, str) else told)]
    except Exception as error:  # a stranger's code
        return [Plugin(module, module, "", f"{type(error).__name__}: {error}")]


# --- the choice -------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """A provider that was found by its name.

    asked     how it was asked for, without its options
    name      its full name
    options   its own
    plugin    where it is one, and
    kind      of which of its devices
    """

    asked: str
    name: str
    options: Mapping[str, str]
    plugin: Plugin | None = None
    kind: str = ""

    def session(self, model: bytes, options: Any) -> Any:
        """A session of the model, which runs on the CPU what the provider leaves; raises what ONNX Runtime raises.

        options   an onnxruntime.SessionOptions
        raises    ProviderUnavailable besides
        """
        ort = onnxruntime()
        if self.name != CPU:  # which nodes it takes
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.plugin is not None:
            options.add_provider_for_devices([self.plugin.device(self.kind)], dict(self.options))
            providers = None
        else:
            providers = [CPU] if self.name == CPU else [(self.name, dict(self.options)), CPU]
        # With its fallback ONNX Runtime prints on stdout what went wrong, and takes the CPU.
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def choose(provider: str) -> Choice:
    """The provider that is meant by 'auto', a short name or a full name, with options or without (`asked`).

    'auto' takes CUDA where it is built in and falls back to the CPU; any other name is taken at its word. Of a plugin
    with several devices, 'openvino:npu' is the one on that.

    raises   ProviderUnavailable where neither this ONNX Runtime nor a plugin has it
    """
    name, options = parted(provider)
    if name == "auto":
        return _built_in(name, CUDA if CUDA in onnxruntime().get_available_providers() else CPU, {})
    full = _SHORT.get(name.lower(), name)
    if full == CPU:  # every build has it
        return Choice(name, CPU, {})
    built_in = onnxruntime().get_available_providers()
    for one in built_in:
        if name.lower() in (one.lower(), short(one)) or one == full:
            return _built_in(name, one, options)
    plain, _, kind = name.partition(":")
    for plugin in plugins():
        if not plugin.broken and _same(plain, plugin):
            return Choice(name, plugin.name, options, plugin, kind.lower())
    hint = '; pip install "onnxviz[gpu]" instead of [cpu]' if full == CUDA else ""
    beside = [short(plugin.name) for plugin in plugins()]
    hint = hint or near(name, [*_SHORT, *built_in, *beside])
    also = f", and beside it {', '.join(beside)}" if beside else ""
    raise ProviderUnavailable(
        f"provider {name!r} is not in this ONNX Runtime, which has {', '.join(built_in)}{also}{hint}"
    )


def _built_in(asked: str, name: str, options: Mapping[str, str]) -> Choice:
    return Choice(asked, name, {**_usual(name), **options})


def _same(name: str, plugin: Plugin) -> bool:
    """'NvTensorRTRTXExecutionProvider', 'nvtensorrtrtx' and 'nv-tensorrt-rtx' (as its package is called) are one."""
    package = _MODULE.sub(r"\1", plugin.module)
    return name.lower().replace("-", "_") in (plugin.name.lower(), short(plugin.name), package.lower())


def short(name: str) -> str:
    """A provider's name as it is typed: 'openvino'."""
    known = {full: key for key, full in _SHORT.items()}
    return known.get(name) or name.removesuffix("ExecutionProvider").lower()


def available() -> list[str]:
    """The short names of all providers that are installed, plugins among them; the CPU comes last."""
    # Azure's runs no model here: it asks a service.
    built_in = [one for one in onnxruntime().get_available_providers() if one != "AzureExecutionProvider"]
    every = dict.fromkeys([*built_in, *(plugin.name for plugin in plugins() if not plugin.broken)])
    return [short(name) for name in every if name != CPU] + [short(CPU)]


def require(provider: str) -> None:
    """Refuse a provider that there is not, before anything is opened for it.

    raises   ProviderUnavailable, MissingDependency
    """
    if (
        provider != "auto" and _SHORT.get(provider.lower()) != CPU
    ):  # these every build has: nothing is imported
        choose(provider)


def name(provider: str) -> str:
    """The full name of the provider that would be tried first."""
    return choose(provider).name


def _usual(name: str) -> dict[str, str]:
    if name != CUDA:
        return {}
    ort = onnxruntime()
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    # EXHAUSTIVE search is slow on each new shape; TF32 would make results differ from the CPU's in the third digit.
    return {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


def check(choice: Choice, session: Any) -> str:
    """The provider that `session` really runs on.

    `get_available_providers` lists CUDA even where its libraries cannot be loaded; ONNX Runtime then falls
    back to the CPU without an error. Only 'auto' may do that.

    raises   ProviderUnavailable
    """
    got: str = session.get_providers()[0]
    if got != choice.name and choice.asked != "auto":
        raise ProviderUnavailable(
            f"provider {choice.asked!r} is built in but could not be started (driver or libraries missing?); "
            f"ONNX Runtime fell back to {got}. Use --provider auto to accept that, or run `onnxviz doctor`"
        )
    return got
