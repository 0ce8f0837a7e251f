"""Whether a parsed model hangs together: its names, its order, its operators, its functions, its size in nodes.

Refused are unknown operators, undefined or doubly defined values, cycles, functions that call themselves, and
whatever has too many nodes once every function call is expanded. Works on the protobuf message, since the IR
would already log and repair. Nodes that are merely out of order are sorted. Time and memory grow with the file's
size (n log n where it has to be sorted).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Final

import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import signatures
from onnxviz.graph.open.signatures import MICROSOFT, Signature, check_call, label, normal, subgraphs
from onnxviz.graph.open.tensors import check_type
from onnxviz.limits import Limits
from onnxviz.text import quoted

_MOST_IMPORTS: Final = 1000
# Onnx-ir, which puts the bodies of functions in place of their calls, compares the names of each with those of each.
_MOST_FUNCTIONS: Final = 4096
_MOST_CALLS: Final = 12_000
_NEWEST: Final = 2**31 - 1  # what ONNX's and ONNX Runtime's C int of a version holds; no operator is that new


#: Domain, name and overload of a model-local function.
Key = tuple[str, str, str]


@dataclass
class Count:
    """Nodes of one body, and the calls it makes: how often, and in how deep a subgraph at most."""

    nodes: int = 0
    depth: int = 0
    calls: Counter[Key] = field(default_factory=Counter)
    call_depth: dict[Key, int] = field(default_factory=dict)


@dataclass
class Structure:
    """What `check` found out about a sound model.

    opsets      the version of each domain imported, '' for ai.onnx
    functions   the model-local functions
    microsoft   whether operators of com.microsoft are used
    warnings    what is unusual but allowed
    """

    opsets: dict[str, int]
    functions: dict[Key, onnx.FunctionProto]
    microsoft: bool = False
    warnings: list[str] = field(default_factory=list)


def check(model: onnx.ModelProto, limits: Limits) -> Structure:
    """Check a model.

    raises   ModelRejected, LimitExceeded
    """
    found = Structure(_opsets(model.opset_import, "the model"), {})
    if not found.opsets:
        raise ModelRejected(
            "the model does not say which operator set it is written in (opset_import is missing)"
        )
    if len(model.functions) > _MOST_FUNCTIONS:
        raise ModelRejected(
            f"the model defines {len(model.functions)} functions; at most {_MOST_FUNCTIONS} were expected"
        )
    for function in model.functions:
        key = (normal(function.domain), function.name, function.overload)
        if not function.name or key in found.functions:
            name = quoted(".".join(filter(None, key)))
            raise ModelRejected(f"the model defines the function {name} twice or without a name")
        found.functions[key] = function
    main = _Checker(found, limits, found.opsets)
    main.graph(model.graph, (), 0)
    counts: dict[Key, Count] = {}
    for key, function in found.functions.items():
        body = _Checker(
            found, limits, found.opsets | _opsets(function.opset_import, f"the function {quoted(key[1])}")
        )
        body.function(function)
        counts[key] = body.count
    _expand(main.count, counts, limits)
    _version_warnings(found)
    return found


def _opsets(imports: Sequence[onnx.OperatorSetIdProto], who: str) -> dict[str, int]:
    versions: dict[str, int] = {}
    if len(imports) > _MOST_IMPORTS:
        raise ModelRejected(
            f"{who} imports {len(imports)} operator sets; at most {_MOST_IMPORTS} were expected"
        )
    for entry in imports:
        domain = normal(entry.domain)
        entry.version = min(entry.version, _NEWEST)
        if entry.version < 1 or versions.setdefault(domain, entry.version) != entry.version:
            raise ModelRejected(
                f"{who} imports the operator set {quoted(domain or 'ai.onnx')} in version {entry.version}"
                + (f" and {versions[domain]}" if domain in versions else "; 1 or more was expected")
            )
    return versions


def _version_warnings(found: Structure) -> None:
    for domain, newest in signatures.NEWEST.items():
        version = found.opsets.get(domain, newest)
        if version > newest:
            found.warnings.append(
                f"the model is written in version {version} of {domain or 'ai.onnx'}, the newest known here is "
                f"{newest}; operators that changed since may be understood wrongly"
            )
    if found.opsets.get("", signatures.OLDEST) < signatures.OLDEST:
        found.warnings.append(
            f"the model is written in opset {found.opsets['']}; ONNX Runtime guarantees {signatures.OLDEST} and newer"
        )


class _Checker:
    """Checks one body: the main graph or a function, with the subgraphs in it."""

    def __init__(self, found: Structure, limits: Limits, opsets: dict[str, int]) -> None:
        self.found = found
        self.limits = limits
        self.opsets = opsets
        self.count = Count()
        self._signatures: dict[tuple[str, str], Signature | None] = {}
        self._references: frozenset[str] | None = None  # the attributes that a function's body may refer to

    def function(self, function: onnx.FunctionProto) -> None:
        """Check a function's body."""
        self._references = frozenset(function.attribute) | {a.name for a in function.attribute_proto}
        who = f"the function {quoted(function.name)}"
        self._body(function.node, _unique(function.input, f"an input of {who}"), function.output, who, (), 0)

    def graph(self, graph: onnx.GraphProto, outer: tuple[set[str], ...], depth: int) -> set[str]:
        """Check a graph; the names that it takes from the graphs around it."""
        self.limits.check("subgraph_depth", depth, f"subgraphs are nested {depth} deep", counting=True)
        self.count.depth = max(self.count.depth, depth)
        who = f"the graph {quoted(graph.name)}" if depth == 0 else f"the subgraph {quoted(graph.name)}"
        own = _unique((value.name for value in graph.input), f"an input of {who}")
        for tensor in graph.initializer:
            own.add(tensor.name)
        for sparse in graph.sparse_initializer:
            if sparse.values.name in own:
                raise ModelRejected(f"{who} has the sparse weight {quoted(sparse.values.name)} twice")
            own.add(sparse.values.name)
        for value in (*graph.input, *graph.output):
            try:
                check_type(value.type, f"the value {quoted(value.name)}")
            except ModelRejected:
                if not any(tensor.name == value.name for tensor in graph.initializer):
                    raise
                value.ClearField("type")  # ONNX Runtime takes a weight's type from the weight
        self._declared(graph)
        if "" in own:
            raise ModelRejected(f"{who} has a weight or an input without a name")
        return self._body(graph.node, own, [value.name for value in graph.output], who, outer, depth)

    def _declared(self, graph: onnx.GraphProto) -> None:
        """Check what is declared of values between nodes; ONNX Runtime reads nothing that is said of others."""
        made: set[str] | None = None
        for value in list(graph.value_info):
            try:
                check_type(value.type, f"the value {quoted(value.name)}")
            except ModelRejected:
                if made is None:
                    made = {name for node in graph.node for name in node.output}
                    made |= {value.name for value in graph.input}
                if value.name in made:
                    raise
                graph.value_info.remove(value)

    def _body(
        self,
        nodes: MutableSequence[onnx.NodeProto],
        own: set[str],
        outputs: Iterable[str],
        who: str,
        outer: tuple[set[str], ...],
        depth: int,
    ) -> set[str]:
        self.count.nodes += len(nodes)
        self.limits.check(
            "nodes", self.count.nodes, f"the model has {self.count.nodes} nodes or more", counting=True
        )
        made: dict[str, int] = {}
        for place, node in enumerate(nodes):
            for name in node.output:
                if name in own or name in made:
                    raise ModelRejected(
                        f"{who} defines the value {quoted(name)} twice, once by the {label(node)}"
                    )
                if name:
                    made[name] = place
        names = own | made.keys()
        free: set[str] = set()
        needs: list[set[int]] = []
        sorted_so_far = True
        for place, node in enumerate(nodes):
            self._operator(node, depth)
            needed = set()
            for name in self._reads(node, (*outer, names), depth):
                if name in made:
                    needed.add(made[name])
                    sorted_so_far = sorted_so_far and made[name] < place
                elif name not in own:
                    if not any(name in scope for scope in outer):
                        maker = "nothing in the model makes"
                        if self._references is not None:
                            maker = (
                                f"neither an input nor a node of {who} makes: a function sees its inputs only"
                            )
                        raise ModelRejected(f"the {label(node)} reads {quoted(name)}, which {maker}")
                    free.add(name)
            needs.append(needed)
        if not sorted_so_far:
            _sort(nodes, needs, who)
            warning = "the nodes are not in the order of computation; they were sorted"
            if warning not in self.found.warnings:
                self.found.warnings.append(warning)
        for name in outputs:
            if name not in names:
                hint = (
                    "; an Identity node is needed to pass an outer value on"
                    if any(name in s for s in outer)
                    else ""
                )
                raise ModelRejected(f"{who} has an output {quoted(name)} that none of its nodes makes{hint}")
        return free

    def _reads(self, node: onnx.NodeProto, scopes: tuple[set[str], ...], depth: int) -> Iterator[str]:
        """The names that a node needs: its inputs, and what its subgraphs take from around them."""
        yield from filter(None, node.input)
        for attribute in node.attribute:
            for graph in subgraphs(attribute):
                yield from self.graph(graph, scopes, depth + 1)

    def _operator(self, node: onnx.NodeProto, depth: int) -> None:
        domain, op = normal(node.domain), node.op_type
        self._attributes(node)
        key = (domain, op, node.overload)
        if key in self.found.functions:
            function = self.found.functions[key]
            if len(node.input) > len(function.input) or len(node.output) > len(function.output):
                raise ModelRejected(
                    f"the {label(node)} calls a function of the model with {len(node.input)} inputs and "
                    f"{len(node.output)} outputs; it has {len(function.input)} and {len(function.output)}"
                )
            self.count.calls[key] += 1
            self.count.call_depth[key] = max(depth, self.count.call_depth.get(key, 0))
            return
        if (domain, op) not in self._signatures:
            version = self.opsets.get(domain)
            if version is None and domain in signatures.NEWEST:
                # ONNX Runtime takes com.microsoft as imported; ai.onnx has no version to fall back on.
                if domain != MICROSOFT:
                    raise ModelRejected(
                        f"{label(node)}: the model does not say which version of {domain or 'ai.onnx'} it uses"
                    )
                version = 1
            self._signatures[domain, op] = signatures.signature(domain, op, version or 1, label(node))
            self.found.microsoft |= domain == MICROSOFT
        signature = self._signatures[domain, op]
        if signature is not None:
            check_call(signature, node)

    def _attributes(self, node: onnx.NodeProto) -> None:
        names, known = set(), normal(node.domain) in ("", MICROSOFT)
        for attribute in node.attribute:
            if attribute.name in names:
                raise ModelRejected(f"the {label(node)} has its attribute {quoted(attribute.name)} twice")
            names.add(attribute.name)
            if attribute.name in signatures.FLAGS and attribute.i not in (0, 1) and known:
                said = attribute.i
                attribute.i = int(not signatures.FLAGS[attribute.name])
                self.found.warnings.append(
                    f"the {label(node)}: its attribute {quoted(attribute.name)} is {said}, where 0 or 1 is due; it is "
                    f"taken as {attribute.i}, as ONNX Runtime takes it"
                )
            if reference := attribute.ref_attr_name:
                if self._references is None or reference not in self._references:
                    raise ModelRejected(
                        f"the {label(node)} refers to an attribute {quoted(reference)} that is not there"
                    )
            elif attribute.type in (onnx.AttributeProto.TYPE_PROTO, onnx.AttributeProto.TYPE_PROTOS):
                for kind in (attribute.tp, *attribute.type_protos):
                    check_type(kind, f"the attribute {quoted(attribute.name)} of the {label(node)}")
            elif attribute.type == onnx.AttributeProto.UNDEFINED:
                raise ModelRejected(
                    f"the attribute {quoted(attribute.name)} of the {label(node)} has no type"
                )


