"""One layer at a time: who did it, on planted faults and on files in which nothing is wrong."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import Local, local
from onnxviz.comparing.match import match


def hybrids(a, b, x: np.ndarray, xb: np.ndarray | None = None) -> Hybrids:
    one, other = (onnxviz.load(each, provider="cpu") for each in (a, b))
    return Hybrids(one, other, match(one, other, x, xb), x, x if xb is None else xb)


@pytest.fixture(scope="module")
def effects(bundled, sound, probes) -> dict[str, Local]:
    return {form: local(hybrids(bundled, path, probes[:4])) for form, path in sound.items()}


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_file(effects, form):
    """62 layers, none of which makes all the damage, and which together come near what B does."""
    found = effects[form]
    assert len(found.effects) == 62
    assert sum(one.share for one in found.effects) == pytest.approx(1)
    assert found.ranked[0].share < 0.6
    assert 12 < found.measured < found.predicted < 22
    assert not found.apart
    healed = [one.healed for one in found.ranked if one.healed is not None]
    assert len(healed) == 5
    assert healed[0] > found.measured


def test_both_forms_say_the_same(effects):
    first = [{one.layer for one in found.ranked[:10]} for found in effects.values()]
    assert len(first[0] & first[1]) >= 8


FAULTS = [
    (form, kind, place)
    for form, kind, place in (
        ("QDQ", "scale*8", 4), ("QDQ", "scale/4", 2), ("QDQ", "zero+24", 6), ("QDQ", "weights*1.5", 1),
        ("QOperator", "scale*8", 7), ("QOperator", "channel*4", 3), ("QOperator", "bits4", 5),
    )
]  # fmt: skip
