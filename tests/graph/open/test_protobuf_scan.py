"""Text that is no UTF-8, in every field of text: refused when the file is opened, naming the field."""

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from onnx import helper

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import protobuf_scan as scan
from onnxviz.graph.open.load import load
from tests.graph import hostile

GOOD, BAD = b"QuZQuZ", b"Q\xff\xfeQZQ"
# The training part of a file is never parsed.
UNREAD = {"TrainingInfoProto"}


def fields():
    """(path, field) of every text of the format that can be reached without training, by the shortest way."""
    found, paths, waiting = [], {onnx.ModelProto.DESCRIPTOR.full_name: ()}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop(0)
        path = paths[message.full_name]
        for field in message.fields:
            below = field.message_type
            if field.type == FieldDescriptor.TYPE_STRING or field.name in ("s", "strings"):
                found.append((path, field.name))
            elif below is not None and below.full_name not in paths and below.name not in UNREAD:
                paths[below.full_name] = (*path, field.name)
                waiting.append(below)
    return sorted(found)


def with_text(path, name):
    """The bytes of a network that has the bad text in one field, put there as a stranger would: past the parser."""
    model = hostile.network()
    message = model
    for step in path:
        held = getattr(message, step)
        message = held.add() if hasattr(held, "add") else held
    held = getattr(message, name)
    of_bytes = message.DESCRIPTOR.fields_by_name[name].type == FieldDescriptor.TYPE_BYTES
    value = GOOD if of_bytes else GOOD.decode()
    if hasattr(held, "append"):
        held.append(value)
    else:
        setattr(message, name, value)
    content = model.SerializeToString()
    assert content.count(GOOD) == 1
    return content, content.replace(GOOD, BAD)


CASES = fields()


@pytest.mark.parametrize(("path", "name"), CASES, ids=[".".join((*p, n)) for p, n in CASES])
def test_every_field_of_text(path, name):
    good, bad = with_text(path, name)
    assert scan.is_clean(good)
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
    model.graph.node.extend(hostile.nodes("t = Constant() k = Constant()"))
    text = helper.make_tensor("t", onnx.TensorProto.STRING, [1], [BAD])
    for node, tensor in zip(model.graph.node[-2:], (text, hostile.array("k", list(BAD))), strict=True):
        node.attribute.append(helper.make_attribute("value", tensor))
    assert scan.is_clean(model.SerializeToString())
    load(model)


def test_umlauts_and_emoji_are_text():
    model = hostile.network()
    model.graph.node[0].name = "Faltung für 🐈"
    assert load(model).model.graph[0].name == "Faltung für 🐈"
