"""Text that is no UTF-8, in every field of text: refused when the file is opened, naming the field."""

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from onnx import helper

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import protobuf_scan as text
from onnxviz.graph.open.load import load
from tests.graph import hostile

GOOD, BAD = b"QuZQuZ", b"Q\xff\xfeQZQ"
# The training part of a file is never parsed.
UNREAD = {"TrainingInfoProto"}


def fields():
    """(message, field) for every text of the format that can be reached without training."""
    found, waiting, seen = [], [onnx.ModelProto.DESCRIPTOR], set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or message.name in UNREAD:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if field.type == FieldDescriptor.TYPE_STRING or field.name in ("s", "strings"):
                found.append((message.full_name, field.name))
            elif field.message_type is not None:
                waiting.append(field.message_type)
    return sorted(found)


def paths():
    """The shortest path of fields from the model to each message."""
    found = {onnx.ModelProto.DESCRIPTOR.full_name: ()}
    waiting = [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop(0)
        for field in message.fields:
            below = field.message_type
            if below is not None and below.full_name not in found and below.name not in UNREAD:
                found[below.full_name] = (*found[message.full_name], field.name)
                waiting.append(below)
    return found


def with_text(path, name):
    """The bytes of a network that has the bad text in one field, put there as a stranger would: past the parser."""
    model = hostile.network()
    message = model
    for step in path:
        held = getattr(message, step)
        message = held.add() if hasattr(held, "add") else held
    held = getattr(message, name)
    value = (
        GOOD if message.DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_BYTES else GOOD.decode()
    )
    if hasattr(held, "append"):
        held.append(value)
    else:
        setattr(message, name, value)
    content = model.SerializeToString()
    assert content.count(GOOD) == 1
    return content, content.replace(GOOD, BAD)


PATHS = paths()
CASES = [(PATHS[message], name) for message, name in fields()]


@pytest.mark.parametrize(("path", "name"), CASES, ids=[".".join((*p, n)) for p, n in CASES])
def test_every_field_of_text(path, name):
    good, bad = with_text(path, name)
    assert text.is_clean(good)
    with pytest.raises(ModelRejected, match="is no UTF-8") as caught:
        load(bad)
    said = str(caught.value)
    assert all(step in said for step in (*path, name)), said
    assert said.isprintable()


def test_the_fields_are_all_there():
    assert len(CASES) >= 35
    names = {".".join((path[-1] if path else "", name)) for path, name in CASES}
    assert {
        ".producer_name", ".doc_string", "metadata_props.key", "metadata_props.value", "node.name", "node.op_type",
        "attribute_proto.name", "attribute_proto.s", "attribute_proto.strings", "type.denotation", "dim.dim_param",
    } <= names  # fmt: skip


def test_bytes_that_are_no_text_stay():
    # The numbers of weights and the elements of a tensor of text may be any bytes.
    model = hostile.network()
    node = helper.make_node(
        "Constant", [], ["t"], value=helper.make_tensor("t", onnx.TensorProto.STRING, [1], [BAD])
    )
    model.graph.node.append(node)
    model.graph.node.append(
        helper.make_node("Constant", [], ["k"], value=hostile.array("k", np.frombuffer(BAD, np.uint8)))
    )
    assert text.is_clean(model.SerializeToString())
    load(model)


def test_umlauts_and_emoji_are_text():
    model = hostile.network()
    model.graph.node[0].name = "Faltung für 🐈"
    assert load(model).model.graph[0].name == "Faltung für 🐈"
