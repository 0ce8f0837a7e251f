"""Lists of nodes to leave in float (what that gives when the network is quantised anew: test_known_answers.py)."""

from __future__ import annotations

import onnx
import pytest

from onnxviz.comparing.advice import Advice, Exclusion, advise
from onnxviz.comparing.local import local
from tests.comparing import small
from tests.comparing.test_local import hybrids


def test_operators_without_a_name_are_counted(files):
    path = files.small("resnet")
    bare = onnx.load(path)
    for node in bare.graph.node:
        node.ClearField("name")
    both = hybrids(bare, files.small("resnet", "QDQ"), small.pictures()[:2])
    advice = advise(both, local(both, heal=0))
    assert all(one.nodes == () and one.unnamed >= len(one.layers) - 1 for one in advice.exclusions)


def test_without_classes_there_is_no_agreement(files):
    both = hybrids(files.small("detector"), files.small("detector", "QDQ"), small.pictures()[:2])
    advice = advise(both, local(both, heal=0), restore=2)
    assert [len(one.layers) for one in advice.exclusions] == [1, 2]
    assert advice.agreement is None
    assert all(one.agreement is None and one.sqnr >= advice.sqnr for one in advice.exclusions)


@pytest.mark.parametrize(
    ("gains", "said"),
    [((6.0, 7.0), "leave it in float"), ((-0.04, 3.0), "do not help (-0.0 dB)"), ((), "in float")],
)
def test_what_does_not_help_is_not_a_way_out(gains, said):
    """A scale that is too small cuts off what the layer gives, whoever computes it."""
    lists = tuple(
        Exclusion(("a", "b")[:count], (), 20.0, gain, None, 0.1) for count, gain in enumerate(gains, 1)
    )
    assert said in Advice(14.0, None, lists, 4).way_out
