"""Before a file is parsed: cutting its weights out, counting what is in it, and whether its texts are text.

Protobuf copies every byte of a message that it parses, so a 500 MB network would be copied whole for a graph of
50 KB. This module walks over the file's fields, which costs a few microseconds a node, and gives a small message
in which each large block of weights is replaced by a token, with the places of the blocks beside it. Weights can
then be viewed or copied straight out of the file, and files larger than protobuf's 2 GB can be opened at all.

A token is a random number that nobody who wrote the file can know, followed by the block's index; so what a file
holds is never taken for a token.

The walk is also the first check: it knows how many nodes and fields there are and how deep graphs are nested
before any memory is spent on them. What it does not descend into (small fields, unknown ones) is copied as it is
and left to the real parser.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from functools import cache
from typing import Final

import onnx
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onnxviz.errors import ModelRejected
from onnxviz.limits import Limits
from onnxviz.text import quoted

Buffer = bytes | memoryview | mmap.mmap

_VARINT, _BYTES = 0, 2
_FIXED: Final = {1: 8, 5: 4}
#: Blocks shorter than this stay in the message.
LEAST_BLOCK: Final = 1024
_TOKEN_INDEX: Final = 8
_MAX_VARINT: Final = 10

_GRAPH, _NODE, _TENSOR = (
    proto.DESCRIPTOR.name for proto in (onnx.GraphProto, onnx.NodeProto, onnx.TensorProto)
)
_MODEL: Final = onnx.ModelProto.DESCRIPTOR.name
_TRAINING_FIELD: Final = onnx.ModelProto.TRAINING_INFO_FIELD_NUMBER
# Protobuf's own parser gives up at this depth.
_DEEPEST: Final = 100


def _inner_messages() -> dict[str, dict[int, str]]:
    """For each message of the format, by name: the numbers of its fields that are messages, and their names."""
    found: dict[str, dict[int, str]] = {}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        inner = [field for field in message.fields if field.message_type is not None]
        found[message.name] = {field.number: field.message_type.name for field in inner}
        waiting += [field.message_type for field in inner if field.message_type.name not in found]
    return found


_FIELDS: Final = _inner_messages()
# The fields of a tensor that hold its elements, and the only data type whose packed form is raw bytes.
_DATA_FIELDS: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
_RAW_DATA: Final = 9
_RAW_WHEN: Final = {4: 1, 10: 11}  # float_data of FLOAT, double_data of DOUBLE
_DATA_TYPE: Final = 2


class BadWire(Exception):
    """The bytes from `at` on are no protobuf message."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


@dataclass(frozen=True)
class Block:
    """Where the elements of one tensor lie in the file, in little-endian order."""

    start: int
    length: int


@dataclass(frozen=True)
class Split:
    """A file cut in two.

    message   the model without its large weights, to be parsed
    blocks    the places of those weights in the file
    tokens    what marks a tensor's raw_data in `message` as a block
    """

    message: bytes
    blocks: list[Block]
    tokens: Tokens


class Tokens:
    """Marks that stand for weights in a message; unforgeable, since they are drawn at random."""

    def __init__(self) -> None:
        self._secret = os.urandom(24)

    def make(self, index: int) -> bytes:
        """The token that stands for block `index`."""
        return self._secret + index.to_bytes(_TOKEN_INDEX, "little")

    def removed(self, message: bytes) -> bytes:
        """`message` without what is random in it."""
        return message.replace(self._secret, b"")

    def index(self, raw: bytes) -> int | None:
        """The block that `raw` stands for; None where it is no token."""
        if len(raw) != len(self._secret) + _TOKEN_INDEX or not raw.startswith(self._secret):
            return None
        return int.from_bytes(raw[-_TOKEN_INDEX:], "little")


def split(buffer: Buffer, limits: Limits) -> Split:
    """Cut the large weights out of a model file.

    buffer   the file's bytes
    raises   BadWire when it is no protobuf message, LimitExceeded when it is too large
    """
    view = memoryview(buffer)
    walk = _Walk(view, limits)
    pieces = walk.message(0, len(view), _MODEL)
    structure = sum(map(len, pieces)) - walk.data_kept
    limits.check("structure_bytes", structure, f"the model has {structure} bytes besides its weights")
    return Split(b"".join(pieces), walk.blocks, walk.tokens)


