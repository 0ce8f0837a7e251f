"""Running one program many times on state that stays where the program runs.

What a run gives out as the new state the next run takes as its state, without a copy to the host: three sets of
buffers take turns, so that the state before the last run can still be read when that run went wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxviz.runtime.ort import Program

_SETS = 3


class Resident:
    """A program with state.

    program   its outputs include `<name>.next` for each name of the state
    state     {input name: array}, the state to begin with
    results   the other outputs, which come to the host at each run
    """

    def __init__(self, program: Program, state: Mapping[str, np.ndarray], results: list[str]) -> None:
        self._program = program
        self._names = list(state)
        self._results = results
        self._sets = [{name: program.hold(array) for name, array in state.items()} for _ in range(_SETS)]
        self._at = 0

    def run(self, feeds: Mapping[str, np.ndarray], program: Program | None = None) -> dict[str, np.ndarray]:
        """One run: the results, on the host. The new state is `state()` from now on.

        program   another one with the same state and results (other gradient rules), instead of the usual
        """
        now, after = self._sets[self._at], self._sets[(self._at + 1) % _SETS]
        arrays = (program or self._program).run_bound(
            feeds, now, {f"{name}.next": after[name] for name in self._names}, self._results
        )
        self._at = (self._at + 1) % _SETS
        return arrays

    def state(self, name: str, back: int = 0) -> np.ndarray:
        """A copy of one part of the state, as it was `back` runs ago (at most two)."""
        if not 0 <= back < _SETS:
            raise ValueError(f"only {_SETS - 1} runs are remembered, {back} were asked for")
        return np.array(self._sets[(self._at - back) % _SETS][name].numpy())

    @property
    def lost(self) -> bool:
        """Whether the state went with an isolated network's process."""
        return any(getattr(value, "lost", False) for value in self._sets[self._at].values())

    def replace(self, name: str, array: np.ndarray) -> None:
        """Give one part of the state another value."""
        self._sets[self._at][name] = self._program.hold(array)
