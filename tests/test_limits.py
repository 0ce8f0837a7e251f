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
    ],
)
def test_parse(text, name, expected):
    limits = Limits.parse([text])
    assert getattr(limits, name) == expected
    assert limits == dataclasses.replace(Limits(), **{name: expected})


def test_parse_of_nothing_gives_the_defaults_and_the_last_of_a_name_counts():
    assert Limits.parse([]) == Limits()
    assert Limits.parse(["nodes=1", "nodes=2"]).nodes == 2
    assert Limits.parse(["nodes=1"], Limits(tensors=5)).tensors == 5


def test_unlimited_is_null_in_the_manifest():
    assert set(Limits.unlimited().to_dict().values()) == {None}
    assert Limits.parse(["nodes=unlimited"]).to_dict()["nodes"] is None


@pytest.mark.parametrize(
    "text",
    [
        "nodes",
        "nodes=",
        "nodes=many",
        "nodes=-1",
        "nodes=0",
        "nodes=1.5",
        "nodes=1e999",
        "nodes=5XB",
        "nodes=nan",
        "=5",
    ],
)
def test_parse_refuses(text):
    with pytest.raises(UsageError):
        Limits.parse([text])


def test_an_unknown_name_is_told_with_near_ones():
    with pytest.raises(UsageError, match="did you mean 'nodes'"):
        Limits.parse(["node=5"])


@pytest.mark.parametrize("value", [0, -1, True, "5", 1.5, float("nan")])
def test_the_constructor_refuses(value):
    with pytest.raises(UsageError, match="nodes"):
        Limits(nodes=value)


def test_check_is_inclusive_and_names_the_flag():
    Limits(nodes=10).check("nodes", 10, "the model has 10 nodes")
    with pytest.raises(
        LimitExceeded, match=r"11 nodes, over the limit of 10; .*limits=onnxviz\.Limits\(nodes=11\)$"
    ):
        Limits(nodes=10).check("nodes", 11, "the model has 11 nodes")


def test_a_count_that_was_broken_off_asks_for_more_than_it_reached():
    with pytest.raises(LimitExceeded, match=r"limits=onnxviz\.Limits\(nodes=20\)$"):
        Limits(nodes=10).check("nodes", 11, "the model has 11 nodes or more", counting=True)


def test_the_flag_for_what_cannot_be_counted_lifts_the_limit():
    assert str(exceeded("loop_trips", "it never ends", 5)).endswith(
        "limits=onnxviz.Limits.parse(['loop_trips=none'])"
    )
    assert str(exceeded("nodes", "it is huge", 5, 10**30)).endswith(
        "limits=onnxviz.Limits.parse(['nodes=none'])"
    )


def test_limits_print_what_differs():
    assert repr(Limits()) == "Limits()"
    assert repr(Limits(nodes=5, run_seconds=None)) == "Limits(nodes=5, run_seconds=None)"
    assert repr(Limits.unlimited()) == "Limits.unlimited()"
    for one in (Limits(), Limits(nodes=5, memory=2**30), Limits.unlimited()):
        assert eval(repr(one), {"Limits": Limits}) == one
