"""What calls of model-local functions come to once they are expanded, as ONNX Runtime expands them.

A file of ten functions that each call the next one ten times is small, and a model of 10^10 nodes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from onnxviz.errors import ModelRejected
from onnxviz.graph.quoted import quoted
from onnxviz.limits import Limits

#: Domain, name and overload of a model-local function.
Key = tuple[str, str, str]


@dataclass
class Count:
    """Nodes of one body, and the calls it makes: how often, and in how deep a subgraph at most."""

    nodes: int = 0
    depth: int = 0
    calls: Counter[Key] = field(default_factory=Counter)
    call_depth: dict[Key, int] = field(default_factory=dict)


_UNSEEN, _OPEN, _DONE = range(3)


def expand(main: Count, counts: dict[Key, Count], limits: Limits) -> None:
    """Refuse functions that call themselves; check size and depth with every call expanded.

    main     the main graph
    counts   every function
    raises   ModelRejected, LimitExceeded
    """
    order: list[Key] = []  # each function after all that it calls
    state = dict.fromkeys(counts, _UNSEEN)
    for first in counts:
        stack = [first]
        while stack:
            key = stack[-1]
            if state[key] == _UNSEEN:
                state[key] = _OPEN
                for callee in counts[key].calls:
                    if state[callee] == _OPEN:
                        name = quoted(callee[1])
                        raise ModelRejected(f"the function {name} calls itself, directly or through others")
                    if state[callee] == _UNSEEN:
                        stack.append(callee)
            else:
                stack.pop()
                if state[key] == _OPEN:
                    state[key] = _DONE
                    order.append(key)
    sizes: dict[Key, tuple[int, int, int]] = {}
    for key in order:
        sizes[key] = _expanded(counts[key], sizes)
    nodes, calls, depth = _expanded(main, sizes)
    limits.check("nodes", nodes, f"the model has {nodes} nodes with its functions expanded")
    limits.check("function_depth", calls - 1, f"functions call each other {calls - 1} deep")
    limits.check("subgraph_depth", depth, f"subgraphs are nested {depth} deep with functions expanded")


def _expanded(count: Count, sizes: dict[Key, tuple[int, int, int]]) -> tuple[int, int, int]:
    """(nodes, depth of calls, depth of subgraphs) of a body with all its calls expanded."""
    nodes = count.nodes + sum(times * sizes[key][0] for key, times in count.calls.items())
    calls = 1 + max((sizes[key][1] for key in count.calls), default=0)
    depth = max([count.depth, *(at + sizes[key][2] for key, at in count.call_depth.items())])
    return nodes, calls, depth
