"""ONNX Runtime itself, for the whole package, and the choice of its execution provider.

No other module imports onnxruntime (a test holds it): from 1.29 on its builds report to its maker. On import they write
an identifier of the device and a queue of events (names of graphs, texts of errors) under the user's cache, and send
it where they reach the host. Here that is off before the import, unless the user set the variable himself.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from onnxviz.errors import MissingDependency, ProviderUnavailable, near

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


def choose(provider: str) -> list[Any]:
    """The providers to ask ONNX Runtime for, best first, for 'auto', a short name or a full name.

    'auto' takes CUDA where it is built in and falls back to the CPU; any other name is taken at its word.

    raises   ProviderUnavailable when this build of ONNX Runtime does not know it
    """
    if provider == "auto":
        return [_with_options(CUDA), CPU] if CUDA in onnxruntime().get_available_providers() else [CPU]
    name = _built_in(provider)
    return [CPU] if name == CPU else [_with_options(name), CPU]


def _built_in(provider: str) -> str:
    """The full name of a provider that this build of ONNX Runtime has."""
    built_in = onnxruntime().get_available_providers()
    name = _SHORT.get(provider.lower(), provider)
    if name not in built_in:
        known = [*_SHORT, *built_in]
        hint = '; pip install "onnxviz[gpu]" instead of [cpu]' if name == CUDA else near(provider, known)
        raise ProviderUnavailable(
            f"provider {provider!r} is not in this ONNX Runtime, which has {', '.join(built_in)}{hint}"
        )
    return name


def require(provider: str) -> None:
    """Refuse a provider that this build of ONNX Runtime does not know, before anything is opened for it.

    raises   ProviderUnavailable, MissingDependency
    """
    if (
        provider != "auto" and _SHORT.get(provider.lower()) != CPU
    ):  # these two every build has: nothing is imported
        _built_in(provider)


def name(provider: str) -> str:
    """The full name of the provider that would be tried first."""
    first = choose(provider)[0]
    return str(first if isinstance(first, str) else first[0])


def _with_options(name: str) -> Any:
    if name != CUDA:
        return name
    ort = onnxruntime()
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    # EXHAUSTIVE search is slow on each new shape; TF32 would make results differ from the CPU's in the third digit.
    return (name, {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"})


def check(asked: str, providers: list[Any], session: Any) -> str:
    """The provider that `session` really runs on.

    `get_available_providers` lists CUDA even where its libraries cannot be loaded; ONNX Runtime then falls
    back to the CPU without an error. Only 'auto' may do that.

    raises   ProviderUnavailable
    """
    got: str = session.get_providers()[0]
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if got != wanted and asked != "auto":
        raise ProviderUnavailable(
            f"provider {asked!r} is built in but could not be started (driver or libraries missing?); "
            f"ONNX Runtime fell back to {got}. Use --provider auto to accept that, or run `onnxviz doctor`"
        )
    return got
