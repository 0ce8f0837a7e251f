"""The demo's int8 file: the bundled network as ONNX Runtime's own quantiser makes it, calibrated on photos."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onnxviz.files import write_atomic
from onnxviz.network import Network


def write_int8(net: Network, pictures: list[Path], path: Path) -> Path:
    """Write the network in 8 bits: QDQ form, weights per channel, ranges of what these pictures give."""
    import onnx_ir as ir
    from onnx import save

    from onnxviz.runtime.providers import quantiser

    ort = quantiser()

    class Reader(ort.CalibrationDataReader):  # type: ignore[name-defined]
        """One picture after another, as the calibration asks for them."""

        def __init__(self, arrays: Iterator[np.ndarray]) -> None:
            self._arrays = arrays

        def get_next(self) -> dict[str, Any] | None:
            array = next(self._arrays, None)
            return None if array is None else {net.input.name: array}

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it asks for a pass that this network does not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "int8.onnx"
            source = Path(folder) / "float.onnx"
            save(ir.to_proto(net.model), source)
            ort.quantize_static(
                source, made, Reader(net.prepare(picture) for picture in pictures), quant_format=ort.QuantFormat.QDQ,
                per_channel=True, activation_type=ort.QuantType.QUInt8, weight_type=ort.QuantType.QInt8,
            )  # fmt: skip
            return write_atomic(path, made.read_bytes())
    finally:
        logging.disable(before)
