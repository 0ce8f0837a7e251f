"""What some tests need of the processor that they run on."""

from __future__ import annotations

import pytest

from onnxviz.auditing.report.facts import machine

CUTS_SUMS = machine()["vnni"] is False
"""Whether ONNX Runtime cuts sums of products of 8-bit codes at 16 bits here, so that it computes something else than
the file says: on processors without VNNI."""


def needs_whole_sums() -> None:
    """Skip a test that holds ONNX Runtime's products of 8-bit codes to what the file says."""
    if CUTS_SUMS:
        pytest.skip(
            "this processor has no VNNI: ONNX Runtime cuts sums of products of 8-bit codes at 16 bits"
        )


whole_sums = pytest.mark.skipif(
    CUTS_SUMS,
    reason="this processor has no VNNI: ONNX Runtime cuts sums of products of 8-bit codes at 16 bits",
)
