"""Steps of one size as CUDA graphs: what was started kernel by kernel is started at one stroke.

ONNX Runtime captures a run's kernels with the addresses that they read and write. So what comes from the host is copied
to the same place before each run, results are written to the same place, and each set of state has a capture of its
own. It takes only graphs of which no node was left to the CPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from onnxviz.runtime import providers

#: Versions of onnxruntime-gpu with which tests/runtime/test_capture.py has passed on a card (tools/gpu.sh runs it).
PROVEN: Final[frozenset[str]] = frozenset()
_OPTIONS: Final = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0", "enable_cuda_graph": "1"}
# 1 captures wherever it can be done, 0 nowhere.
_SWITCH: Final = "ONNXVIZ_CUDA_GRAPHS"
_RUN: Final = "gpu_graph_id"
_MOST: Final = 8  # captures of one program; each keeps its memory


def wanted(provider: str, version: str | None) -> bool:
    """Whether steps are to be captured: on CUDA, where a card has shown that nothing changes, or by the user's word.

    provider   as it was asked for; with options of its own nothing is captured
    """
    switch = os.environ.get(_SWITCH)
    if switch == "0" or not (switch == "1" or (version or "") in PROVEN) or "{" in provider:
        return False
    return providers.name(provider) == providers.CUDA


def session(provider: str, model: bytes, options: Any) -> Any:
    """A session that captures; None where it is not wanted, or not to be had for this graph.

    options   an onnxruntime.SessionOptions
    """
    if not wanted(provider, providers.version()):
        return None
    on = [(providers.CUDA, _OPTIONS), providers.CPU]
    try:
        made = providers.onnxruntime().InferenceSession(model, options, providers=on, enable_fallback=0)
    except Exception:  # a node is left to the CPU: it runs as ever
        return None
    whole = all(isinstance(n, int) for value in made.get_outputs() for n in value.shape)
    return made if whole and made.get_providers()[0] == providers.CUDA else None


class Captured:
    """The bindings of a session that captures, one for each set of addresses.

    bind     makes one, of a session and what it reads and writes
    device   'cuda', or 'cpu' in tests
    """

    def __init__(
        self, made: Any, types: Mapping[str, Any], bind: Callable[..., Any], device: str = "cuda"
    ) -> None:
        self._session, self._types, self._bind, self._device = made, types, bind, device
        self._outputs = {value.name: (value.shape, value.type) for value in made.get_outputs()}
        self._value = providers.onnxruntime().OrtValue
        self._kept: dict[tuple[Any, ...], tuple[Any, dict[str, Any], Any]] = {}

    @staticmethod
    def skip(options: Any) -> None:
        """This run is not captured, nor replaced by one that was."""
        options.add_run_config_entry(_RUN, "-1")

    def binding(
        self,
        feeds: Mapping[str, np.ndarray],
        held: Mapping[str, Any],
        into: Mapping[str, Any],
        results: Sequence[str],
        options: Any,
    ) -> Any:
        """The binding for these values, with the feeds copied to their places; None: the run cannot be captured.

        options   the run's, which are told which capture it is
        """
        ready = {name: np.ascontiguousarray(array, dtype=self._types[name]) for name, array in feeds.items()}
        key = (
            *((name, value.data_ptr()) for name, value in (*held.items(), *into.items())),
            *((name, array.shape) for name, array in ready.items()),
            *results,
        )
        if key not in self._kept:
            if len(self._kept) == _MOST:
                self.skip(options)
                return None
            # The values of state are kept with it: memory that is given back could be another's at the same address.
            new = {name: self._value.ortvalue_from_numpy(one, self._device, 0) for name, one in ready.items()}
            out = {**into, **{name: self._place(name) for name in results}}
            made = self._bind(self._session, self._types, {}, {**held, **new}, out)
            self._kept[key] = made, new, (dict(held), dict(into))
        binding, places, _ = self._kept[key]
        for name, array in ready.items():
            places[name].update_inplace(array)
        options.add_run_config_entry(_RUN, str(1 + list(self._kept).index(key)))
        return binding

    def _place(self, name: str) -> Any:
        shape, kind = self._outputs[name]
        dtype = np.float32 if kind == "tensor(float)" else np.int64
        return self._value.ortvalue_from_shape_and_type(shape, dtype, self._device, 0)