def _unique(names: Iterable[str], what: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name:
            raise ModelRejected(f"{what} is called {quoted(name)}; a name of its own was expected")
        seen.add(name)
    return seen


def _sort(nodes: MutableSequence[onnx.NodeProto], needs: list[set[int]], who: str) -> None:
    """Put nodes into the order of computation, otherwise as they were; refuse those that wait for each other."""
    readers: list[list[int]] = [[] for _ in nodes]
    for place, needed in enumerate(needs):
        for other in needed:
            readers[other].append(place)
    missing = [len(needed) for needed in needs]
    ready = [place for place, count in enumerate(missing) if not count]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(onnx.NodeProto.FromString(nodes[place].SerializeToString()))
        for reader in readers[place]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(place for place, count in enumerate(missing) if count)
        raise ModelRejected(
            f"{who} has a cycle: {len(nodes) - len(order)} nodes wait for each other, "
            f"among them the {label(nodes[stuck])}"
        )
    del nodes[:]
    nodes.extend(order)


# --- calls of functions -------------------------------------------------------------------------


def _expand(main: Count, counts: dict[Key, Count], limits: Limits) -> None:
    """Refuse functions that call themselves; check size and depth with every call expanded.

    main     the main graph
    counts   every function
    raises   ModelRejected, LimitExceeded
    """
    sizes: dict[Key, tuple[int, int, int, int]] = {}
    try:
        for key in TopologicalSorter({key: count.calls for key, count in counts.items()}).static_order():
            sizes[key] = _expanded(counts[key], sizes)  # each function after all that it calls
    except CycleError as error:
        name = quoted(error.args[1][0][1])
        raise ModelRejected(f"the function {name} calls itself, directly or through others") from None
    nodes, calls, depth, many = _expanded(main, sizes)
    limits.check("nodes", nodes, f"the model has {nodes} nodes with its functions expanded")
    limits.check("function_depth", calls - 1, f"functions call each other {calls - 1} deep")
    limits.check("subgraph_depth", depth, f"subgraphs are nested {depth} deep with functions expanded")
    if many > _MOST_CALLS:
        raise ModelRejected(
            f"the model calls its functions {many} times; at most {_MOST_CALLS} were expected"
        )


def _expanded(count: Count, sizes: dict[Key, tuple[int, int, int, int]]) -> tuple[int, int, int, int]:
    """(nodes, depth of calls, depth of subgraphs, calls) of a body with all its calls expanded."""
    nodes = count.nodes + sum(times * sizes[key][0] for key, times in count.calls.items())
    calls = 1 + max((sizes[key][1] for key in count.calls), default=0)
    depth = max([count.depth, *(at + sizes[key][2] for key, at in count.call_depth.items())])
    many = sum(times * (1 + sizes[key][3]) for key, times in count.calls.items())
    return nodes, calls, depth, many
