import dataclasses
import json

import pytest

from onnxviz.errors import LimitExceeded, UsageError
from onnxviz.limits import Limits, exceeded


def test_every_limit_is_in_the_docstring_and_in_the_manifest():
    for field in dataclasses.fields(Limits):
        assert f"    {field.name} " in Limits.__doc__
        assert field.name in Limits().to_dict()
    assert json.loads(json.dumps(Limits().to_dict())) == Limits().to_dict()


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("nodes=2000000", "nodes", 2_000_000),
        ("nodes=2_000_000", "nodes", 2_000_000),
        ("nodes=2e6", "nodes", 2_000_000),
        ("NODES = 2.5M", "nodes", 2_500_000),
        ("file-bytes=4GiB", "file_bytes", 2**32),
        ("file_bytes=4GB", "file_bytes", 4 * 10**9),
        ("file_bytes=0.5KiB", "file_bytes", 512),
        ("file_bytes=100b", "file_bytes", 100),
        ("run_seconds=2.5", "run_seconds", 2.5),
        ("run_seconds=none", "run_seconds", None),
        ("nodes=1e30", "nodes", 2**63 - 1),
        ("nodes=unlimited", "nodes", 2**63 - 1),
    ],
)
def test_parse(text, name, expected):
    limits = Limits.parse([text])
    assert getattr(limits, name) == expected
    assert limits == dataclasses.replace(Limits(), **{name: expected})


def test_the_last_of_a_name_counts():
    assert Limits.parse([]) == Limits()
    assert Limits.parse(["nodes=1", "nodes=2"]).nodes == 2
    assert Limits.parse(["nodes=1"], Limits(tensors=5)).tensors == 5
    assert set(Limits.unlimited().to_dict().values()) == {None}


BAD = ["", "=", "=many", "=-1", "=0", "=1.5", "=1e999", "=5XB", "=nan"]


@pytest.mark.parametrize("text", ["=5", *(f"nodes{value}" for value in BAD)])
def test_parse_refuses(text):
    with pytest.raises(UsageError):
        Limits.parse([text])
    with pytest.raises(UsageError, match="did you mean 'nodes'"):
        Limits.parse(["node=5"])


@pytest.mark.parametrize("value", [0, -1, True, "5", 1.5, float("nan")])
def test_the_constructor_refuses(value):
    with pytest.raises(UsageError, match="nodes"):
        Limits(nodes=value)


@pytest.mark.parametrize(("counting", "named"), [(False, 11), (True, 20)])
def test_check_is_inclusive_and_names_the_flag(counting, named):
    """A count that was broken off asks for more than it reached."""
    limits = Limits(nodes=10)
    limits.check("nodes", 10, "the model has 10 nodes")
    told = rf"11 nodes, over the limit of 10; .*limits=onnxviz\.Limits\(nodes={named}\)$"
    with pytest.raises(LimitExceeded, match=told):
        limits.check("nodes", 11, "the model has 11 nodes", counting=counting)


@pytest.mark.parametrize(("name", "needed"), [("loop_trips", None), ("nodes", 10**30)])
def test_the_flag_for_what_cannot_be_counted_lifts_the_limit(name, needed):
    told = str(exceeded(name, "it never ends", 5, needed))
    assert told.endswith(f"limits=onnxviz.Limits.parse(['{name}=none'])")


def test_limits_print_what_differs():
    assert repr(Limits()) == "Limits()"
    assert repr(Limits(nodes=5, run_seconds=None)) == "Limits(nodes=5, run_seconds=None)"
    assert repr(Limits.unlimited()) == "Limits.unlimited()"
    for one in (Limits(), Limits(nodes=5, memory=2**30), Limits.unlimited()):
        assert eval(repr(one), {"Limits": Limits}) == one
