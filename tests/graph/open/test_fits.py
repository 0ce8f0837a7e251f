"""Tensors that are each within their limit, and together beyond the memory."""

from __future__ import annotations

import pytest

from onnxviz.errors import LimitExceeded
from onnxviz.graph.open import fits
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph.hostile import array, ints, model

SIDE = 31_000  # 31,000² float32: 3.8 GB


def opened(text, memory=None):
    constants = [ints("large", SIDE, SIDE), *(array(f"c{i}", i) for i in range(9))]
    return load(model(text, constants, shape=("N", 1)), limits=Limits(memory=memory))


def large(i):
    """A large tensor t<i> that differs from the others."""
    return f"s{i} = Add(x, c{i}) t{i} = Expand(s{i}, large) "


def each(text, places=range(8)):
    return " ".join(text.format(i, i + 1) for i in places) + " "


def summed(name):
    return f"z = Sum({', '.join(f'{name}{i}' for i in range(8))}) y = ReduceSum(z)"


EIGHT = "".join(map(large, range(8)))
CHAIN = large(0) + each("t{1} = Mul(t{0}, c2)", range(7))
# Each reads the sum of those behind it.
BACK = "e7 = ReduceSum(t7) " + each("a{0} = Add(t{0}, e{1}) e{0} = ReduceSum(a{0})", range(6, -1, -1))
NARROW = "h = Cast<to = 10>(x) " + each(
    "k{0} = Cast<to = 10>(c{0}) s{0} = Add(h, k{0}) t{0} = Expand(s{0}, large)"
)
TOGETHER = {
    "eight inputs of one node": (EIGHT + summed("t"), 16 * 2**30, r"8 tensors of 30752000000 bytes .*memory=30752"),
    # t0 … t7, each made of the one before, and all read at the end: the last is made while seven are there.
    "needed again behind a chain": (f"{CHAIN} {BACK} y = Identity(e0)", 16 * 2**30, "tensors of"),
    "of two bytes": (NARROW + summed("t").replace("y =", "r =") + " y = Cast<to = 1>(r)", 15 * 10**9, "of 15376000000"),
}  # fmt: skip
APART = {
    "eight in more memory": (TOGETHER["eight inputs of one node"][0], 32 * 2**30),
    "of two bytes in more memory": (TOGETHER["of two bytes"][0], 16 * 2**30),
    "one": (large(0) + "y = ReduceSum(t0)", 4 * 10**9),
    # Two at a time are enough.
    "one after the other": (CHAIN + "y = ReduceSum(t7)", 16 * 2**30),
    "summed before the next": (EIGHT + each("e{0} = ReduceSum(t{0})") + summed("e"), 16 * 2**30),
    "the same memory under eight names": (large(0) + each("u{0} = Identity(t0)") + summed("u"), 16 * 2**30),
    # Nodes that do the same are one to ONNX Runtime.
    "the same": ("s = Add(x, c1) " + each("t{0} = Expand(s, large)") + summed("t"), 16 * 2**30),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_what_is_there_together_is_refused(name):
    text, memory, words = TOGETHER[name]
    with pytest.raises(LimitExceeded, match=words):
        opened(text, memory)


@pytest.mark.parametrize("name", APART)
def test_what_need_not_be_there_together_is_let_through(name):
    opened(*APART[name])


def test_by_default_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 2**30)
    with pytest.raises(LimitExceeded, match="8 tensors"):
        opened(EIGHT + summed("t"))
    monkeypatch.setattr(fits, "machine_memory", lambda: 64 * 2**30)
    opened(EIGHT + summed("t"))
