"""Stand-ins for other providers: one that computes on the CPU, truly or not, and packages of plugins."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
import pytest

from onnxviz import running
from onnxviz.backends import native
from onnxviz.runtime import providers

NAME = "ElsewhereExecutionProvider"
_numbers = itertools.count()


@dataclass
class Lies:
    """By which factor the stand-in has a weight, of everything it runs or of gradients alone."""

    everywhere: dict[str, float] = field(default_factory=dict)
    gradient: dict[str, float] = field(default_factory=dict)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Lies:
    """A provider called 'elsewhere' beside those that there are."""
    lies = Lies()
    choose = providers.choose

    def lying(made, own: dict[str, float]):
        def compile(graph: ir.Model, *, provider: str, **settings):
            if provider != "elsewhere":
                return made(graph, provider=provider, **settings)
            held, factors = graph.graph.initializers, {**lies.everywhere, **own}
            truths = {name: held[name].const_value for name in factors if name in held}
            for name, truth in truths.items():
                held[name].const_value = ir.tensor(
                    truth.numpy() * truth.numpy().dtype.type(factors[name]), name=name
                )
            try:
                program = made(graph, provider="cpu", **settings)
            finally:
                for name, truth in truths.items():
                    held[name].const_value = truth
            program.provider = NAME
            program.placed = {NAME: {"Conv": 3, "Relu": 3}, providers.CPU: {"Shape": 1}}
            return program

        return compile

    there = providers.Choice("elsewhere", NAME, {})
    monkeypatch.setattr(providers, "choose", lambda one: there if one == "elsewhere" else choose(one))
    monkeypatch.setattr(running, "compile", lying(running.compile, {}))
    monkeypatch.setattr(native, "compile_graph", lying(native.compile_graph, lies.gradient))
    return lies


def package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str = "onnxruntime_ep_toy{}"
) -> str:
    """An installed module of this text, of a name that no test had before; `plugins.cache_clear` is the caller's."""
    module = name.format(next(_numbers))
    (folder / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    providers.plugins.cache_clear()
    return module
