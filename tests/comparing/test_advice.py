"""Lists of nodes to leave in float, and what that really gives when the network is quantised anew."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxviz.comparing.advice import advise
from onnxviz.comparing.local import local
from tests.comparing import small
from tests.comparing.test_local import hybrids


def test_what_is_advised_is_what_one_gets(files, sound, probes):
    """An exclude list of three layers gains 3 dB or more, in the hybrid and in a file that was quantised with it."""
    x = probes[:4]
    both = hybrids(files.bundled, sound["QDQ"], x)
    advice = advise(both, local(both, heal=0))
    assert [len(one.layers) for one in advice.exclusions] == [1, 2, 3, 5, 8]
    third = advice.exclusions[2]
    assert third.unnamed == 0
    assert 0 < third.macs < 0.3
    assert third.gain > 3
    assert third.agreement is not None
    file = onnx.load(files.bundled)
    assert set(third.nodes) <= {node.name for node in file.graph.node}
    again = hybrids(files.bundled, files("QDQ", exclude=third.nodes), x)
    moved = again.distances([again.graft.whole()]).moved.mean()
    assert -20 * np.log10(moved) == pytest.approx(third.sqnr, abs=1)


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


def test_nothing_to_advise_where_nothing_differs(files):
    path = files.small("segmenter")
    both = hybrids(path, path, small.pictures()[:2])
    advice = advise(both, local(both))
    assert advice.exclusions == ()
    assert advice.to_dict()["sqnr_db"] is None
