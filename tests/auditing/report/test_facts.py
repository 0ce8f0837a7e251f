"""What a report tells of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxviz.auditing.report.facts import machine


@pytest.mark.parametrize(
    ("text", "instructions", "vnni"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", ["AVX2", "AVX-512", "AVX-512 VNNI"], True),
        ("flags\t\t: fpu avx2\n", ["AVX2"], False),
        ("Features\t: fp asimd asimddp i8mm\n", ["dot product", "int8 matrices"], True),
        ("", [], None),
    ],
)
def test_the_processors_instructions_for_integers(monkeypatch, text, instructions, vnni):
    monkeypatch.setattr(Path, "read_text", lambda *_: text)
    told = machine()
    assert told["instructions"] == instructions
    assert told["vnni"] is vnni
