"""Steps as CUDA graphs: when they are asked for, what is bound, and, on a card, that nothing changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import onnxviz
from onnxviz.programs import compile
from onnxviz.runtime import capture, ort, providers
from onnxviz.runtime.capture import Captured
from onnxviz.runtime.ort import Resident
from tests.runtime.stateful import counter


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "name", {"cuda": providers.CUDA, "cpu": providers.CPU}.__getitem__)
    monkeypatch.delenv("ONNXVIZ_CUDA_GRAPHS", raising=False)


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize(
    ("provider", "version", "switch", "wanted"),
    [
        ("cuda", "9.9.9", None, True),
        ("cuda", "9.9.8", None, False),
        ("cuda", None, None, False),
        ("cpu", "9.9.9", None, False),
        ('cuda {"device_id": "1"}', "9.9.9", None, False),
        ("cuda", "9.9.8", "1", True),
        ("cpu", "9.9.8", "1", False),
        ("cuda", "9.9.9", "0", False),
    ],
)
def test_only_cuda_captures_and_only_where_a_card_has_shown_it(
    provider: str, version: str | None, switch: str | None, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "PROVEN", frozenset({"9.9.9"}))
    if switch is not None:
        monkeypatch.setenv("ONNXVIZ_CUDA_GRAPHS", switch)
    assert capture.wanted(provider, version) == wanted


@pytest.mark.usefixtures("on_cuda")
def test_the_session_is_asked_for_the_option_and_does_without_where_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONNXVIZ_CUDA_GRAPHS", "1")
    asked: list[Any] = []

    def refuses(model: bytes, options: Any, *, providers: list[Any], **_: Any) -> Any:
        asked.append(providers)
        raise RuntimeError("all compute graph nodes have not been partitioned to the CUDAExecutionProvider")

    runtime = SimpleNamespace(__version__="9.9.9", InferenceSession=refuses)
    monkeypatch.setattr(providers, "onnxruntime", lambda: runtime)
    assert capture.session("cuda", b"", None) is None
    ((name, given), last) = asked.pop()
    assert (name, last) == (providers.CUDA, providers.CPU)
    assert given["enable_cuda_graph"] == "1"
    assert given["use_tf32"] == "0"
    assert capture.session("cpu", b"", None) is None
    assert not asked


def captured() -> tuple[Any, Captured]:
    """A program of this machine, its runs bound as those that are captured."""
    program = compile(counter(), provider="cpu")
    program._captured = Captured(program._session, program._types, ort._bound, "cpu")
    return program, program._captured


def test_bound_to_places_that_stay_the_steps_are_the_same() -> None:
    plain, (program, bound) = compile(counter(), provider="cpu"), captured()
    state = {"x": np.arange(6.0).reshape(2, 3)}
    one, other = Resident(plain, state, ["total"]), Resident(program, state, ["total"])
    for by in range(10):
        feeds = {"by": np.float32(by * by)}
        assert one.run(feeds)["total"] == other.run(feeds)["total"]
        if by == 5:  # a regulariser puts another value in its place
            for resident in (one, other):
                resident.replace("x", -resident.state("x"))
    np.testing.assert_array_equal(one.state("x"), other.state("x"))
    assert 3 <= len(bound._kept) <= 8  # one for each set of state, not one a step


def test_each_set_of_addresses_is_a_capture_of_its_own_and_their_number_has_an_end() -> None:
    program, bound = captured()
    numbers: list[str] = []
    values = [program.hold(np.zeros((2, 3))) for _ in range(12)]
    for value in [*values, values[0]]:
        told = SimpleNamespace(add_run_config_entry=lambda _, number: numbers.append(number))
        bound.binding({"by": np.float32(1)}, {"x": value}, {"x.next": values[1]}, ["total"], told)
    assert numbers == [*map(str, range(1, 9)), *["-1"] * 4, "1"]


needs_a_card = pytest.mark.skipif(
    "CUDAExecutionProvider" not in providers.onnxruntime().get_available_providers(), reason="no CUDA here"
)


@needs_a_card
@pytest.mark.parametrize("preset", ["lucid", "lecture"])
def test_on_a_card_pictures_are_the_same_with_and_without(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where this passes, the version of ONNX Runtime may go into capture.PROVEN."""
    net = onnxviz.load("efficientnet-lite0", provider="cuda")
    made = {}
    for switch in ("0", "1"):
        monkeypatch.setenv("ONNXVIZ_CUDA_GRAPHS", switch)
        made[switch] = onnxviz.ascent(net, target=285, preset=preset, steps=32).pictures()
    np.testing.assert_array_equal(made["0"], made["1"])