def count(message: bytes, limits: Limits) -> None:
    """Count every field and every nested graph of a message, small ones too, which `split` does not look into.

    raises   BadWire when it is no protobuf message, LimitExceeded when it has too many or too deep ones
    """
    _Walk(memoryview(message), limits).count(0, len(message), _MODEL)


class _Walk:
    """One walk over a file."""

    def __init__(self, view: memoryview, limits: Limits) -> None:
        self.view = view
        self.limits = limits
        self.blocks: list[Block] = []
        self.tokens = Tokens()
        self.data_kept = 0  # bytes of elements that stay in the message
        self.fields = 0
        self.nodes = 0

    def message(self, start: int, end: int, kind: str, level: int = 0, graphs: int = 0) -> list[Buffer]:
        """The message `kind` in [start, end) in pieces, its blocks replaced.

        level, graphs   how many messages, and how many graphs, it lies in
        """
        self._check_depth(start, kind, level, graphs)
        if kind == _TENSOR:
            return self._tensor(start, end)
        graphs += kind == _GRAPH
        view, inner = self.view, _FIELDS[kind]
        pieces: list[Buffer] = []
        copied = at = start
        while at < end:
            field_start = at
            number, wire, at, stop = _field(view, at, end)
            self._check_number()
            below = inner.get(number) if wire == _BYTES else None
            if kind == _MODEL and number == _TRAINING_FIELD:
                # Training graphs are never run or looked at, so whatever they name is not opened either.
                pieces.append(view[copied:field_start])
                copied = stop
            elif below is not None:
                if below == _NODE:
                    self._check_nodes()
                if stop - at >= LEAST_BLOCK:
                    parts = self.message(at, stop, below, level + 1, graphs)
                    pieces.append(view[copied:field_start])
                    pieces.append(_varint(number << 3 | _BYTES) + _varint(sum(map(len, parts))))
                    pieces += parts
                    copied = stop
            at = stop
        pieces.append(view[copied:end])
        return pieces

    def count(self, start: int, end: int, kind: str, level: int = 0, graphs: int = 0) -> None:
        """As `message`, but into every message that is not empty, and for the checks alone."""
        self._check_depth(start, kind, level, graphs)
        graphs += kind == _GRAPH
        view, inner, at = self.view, _FIELDS[kind], start
        while at < end:
            number, wire, at, stop = _field(view, at, end)
            self._check_number()
            below = inner.get(number) if wire == _BYTES else None
            if below is not None:
                if below == _NODE:
                    self._check_nodes()
                if stop > at:
                    self.count(at, stop, below, level + 1, graphs)
            at = stop

    def _tensor(self, start: int, end: int) -> list[Buffer]:
        """One tensor; its elements become a block if they lie in one piece and in the order of raw bytes."""
        at, data_type = start, 0
        data: list[tuple[int, int, int, int]] = []
        while at < end:
            field_start = at
            number, wire, at, stop = _field(self.view, at, end)
            self._check_number()
            if number in _DATA_FIELDS:
                data.append((number if wire == _BYTES else 0, field_start, at, stop))
            elif number == _DATA_TYPE and wire == _VARINT:
                data_type, _ = _number(self.view, at, end)
            at = stop
        if len(data) == 1:
            number, field_start, at, stop = data[0]
            raw = number == _RAW_DATA or _RAW_WHEN.get(number) == data_type
            if raw and stop - at >= LEAST_BLOCK:
                token = self.tokens.make(len(self.blocks))
                self.blocks.append(Block(at, stop - at))
                return [
                    self.view[start:field_start],
                    _varint(_RAW_DATA << 3 | _BYTES) + _varint(len(token)) + token,
                    self.view[stop:end],
                ]
        self.data_kept += sum(stop - field_start for _, field_start, _, stop in data)
        return [self.view[start:end]]

    def _check_depth(self, start: int, kind: str, level: int, graphs: int) -> None:
        if kind == _GRAPH:
            self.limits.check(
                "subgraph_depth", graphs, f"subgraphs are nested {graphs} deep or deeper", counting=True
            )
        if level > _DEEPEST:
            raise BadWire(start)

    def _check_number(self) -> None:
        self.fields += 1
        if self.fields > self.limits.messages:
            self.limits.check(
                "messages", self.fields, f"the model has {self.fields} protobuf fields or more", counting=True
            )

    def _check_nodes(self) -> None:
        self.nodes += 1
        if self.nodes > self.limits.nodes:
            self.limits.check("nodes", self.nodes, f"the model has {self.nodes} nodes or more", counting=True)


