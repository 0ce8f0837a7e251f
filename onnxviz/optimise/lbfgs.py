"""scipy's L-BFGS turned inside out: a loop that hands out a step for each evaluation."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

#: From parameters (flat, float64) to the value to be maximised and its gradient (flat).
Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]


class _Stop(Exception):
    """Ends scipy's search from inside its own call."""


def maximise(
    evaluate: Evaluate,
    start: np.ndarray,
    *,
    steps: int,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
    history: int = 10,
) -> Iterator[tuple[np.ndarray, float]]:
    """Parameters and value of each evaluation, until `steps` of them or until nothing improves any more.

    evaluate   called in the caller's thread, so that Ctrl-C and errors arise there
    start      flat, float64
    bounds     least and greatest value of each parameter, of start's shape; None: unbounded
    history    how many past steps the curvature is estimated from
    yields     (parameters, value); what an evaluation of the line search tried, so the value may fall between two
    """
    asked: queue.Queue[Any] = queue.Queue(1)
    answers: queue.Queue[Any] = queue.Queue(1)

    def ask(x: np.ndarray) -> tuple[float, np.ndarray]:
        asked.put(np.array(x))
        answer = answers.get()
        if answer is None:
            raise _Stop
        value, gradient = answer
        return -value, -np.asarray(gradient, np.float64)

    def search() -> None:
        from scipy.optimize import Bounds, minimize
        from threadpoolctl import threadpool_limits

        limits = None if bounds is None else Bounds(*bounds)
        # float32 gradients end the usual tests too early or never: the number of steps is the limit.
        options = {
            "maxcor": history,
            "maxiter": steps,
            "maxfun": steps,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxls": 25,
        }
        try:
            # Threads of the linear algebra wait in a busy loop, beside ONNX Runtime's: on vectors this short that
            # costs ten times what it saves.
            with threadpool_limits(limits=1, user_api="blas"):
                minimize(ask, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)
        except _Stop:
            pass
        except BaseException as error:
            asked.put(error)
            return
        asked.put(None)

    worker = threading.Thread(target=search, name="L-BFGS", daemon=True)
    worker.start()
    done = 0
    waiting = False  # whether the worker waits for an answer
    try:
        while True:
            x = asked.get()
            if x is None:
                return
            if isinstance(x, BaseException):
                raise x
            waiting = True
            if done == steps:
                return
            value, gradient = evaluate(x)
            done += 1
            yield x, value
            answers.put((value, gradient))
            waiting = False
    finally:
        if waiting:
            answers.put(None)
        worker.join(timeout=5)
