"""Reading pictures in threads, ahead of whoever uses them, in order and in flat memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from onnxviz.errors import ImageRejected, UsageError
from onnxviz.runtime.pool import Pool

T = TypeVar("T")
P = TypeVar("P")


def decode(
    paths: Iterable[P],
    read: Callable[[P], T] | None = None,
    *,
    workers: int | None = None,
    ahead: int | None = None,
) -> Iterator[tuple[P, T | ImageRejected]]:
    """Read pictures in threads and give them in order: (path, what `read` gave, or why it refused).

    At most `workers` + `ahead` pictures are in memory beside the one that was given last, however many
    paths there are; `paths` may be endless and is taken from only as far as that. Reading starts with the
    first `next` and stops when the generator is closed or dropped; nothing is read after that.

    paths     anything that `read` takes, mostly paths
    read      called in several threads at once; None: `onnxviz.image.io.read`. Put what else is to be done
              with each picture here (preprocessing), so that it runs in the threads too
    workers   number of threads; None: one a core, at most 8 (decoders release Python's lock)
    ahead     how many finished pictures may wait; None: twice `workers`
    raises    UsageError for counts that make no sense; whatever `read` raises other than ImageRejected
    """
    if read is None:
        from onnxviz.image.io import read as read_image

        reader: Callable[[P], Any] = read_image
    else:
        reader = read
    workers = min(8, _cores()) if workers is None else workers
    ahead = 2 * workers if ahead is None else ahead
    if workers < 1 or ahead < 0:
        raise UsageError(f"workers={workers}, ahead={ahead}: expected at least 1 worker and 0 ahead")
    return _decode(iter(paths), reader, workers, ahead)


def _decode(
    paths: Iterator[P], read: Callable[[P], T], workers: int, ahead: int
) -> Iterator[tuple[P, T | ImageRejected]]:
    def attempt(path: P) -> T | ImageRejected:
        try:
            return read(path)
        except ImageRejected as refusal:
            # The tracebacks would keep the decoder's frames, and so the picture's bytes, alive.
            refusal.__cause__ = refusal.__context__ = None
            return refusal.with_traceback(None)

    waiting: deque[tuple[P, Future[T | ImageRejected]]] = deque()
    with Pool(workers, "onnxviz-decode") as pool:
        more = True
        while more or waiting:
            while more and len(waiting) < workers + ahead:
                try:
                    path = next(paths)
                except StopIteration:
                    more = False
                else:
                    waiting.append((path, pool.submit(attempt, path)))
            if waiting:
                # Popped and unpacked in one expression: no name here keeps the picture after it was given.
                yield _result(waiting.popleft())


def _result(item: tuple[P, Future[T | ImageRejected]]) -> tuple[P, T | ImageRejected]:
    return item[0], item[1].result()


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1