def _field(view: memoryview, at: int, end: int) -> tuple[int, int, int, int]:
    """(number, wire type, start of its content, end of its content) of the field at `at`."""
    tag, begin = view[at], at
    if tag > 127:
        tag, at = _number(view, at, end)
    else:
        at += 1
    number, wire = tag >> 3, tag & 7
    if wire == _BYTES:
        length, at = _number(view, at, end)
        stop = at + length
    elif wire == _VARINT:
        _, stop = _number(view, at, end)
    elif wire in _FIXED:
        stop = at + _FIXED[wire]
    else:  # groups, which have been out of use since before ONNX
        raise BadWire(begin)
    if not number or stop > end:
        raise BadWire(begin)
    return number, wire, at, stop


def _number(view: memoryview, at: int, end: int) -> tuple[int, int]:
    """The variable-length number at `at` and the place after it."""
    if at < end and view[at] < 128:
        return view[at], at + 1
    value = shift = 0
    for place in range(at, min(at + _MAX_VARINT, end)):
        byte = view[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    raise BadWire(at)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


# The attributes' own texts: bytes in the format, since old versions of protobuf had it so; every reader decodes them.
_TEXT_IN_BYTES: Final = frozenset({"onnx.AttributeProto.s", "onnx.AttributeProto.strings"})
# --- texts --------------------------------------------------------------------------------------
#
# Protobuf's parser lets bytes through that are no UTF-8 and then hands out bytes instead of a string, which whatever
# reads the field later stumbles over. Which fields are text is read off the format's own description: the parser itself
# looks for what is none, given the description of a format that is the same but for being strict (0.1 ms for a network
# of 400 nodes; a walk in Python takes 10 ms). Only where it finds something is the field searched for.


@cache
def _strict() -> type[Message]:
    """The format's twin whose parser refuses text that is no UTF-8: its description, said to be of proto3."""
    description = descriptor_pb2.FileDescriptorProto()
    onnx.ModelProto.DESCRIPTOR.file.CopyToProto(description)
    description.syntax = "proto3"
    for message in description.message_type:
        for field in message.field:
            if f"{description.package}.{message.name}.{field.name}" in _TEXT_IN_BYTES:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
            field.ClearField("default_value")
            field.options.ClearField("packed")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(description)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(onnx.ModelProto.DESCRIPTOR.full_name))


def is_clean(message: bytes) -> bool:
    """Whether the bytes are a model with nothing but UTF-8 in its texts; False where `check_texts` has to look."""
    try:
        _strict().FromString(message)
    except Exception:  # protobuf names its error differently in each of its implementations
        return False
    return True


def check_texts(model: Message, path: str = "") -> None:
    """Refuse a model that has anything but UTF-8 in a field of text.

    path     of the message, within the model
    raises   ModelRejected naming the field, as in 'graph.node[3].name'
    """
    for field, value in model.ListFields():
        text = field.type == FieldDescriptor.TYPE_STRING or field.full_name in _TEXT_IN_BYTES
        if not text and field.message_type is None:
            continue
        single = isinstance(value, (str, bytes, Message))
        for place, one in enumerate([value] if single else value):
            where = f"{path}{field.name}" if single else f"{path}{field.name}[{place}]"
            if not text:
                check_texts(one, f"{where}.")
            elif isinstance(one, bytes):
                _decoded(one, where)


def _decoded(value: bytes, where: str) -> None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise ModelRejected(
            f"the text in the model's field {where} is no UTF-8 (byte {error.start} of {len(value)}): "
            f"{quoted(value[:1000].decode(errors='replace'))}"
        ) from None
