"""The module path of a node ('layer1', '0', 'conv1'), where the exporter left one."""

from __future__ import annotations

import re
from typing import Final

import onnx_ir as ir

from onnxviz.graph.walk import LONGEST

Path = tuple[str, ...]

# Parts of a path: beyond, a node has none.
_DEEPEST: Final = 64
# A list of texts as Python writes it, without escapes: `ast` would take five hundred times the memory.
_TEXT: Final = r"""'([^'\\\n]*)'|"([^"\\\n]*)\""""
_TEXTS: Final = re.compile(rf"\s*[\[(]\s*(?:(?:{_TEXT.replace('(', '(?:')})\s*(?:,\s*)?)*[\])]\s*")
_ONE: Final = re.compile(_TEXT)


def module_path(node: ir.Node, weights: list[ir.Value]) -> Path:
    """The module that the node was exported from; () where nothing tells.

    torch.onnx.export(dynamo=True) writes `pkg.torch.onnx.name_scopes` (or `namespace`) on every node. A
    convolution with a batch norm folded into it bears the norm's path; its weight still has the
    convolution's name, which is then taken. Older exporters put the path into the node's name:
    '/layer1/layer1.0/conv1/Conv', 'model/conv1/Conv2D' or 'layer1.0.conv1'.
    """
    found = _from_metadata(node)
    if found is None:
        found = _from_name(node.name or "", node.op_type)
        return found if len(found) <= _DEEPEST else ()
    if len(found) > _DEEPEST:
        return ()
    for weight in weights:
        owner = tuple((weight.name or "").split(".")[:-1])
        if len(owner) == len(found) and owner[:-1] == found[:-1]:
            return owner
    return found


def _from_metadata(node: ir.Node) -> Path | None:
    scopes: list[str] = []
    listed = node.metadata_props.get("pkg.torch.onnx.name_scopes") or node.metadata_props.get(
        "pkg.onnxscript.name_scopes"
    )
    if listed and len(listed) <= LONGEST and _TEXTS.fullmatch(listed):
        scopes = [found[1] or found[2] or "" for found in _ONE.finditer(listed)]
    namespace = node.metadata_props.get("namespace", "")
    if not scopes and 0 < len(namespace) <= LONGEST:
        scopes = [part.split(":", 1)[0].strip() for part in namespace.split("/")]
    if not scopes:
        return None
    # The last scope is the operation itself; each of the others is the whole dotted path of a module.
    modules = [scope for scope in scopes[:-1] if scope]
    return tuple(modules[-1].split(".")) if modules else ()


def _from_name(name: str, op: str) -> Path:
    if len(name) > LONGEST:
        return ()
    if "/" not in name:
        parts = tuple(part for part in name.split(".") if part)
        return parts if len(parts) > 1 and op not in parts else ()  # 'p2o.Conv.0' is a count, no module
    path: list[str] = []
    previous = ""
    for part in [p for p in name.split("/") if p][:-1]:
        # '/layer1/layer1.0': the second names child 0 of the first, not a module within it.
        if previous and part.startswith(previous + "."):
            path.extend(part[len(previous) + 1 :].split("."))
        else:
            path.extend(part.split("."))
        previous = part
    return tuple(path)
