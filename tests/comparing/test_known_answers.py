"""What `compare` must say of files whose faults are known, and must not say of sound ones.

The faults are those of `tools/quantise.py` on the bundled network; each is planted in a file by editing numbers. What
does not depend on the fault (which value is which, the effects of the layers that it leaves alone) is taken from the
sound file, so that all of them can be asked here; `tools/bench/compare.py` asks for every file anew, beside its peers.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantise

import onnxviz
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import local
from onnxviz.comparing.match import match, normal
from onnxviz.errors import UsageError
from tests.comparing import small, variants
from tests.networks import fp16

FORMS = ("QDQ", "QOperator")
GRAVE = ("high", "medium")


def opened(model, **options) -> onnxviz.Network:
    return onnxviz.load(model, provider="cpu", **options)


def grave(comparison) -> list[tuple[str, str]]:
    return [(one.id, one.where) for one in comparison.findings if one.severity in GRAVE]
