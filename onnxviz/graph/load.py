"""Opening a model that may come from a stranger: checked, confined, and with nothing of it run.

    file ─ wire.split ─▶ small message ─ parse ─▶ tidy ─▶ structure ─▶ weights ─▶ static ─▶ ir.Model

Each step knows that the one before held. Nothing is allocated for what a later step might still refuse: the walk
over the file's fields bounds the parser's memory, names and nodes are counted before weights are looked at, and
weights are only described until everything about them is checked. What remains for the limits of a run: sizes and
trips that depend on the input (`graph.static` tells which are certain without it).
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxviz.errors import LimitExceeded, ModelRejected, OnnxVizError, UsageError
from onnxviz.graph import findings, memory, sniff, static, structure
from onnxviz.graph.confine import Folder, mapped, open_model
from onnxviz.graph.limits import Limits
from onnxviz.graph.quoted import quoted
from onnxviz.graph.tidy import complete, tidy
from onnxviz.graph.weights import Weights
from onnxviz.graph.wire import BadWire, Block, Buffer, Split, Tokens, split

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | onnx.ModelProto | ir.Model

# Model files up to this size are read, larger ones mapped: a mapped file cannot be replaced on Windows, and must not
# be cut short anywhere.
_READ_UP_TO: Final = 2**26
# Parsing makes up to 100 bytes out of one: from here on the fields are counted first.
_COUNT_FROM: Final = 2**22


@dataclass
class Loaded:
    """A model that was opened.

    model      the IR model; its weights are in memory or memory-mapped, none names a file. Initialisers are no
               inputs. Functions and opset are as in the file
    source     the path, or what was given instead of one
    warnings   what is unusual about the file, or was repaired
    limits     what it was checked against
    files      the weights files that were opened, relative to the model's folder
    """

    model: ir.Model
    source: str
    warnings: list[str]
    limits: Limits
    files: list[str] = field(default_factory=list)
    _digest: Callable[[], str] = field(default=lambda: "", repr=False)
    _findings: list[str] | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the model file's bytes, 64 hexadecimal digits (0.5 s a GB; computed when first asked for).

        Of a parsed message, its serialised form; of an ir.Model, its graph and then its weights. External data is
        not part of it.
        """
        return self._digest()

    def findings(self) -> list[str]:
        """What is odd about the weights: NaN and infinities. Reads them all when first asked (0.1 s for 500 MB)."""
        if self._findings is None:
            self._findings = findings.weights(self.model)
        return self._findings


def load(source: Source, *, limits: Limits | None = None) -> Loaded:
    """Open a model, check it against HOSTILE inputs and `limits`, and give it with all of its weights.

    source   a path, the file's bytes, a parsed message or an ir.Model (neither of which is changed)
    limits   what is too large or too deep; None: the defaults
    raises   ModelRejected for what is no model, a broken one, or one that reaches out of its folder;
             LimitExceeded, naming the limit, for what is too large; UsageError for a source of another type
    """
    limits = limits or Limits()
    try:
        return _load(source, limits)
    except OnnxVizError:
        raise
    except (MemoryError, RecursionError) as error:
        raise LimitExceeded(f"the model is too large or too deep for this machine ({type(error).__name__})") from error
    except Exception as error:  # noqa: BLE001 - whatever a parser says about a stranger's bytes, they are broken
        raise ModelRejected(f"{_name(source)} is a broken ONNX model: {_cause(error)}") from error


def _load(source: Source, limits: Limits) -> Loaded:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        opened = open_model(path)
        if opened.size > limits.file_bytes:
            os.close(opened.fd)
            limits.check("file_bytes", opened.size, f"{quoted(path)} has {opened.size} bytes")
        if opened.size <= _READ_UP_TO:
            with os.fdopen(opened.fd, "rb") as file:
                buffer: Buffer = file.read(opened.size)
        else:
            buffer = mapped(opened)
        return _from_bytes(buffer, str(path), Folder(path.parent), limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        buffer = bytes(source)
        limits.check("file_bytes", len(buffer), f"the model has {len(buffer)} bytes")
        return _from_bytes(buffer, "<bytes>", None, limits)
    if isinstance(source, onnx.ModelProto):
        return _from_bytes(source.SerializeToString(deterministic=True), "<ModelProto>", None, limits)
    if isinstance(source, ir.Model):
        given = memory.take(source)
        proto = _parse(split(given.message, limits), limits, "", "<ir.Model>")
        return _finish(proto, given.message, given.tensors, given.tokens, given.folder, limits, "<ir.Model>", given.digest)
    raise UsageError(
        f"a model is a path, bytes, an onnx.ModelProto or an ir.Model; got {type(source).__name__}"
    )


def _from_bytes(buffer: Buffer, name: str, folder: Folder | None, limits: Limits) -> Loaded:
    head = bytes(buffer[: sniff.HEAD])
    try:
        parts = split(buffer, limits)
    except BadWire as error:
        what = "is cut short" if error.cut_short and _looks_like_onnx(head) else "is not an ONNX model"
        advice = "was it fully downloaded?" if what == "is cut short" else sniff.describe(head, name)
        raise ModelRejected(f"{quoted(name)} {what} (at byte {error.at} of {len(buffer)}); {advice}") from None
    proto = _parse(parts, limits, sniff.describe(head, name), name)

    def digest() -> str:
        return hashlib.sha256(buffer).hexdigest()

    return _finish(proto, buffer, parts.blocks, parts.tokens, folder, limits, name, digest)
